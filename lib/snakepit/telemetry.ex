defmodule Snakepit.Telemetry do
  @moduledoc """
  Events of pools, workers and sessions, and handlers for them.

  The functions are those of the package `telemetry`. Where that is installed
  they call it, so that handlers attached with `:telemetry.attach/4` get the
  events; where not, Snakepit's own dispatcher does the same.

      :ok =
        Snakepit.Telemetry.attach(
          "log-recycling",
          [:snakepit, :worker, :recycled],
          fn _event, _measurements, %{worker_id: id, reason: reason}, _config ->
            IO.puts("\#{id} was replaced: \#{reason}")
          end,
          nil
        )

  `events/0` are all events; guides/telemetry.md is the table of their measurements
  and metadata. What is told of calls is made only while somebody listens to it.
  """

  alias Snakepit.Telemetry.{Catalog, DefaultHandlers, Dispatcher}

  @type event_name :: [atom, ...]
  @type handler_id :: term
  @type handler_function :: (event_name, map, map, term -> any)

  # ---- the catalogue ------------------------------------------------------

  @doc "All events: those of the groups that follow."
  @spec events() :: [event_name]
  def events, do: Enum.map(Catalog.entries(), & &1.event)

  @doc "Pools, their workers, their queues, and calls as pools see them."
  @spec pool_events() :: [event_name]
  def pool_events, do: Catalog.events(:pool)

  @doc "Calls on their workers, over either carrier; and what is gRPC's own."
  @spec grpc_events() :: [event_name]
  def grpc_events, do: Catalog.events(:grpc)

  @doc "Sessions."
  @spec session_events() :: [event_name]
  def session_events, do: Catalog.events(:session)

  @doc "Programs that are kept in sessions."
  @spec program_events() :: [event_name]
  def program_events, do: Catalog.events(:program)

  @doc "Heartbeats."
  @spec heartbeat_events() :: [event_name]
  def heartbeat_events, do: Catalog.events(:heartbeat)

  @doc "Crashes, retries, circuit breakers, and errors that were recognised."
  @spec runtime_events() :: [event_name]
  def runtime_events, do: Catalog.events(:runtime)

  @doc "Events that come from workers."
  @spec python_events() :: [event_name]
  def python_events, do: Catalog.events(:python)

  @doc "Scripts that end: see `Snakepit.run_as_script/2`."
  @spec script_events() :: [event_name]
  def script_events, do: Catalog.events(:script)

  @doc """
  Attaches handlers that log every event at level debug (failures as warnings), in
  the category `:telemetry`. Also when they are there already.
  """
  @spec attach_handlers() :: :ok
  def attach_handlers, do: DefaultHandlers.attach(:all, events())

  @doc "The same for heartbeats only."
  @spec attach_heartbeat_handlers() :: :ok
  def attach_heartbeat_handlers, do: DefaultHandlers.attach(:heartbeat, heartbeat_events())

  @doc "The same for programs only."
  @spec attach_program_handlers() :: :ok
  def attach_program_handlers, do: DefaultHandlers.attach(:program, program_events())

  @doc "The same for sessions only."
  @spec attach_session_handlers() :: :ok
  def attach_session_handlers, do: DefaultHandlers.attach(:session, session_events())

  # ---- handlers -----------------------------------------------------------

  @doc """
  Calls the handlers of an event, in this process.

  Without a handler this costs about as much as reading a map.
  """
  @spec execute(event_name, map, map) :: :ok
  def execute(event, measurements, metadata \\ %{})
      when is_list(event) and is_map(measurements) and is_map(metadata) do
    case :persistent_term.get(Dispatcher, nil) do
      %{^event => _} -> Dispatcher.execute(event, measurements, metadata)
      table when is_map(table) -> :ok
      nil -> first(event, measurements, metadata)
      telemetry -> telemetry.execute(event, measurements, metadata)
    end
  end

  # Which of the two it is has to be found out.
  defp first(event, measurements, metadata) do
    case Dispatcher.backend() do
      nil -> Dispatcher.execute(event, measurements, metadata)
      telemetry -> telemetry.execute(event, measurements, metadata)
    end
  end

  @doc "Whether anybody listens to an event: for those that cost something to make."
  @spec attached?(event_name) :: boolean
  def attached?(event) do
    case Dispatcher.backend() do
      nil -> Dispatcher.handlers(event) != []
      :telemetry -> Dispatcher.listened?(event)
    end
  end

  @doc false
  # What is told of calls is only made when somebody listens to any of it: then bit 0
  # is set, and bit 1 when it is to that they start, 2 to Python's calls, 3 to its
  # tools, 4 to what has their correlation ids.
  @spec calls() :: 0..31
  defdelegate calls, to: Dispatcher

  @doc """
  Attaches a handler to an event. A handler that raises is detached.

      iex> Snakepit.Telemetry.attach("doc", [:doc, :event], fn _, _, _, _ -> :ok end, nil)
      :ok
      iex> Snakepit.Telemetry.attach("doc", [:doc, :event], fn _, _, _, _ -> :ok end, nil)
      {:error, :already_exists}
      iex> Snakepit.Telemetry.detach("doc")
      :ok
  """
  @spec attach(handler_id, event_name, handler_function, term) :: :ok | {:error, :already_exists}
  def attach(id, event, function, config), do: attach_many(id, [event], function, config)

  @doc "Attaches one handler to several events."
  @spec attach_many(handler_id, [event_name], handler_function, term) ::
          :ok | {:error, :already_exists}
  def attach_many(id, events, function, config)
      when is_list(events) and is_function(function, 4) do
    case Dispatcher.backend() do
      nil -> Dispatcher.attach_many(id, events, function, config)
      telemetry -> telemetry.attach_many(id, events, function, config)
    end
  end

  @doc "Removes a handler from all its events."
  @spec detach(handler_id) :: :ok | {:error, :not_found}
  def detach(id) do
    case Dispatcher.backend() do
      nil -> Dispatcher.detach(id)
      telemetry -> telemetry.detach(id)
    end
  end

  @doc "The handlers of the events that begin with `prefix`, `[]` for all."
  @spec list_handlers([atom]) :: [
          %{
            id: handler_id,
            event_name: event_name,
            function: handler_function,
            config: term
          }
        ]
  def list_handlers(prefix) when is_list(prefix) do
    case Dispatcher.backend() do
      nil -> Dispatcher.list_handlers(prefix)
      telemetry -> telemetry.list_handlers(prefix)
    end
  end
end
