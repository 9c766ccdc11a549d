defmodule Snakepit.GRPCWorker.Events do
  @moduledoc false
  # What the world is told of the life of a pool's worker.

  alias Snakepit.GRPCWorker.State
  alias Snakepit.Telemetry

  @spec spawn_started(State.t()) :: :ok
  def spawn_started(%{pool: nil}), do: :ok

  def spawn_started(state) do
    Telemetry.execute(
      [:snakepit, :pool, :worker, :spawn_started],
      %{system_time: System.system_time()},
      about(state)
    )
  end

  @spec spawn_failed(State.t(), String.t(), term) :: :ok
  def spawn_failed(%{pool: nil}, _message, _cause), do: :ok

  def spawn_failed(state, message, cause) do
    took = System.monotonic_time(:millisecond) - state.started_at

    Telemetry.execute(
      [:snakepit, :pool, :worker, :spawn_failed],
      %{duration: native(took)},
      Map.merge(about(state), %{reason: cause, error_message: message})
    )
  end

  @spec spawned(State.t(), non_neg_integer) :: :ok
  def spawned(%{pool: nil}, _took_ms), do: :ok

  def spawned(state, took_ms) do
    Telemetry.execute(
      [:snakepit, :pool, :worker, :spawned],
      %{duration: native(took_ms), system_time: System.system_time()},
      Map.merge(about(state), %{
        python_port: state.port,
        python_pid: state.os_pid,
        mode: state.config[:worker_profile] || :process
      })
    )

    Telemetry.execute(
      [:snakepit, :worker, :initialized],
      %{initialization_time: took_ms / 1000},
      %{worker_id: state.id, pool: state.pool}
    )
  end

  @doc "Only of workers that were there."
  @spec terminated(State.t(), non_neg_integer, term, boolean) :: :ok
  def terminated(%{phase: phase, pool: pool} = state, served, reason, planned?)
      when phase in [:ready, :retiring, :lost] and pool != nil do
    lifetime = System.monotonic_time(:millisecond) - state.started_at

    Telemetry.execute(
      [:snakepit, :pool, :worker, :terminated],
      %{lifetime: native(lifetime), total_commands: served},
      Map.merge(about(state), %{reason: reason, planned: planned?})
    )
  end

  def terminated(_state, _served, _reason, _planned?), do: :ok

  @doc "Of a gRPC worker of a pool: it has answered, or has a channel again."
  @spec connected(State.t(), :established | :reconnected) :: State.t()
  def connected(%{local: local, pool: pool} = state, _what) when local != nil or pool == nil,
    do: state

  def connected(state, what) do
    Telemetry.execute(
      [:snakepit, :grpc, :connection, what],
      %{system_time: System.system_time()},
      Map.put(about(state), :python_port, state.port)
    )

    %{state | connected_at: System.monotonic_time()}
  end

  @doc "The same worker is over, and nobody wanted that."
  @spec disconnected(State.t(), term, boolean) :: :ok
  def disconnected(%{connected_at: at} = state, reason, false) when at != nil do
    Telemetry.execute(
      [:snakepit, :grpc, :connection, :lost],
      %{uptime: System.monotonic_time() - at},
      Map.merge(about(state), %{python_port: state.port, reason: reason})
    )
  end

  def disconnected(_state, _reason, _planned?), do: :ok

  @spec full(State.t(), non_neg_integer) :: :ok
  def full(state, capacity) do
    Telemetry.execute(
      [:snakepit, :pool, :capacity_reached],
      %{capacity: capacity, load: capacity},
      %{
        worker_pid: self(),
        worker_id: state.id,
        pool: state.pool,
        profile: state.config[:worker_profile]
      }
    )
  end

  defp about(state),
    do: %{node: node(), pool_name: state.pool, worker_id: state.id, worker_pid: self()}

  defp native(ms), do: System.convert_time_unit(ms, :millisecond, :native)
end
