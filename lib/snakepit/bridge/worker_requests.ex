defmodule Snakepit.Bridge.WorkerRequests do
  @moduledoc false
  # Serves what one local worker asks of the BEAM, each request in a process of
  # its own. It belongs to the worker's process and ends with the connection;
  # what still runs then is told to exit.

  use GenServer, restart: :temporary

  alias Snakepit.GRPC.BridgeServer
  alias Snakepit.Native
  alias Snakepit.Telemetry.LocalStream

  require LocalStream

  # Under way at a time; the worker is told when it asks for more.
  @max 1_000

  @internal 13

  @type worker :: %{id: String.t(), pool: atom, os_pid: non_neg_integer | nil}

  @doc "For a link whose worker has come."
  @spec start_link(link :: reference, worker) :: GenServer.on_start()
  def start_link(link, worker), do: GenServer.start_link(__MODULE__, {link, worker})

  @doc false
  @spec max() :: pos_integer
  def max, do: @max

  @impl true
  def init({link, worker}) do
    _ = Process.flag(:trap_exit, true)
    :ok = Native.local_serve(link, self(), @max)
    ctx = %{worker_id: worker.id, pool_name: worker.pool, python_pid: worker.os_pid}
    stream = LocalStream.new(ctx)
    {:ok, %{context: %{worker: worker}, processes: %{}, requests: %{}, telemetry: stream}}
  end

  @impl true
  def handle_info({:snakepit_request, request, LocalStream.method(), bytes}, state) do
    case LocalStream.request(state.telemetry, request, bytes) do
      {:run, fun} -> {:noreply, run(state, request, fun)}
      stream -> {:noreply, %{state | telemetry: stream}}
    end
  end

  def handle_info({:snakepit_request, request, method, bytes}, state) do
    context = Map.put(state.context, :request, request)
    {:noreply, run(state, request, fn -> serve(request, method, bytes, context) end)}
  end

  def handle_info({:snakepit_request_cancelled, request}, state) do
    with %{^request => pid} <- state.processes, do: cancel(pid)
    {:noreply, %{state | telemetry: LocalStream.cancelled(state.telemetry, request)}}
  end

  def handle_info({:EXIT, pid, reason}, state) when is_map_key(state.requests, pid) do
    {request, requests} = Map.pop!(state.requests, pid)

    # Who has answered has answered: then this is refused.
    _ = Native.request_reply(request, @internal, "the call's process died: #{text(reason)}")

    {:noreply, %{state | requests: requests, processes: Map.delete(state.processes, request)}}
  end

  def handle_info(:snakepit_requests_closed, state), do: {:stop, :normal, state}

  def handle_info(other, state) do
    case LocalStream.handle(state.telemetry, other) do
      {:ok, stream} -> {:noreply, %{state | telemetry: stream}}
      :other -> {:noreply, state}
    end
  end

  @impl true
  def terminate(_reason, state), do: Enum.each(Map.keys(state.requests), &cancel/1)

  defp run(state, request, fun) do
    pid = :erlang.spawn_opt(fun, [:link])

    %{
      state
      | processes: Map.put(state.processes, request, pid),
        requests: Map.put(state.requests, pid, request)
    }
  end

  # As it is when a gRPC client gives up.
  defp cancel(pid), do: Process.exit(pid, {:shutdown, :rpc_cancelled})

  defp serve(request, method, bytes, context) do
    case BridgeServer.handle(method, bytes, context) do
      {:ok, reply} -> Native.request_reply(request, 0, reply)
      {:error, status, text} -> Native.request_reply(request, status, text)
    end
  end

  defp text({:shutdown, reason}), do: text(reason)
  defp text({%{__exception__: true} = error, _stack}), do: inspect(error.__struct__)
  defp text(reason), do: inspect(reason, limit: 10, printable_limit: 200)
end
