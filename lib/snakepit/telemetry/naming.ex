defmodule Snakepit.Telemetry.Naming do
  @moduledoc """
  The names that there are: events, and the keys of measurements that workers may
  use. What a worker sends is looked up here; it never becomes an atom otherwise.

  Events of one's own are let through by naming them:

      config :snakepit,
        telemetry_events: [
          [:my_app, :model, :loaded],
          {[:my_app, :training, :step], measurements: [:loss], metadata: [:epoch]}
        ]

  `emit("my_app.training.step", {"loss": 0.5}, {"epoch": "3"})` in Python is then
  that event. Keys that are not named stay texts.
  """

  alias Snakepit.Telemetry.Catalog

  @measurements [
    :affinity_duration,
    :available_workers,
    :busy_workers,
    :bytes,
    :call_count,
    :collected,
    :command_count,
    :commands_with_affinity,
    :count,
    :cpu_percent,
    :downtime,
    :duration,
    :duration_ms,
    :first_seen,
    :generation,
    :latency_ms,
    :lifetime,
    :message_count,
    :message_size,
    :network_time,
    :python_pid,
    :queue_depth,
    :queue_time,
    :request_size,
    :response_size,
    :restart_count,
    :retry_count,
    :rss_bytes,
    :sequence_number,
    :system_time,
    :total_commands,
    :total_workers,
    :uptime,
    :vms_bytes,
    :worker_count
  ]

  @by_text Map.new(@measurements, &{Atom.to_string(&1), &1})

  # How Python names them: without `snakepit.python`, but what the bridge itself
  # says of its serialization.
  @python (for event <- Catalog.events(:python), into: %{} do
             [:snakepit, :python | rest] = event

             name =
               case rest do
                 [:serialization | _] -> [:snakepit | rest]
                 [:tool | _] -> rest
                 _ -> [:python | rest]
               end

             {Enum.join(name, "."), event}
           end)

  @type event :: [atom, ...]

  @doc """
  An event of a component.

      iex> Snakepit.Telemetry.Naming.event(:pool, :worker, :spawned)
      [:snakepit, :pool, :worker, :spawned]
  """
  @spec event(atom, atom, atom) :: event
  def event(component, resource, action)
      when is_atom(component) and is_atom(resource) and is_atom(action),
      do: [:snakepit, component, resource, action]

  @doc "`[:snakepit, :pool, name]`"
  @spec pool_event(atom) :: event
  def pool_event(name) when is_atom(name), do: [:snakepit, :pool, name]

  @doc "`[:snakepit, :session, action]`"
  @spec session_event(atom) :: event
  def session_event(action) when is_atom(action), do: [:snakepit, :session, action]

  @doc """
  An event of calls, streams and connections over gRPC.

      iex> Snakepit.Telemetry.Naming.grpc_event(:call, :start)
      [:snakepit, :grpc, :call, :start]
  """
  @spec grpc_event(atom, atom) :: event
  def grpc_event(resource, action), do: event(:grpc, resource, action)

  @doc """
  The event that Python calls so, or `[:snakepit, :python, action]`.

      iex> Snakepit.Telemetry.Naming.python_event("call.start")
      [:snakepit, :python, :call, :start]
  """
  @spec python_event(atom | String.t()) :: event
  def python_event(action) when is_atom(action), do: [:snakepit, :python, action]

  def python_event(action) when is_binary(action) do
    case @python do
      %{^action => event} -> event
      _ -> Map.fetch!(@python, "python." <> action)
    end
  end

  @doc "The events of pools."
  @spec pool_events() :: [event]
  def pool_events, do: Catalog.events(:pool)

  @doc "The events of sessions."
  @spec session_events() :: [event]
  def session_events, do: Catalog.events(:session)

  @doc "The events of calls on workers, and of gRPC."
  @spec grpc_events() :: [event]
  def grpc_events, do: Catalog.events(:grpc)

  @doc "The events that come from workers."
  @spec python_events() :: [event]
  def python_events, do: Catalog.events(:python)

  @doc "What Python calls each of them, and the measurements that are expected."
  @spec python_event_catalog() :: %{String.t() => %{event: event, measurements: [atom]}}
  def python_event_catalog do
    Map.new(@python, fn {name, event} ->
      {:ok, %{measurements: measurements}} = Catalog.fetch(event)
      {name, %{event: event, measurements: Keyword.keys(measurements)}}
    end)
  end

  @doc """
  The event of a worker that has these parts.

      iex> Snakepit.Telemetry.Naming.from_parts(["python", "call", "start"])
      {:ok, [:snakepit, :python, :call, :start]}
      iex> Snakepit.Telemetry.Naming.from_parts(["unknown", "event"])
      {:error, :unknown_event}
  """
  @spec from_parts([String.t()]) :: {:ok, event} | {:error, :unknown_event}
  def from_parts(parts) when is_list(parts) do
    with true <- Enum.all?(parts, &is_binary/1),
         {:ok, event, _own} <- resolve(Enum.join(parts, ".")) do
      {:ok, event}
    else
      _ -> {:error, :unknown_event}
    end
  end

  @doc false
  # With the keys that the configuration names for it.
  @spec resolve(String.t()) :: {:ok, event, keyword} | {:error, :unknown_event}
  def resolve(name) do
    case @python do
      %{^name => event} -> {:ok, event, []}
      _ -> own(name)
    end
  end

  defp own(name) do
    Enum.find_value(configured(), {:error, :unknown_event}, fn {event, keys} ->
      if Enum.join(event, ".") == name, do: {:ok, event, keys}
    end)
  end

  @doc false
  # The events of the user's own.
  @spec configured() :: [{event, keyword}]
  def configured do
    for entry <- Application.get_env(:snakepit, :telemetry_events) || [] do
      case entry do
        {event, keys} -> {event, keys}
        event -> {event, []}
      end
    end
  end

  @doc false
  @spec valid_config?(term) :: boolean
  def valid_config?(value) do
    is_list(value) and
      Enum.all?(value, fn
        {event, keys} -> atoms?(event) and Keyword.keyword?(keys) and Enum.all?(keys, &keys?/1)
        event -> atoms?(event)
      end)
  end

  defp keys?({kind, keys}), do: kind in [:measurements, :metadata] and atoms?(keys)
  defp atoms?(list), do: is_list(list) and list != [] and Enum.all?(list, &is_atom/1)

  @doc "The keys of measurements that workers may use."
  @spec measurement_keys() :: [atom]
  def measurement_keys, do: @measurements

  @doc """
      iex> Snakepit.Telemetry.Naming.measurement_key("duration")
      {:ok, :duration}
      iex> Snakepit.Telemetry.Naming.measurement_key("colour")
      {:error, :unknown_measurement_key}
  """
  @spec measurement_key(String.t() | atom) :: {:ok, atom} | {:error, :unknown_measurement_key}
  def measurement_key(key) when is_atom(key) do
    if key in @measurements, do: {:ok, key}, else: {:error, :unknown_measurement_key}
  end

  def measurement_key(key) do
    case @by_text do
      %{^key => atom} -> {:ok, atom}
      _ -> {:error, :unknown_measurement_key}
    end
  end

  @doc false
  @spec known_measurements() :: %{String.t() => atom}
  def known_measurements, do: @by_text
end
