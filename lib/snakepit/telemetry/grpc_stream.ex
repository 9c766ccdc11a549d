defmodule Snakepit.Telemetry.GrpcStream do
  @moduledoc """
  The telemetry streams of all workers, and what each worker is to send.

  A stream belongs to its worker: it is opened when that is ready, opened again when
  it is lost, and its settings end with it. Workers over shared memory have one
  too, of another make.

      :ok = GrpcStream.update_sampling(worker_id, 0.1, ["python.call.*"])
      :ok = GrpcStream.update_filter(worker_id, deny: ["python.memory.*"])
      :ok = GrpcStream.toggle(worker_id, false)

  They return `{:error, :not_found}` for a worker that has no stream. What was sent
  before the worker heard of it still arrives.
  """

  use GenServer

  alias Snakepit.Bridge.TelemetryControl
  alias Snakepit.Telemetry.{Control, WorkerStream}

  @type worker_ctx :: %{
          worker_id: String.t(),
          pool_name: atom,
          python_pid: non_neg_integer | nil
        }

  @typedoc "What a worker is to send: `rates` are of names that match, the last wins."
  @type settings :: %{
          version: integer,
          enabled: boolean,
          rate: float,
          rates: [{String.t(), float}],
          allow: [String.t()],
          deny: [String.t()]
        }

  @doc "Starts it; the application does."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc """
  Opens the stream of a gRPC worker, for as long as the calling process lives. Workers
  of pools do so themselves.
  """
  @spec register_worker(channel :: reference, worker_ctx) :: :ok
  def register_worker(channel, worker_ctx) do
    {:ok, _pid} = WorkerStream.start_link(channel, worker_ctx)
    :ok
  end

  @doc "Closes it."
  @spec unregister_worker(String.t()) :: :ok
  def unregister_worker(worker_id), do: GenServer.call(__MODULE__, {:unregister, worker_id})

  @doc "What each worker is to send."
  @spec list_streams() :: [
          %{
            worker_id: String.t(),
            pool_name: atom,
            python_pid: non_neg_integer | nil,
            carrier: :grpc | :local,
            enabled: boolean,
            sampling_rate: float,
            sampling: [{String.t(), float}],
            allow: [String.t()],
            deny: [String.t()]
          }
        ]
  def list_streams, do: GenServer.call(__MODULE__, :list)

  @doc "Whether a worker sends events."
  @spec toggle(String.t(), boolean) :: :ok | {:error, :not_found}
  def toggle(worker_id, enabled), do: control(worker_id, Control.toggle(enabled))

  @doc """
  Which share of its events a worker sends; with glob patterns, of those whose dotted
  names match. See `Snakepit.Telemetry.Control.sampling/2`.
  """
  @spec update_sampling(String.t(), number, [String.t()]) :: :ok | {:error, :not_found}
  def update_sampling(worker_id, rate, patterns \\ []),
    do: control(worker_id, Control.sampling(rate, patterns))

  @doc "Which events a worker sends: `:allow` and `:deny`, glob patterns."
  @spec update_filter(String.t(), keyword) :: :ok | {:error, :not_found}
  def update_filter(worker_id, opts), do: control(worker_id, Control.filter(opts))

  defp control(worker_id, message),
    do: GenServer.call(__MODULE__, {:control, worker_id, message})

  @doc false
  # The calling process gets {:snakepit_telemetry, settings, message | nil}, now and
  # whenever they change, and :snakepit_telemetry_over when it is to close. It
  # monitors this one and attaches again when that was replaced.
  @spec attach(:grpc | :local, worker_ctx) :: reference
  def attach(carrier, ctx) do
    ref = Process.monitor(__MODULE__)
    GenServer.cast(__MODULE__, {:attach, self(), carrier, ctx})
    ref
  end

  # ---- the process --------------------------------------------------------

  @impl true
  def init(_opts), do: {:ok, %{}}

  @impl true
  def handle_cast({:attach, pid, carrier, ctx}, streams) do
    streams = forget(streams, ctx.worker_id)

    stream = %{
      pid: pid,
      monitor: Process.monitor(pid),
      carrier: carrier,
      ctx: ctx,
      settings: renewed(settings())
    }

    _ = send(pid, {:snakepit_telemetry, stream.settings, nil})
    {:noreply, Map.put(streams, ctx.worker_id, stream)}
  end

  @impl true
  def handle_call(:list, _from, streams), do: {:reply, Enum.map(streams, &shown/1), streams}

  def handle_call({:control, id, message}, _from, streams) when is_map_key(streams, id) do
    stream = streams[id]
    settings = stream.settings |> apply_control(message) |> renewed()
    _ = send(stream.pid, {:snakepit_telemetry, settings, message})
    {:reply, :ok, put_in(streams[id].settings, settings)}
  end

  def handle_call({:control, _id, _message}, _from, streams),
    do: {:reply, {:error, :not_found}, streams}

  def handle_call({:unregister, id}, _from, streams) do
    with %{pid: pid} <- streams[id], do: send(pid, :snakepit_telemetry_over)
    {:reply, :ok, forget(streams, id)}
  end

  @impl true
  def handle_info({:DOWN, ref, :process, _pid, _reason}, streams) do
    gone = for {id, %{monitor: ^ref}} <- streams, do: id
    {:noreply, Map.drop(streams, gone)}
  end

  def handle_info(_other, streams), do: {:noreply, streams}

  defp forget(streams, id) do
    with %{monitor: ref} <- streams[id], do: Process.demonitor(ref, [:flush])
    Map.delete(streams, id)
  end

  defp settings, do: %{version: 0, enabled: true, rate: 1.0, rates: [], allow: [], deny: []}

  # Never one that a worker has heard of, whoever it heard it from.
  defp renewed(settings),
    do: %{settings | version: System.unique_integer([:positive, :monotonic])}

  defp apply_control(settings, %TelemetryControl{control: {:toggle, %{enabled: enabled}}}),
    do: %{settings | enabled: enabled}

  defp apply_control(settings, %TelemetryControl{control: {:filter, filter}}),
    do: %{settings | allow: filter.allow, deny: filter.deny}

  defp apply_control(settings, %TelemetryControl{control: {:sampling, sampling}}) do
    rate = sampling.sampling_rate

    case sampling.event_patterns do
      [] ->
        %{settings | rate: rate, rates: []}

      patterns ->
        kept = Enum.reject(settings.rates, fn {pattern, _} -> pattern in patterns end)
        %{settings | rates: kept ++ Enum.map(patterns, &{&1, rate})}
    end
  end

  defp shown({_id, %{ctx: ctx, carrier: carrier, settings: settings}}) do
    Map.merge(Map.take(ctx, [:worker_id, :pool_name, :python_pid]), %{
      carrier: carrier,
      enabled: settings.enabled,
      sampling_rate: settings.rate,
      sampling: settings.rates,
      allow: settings.allow,
      deny: settings.deny
    })
  end
end
