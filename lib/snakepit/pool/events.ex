defmodule Snakepit.Pool.Events do
  @moduledoc false
  # What the world is told of pools.

  alias Snakepit.{Native, Telemetry}
  alias Snakepit.Pool.{Restarts, Roster, Targets}

  @type pools :: %{atom => Roster.t()}

  @spec init_started(pools) :: :ok
  def init_started(pools) do
    total = pools |> Enum.map(fn {_name, roster} -> roster.size end) |> Enum.sum()
    Telemetry.execute([:snakepit, :pool, :init_started], %{total_workers: total, count: 1})
  end

  @spec init_complete(pools, non_neg_integer) :: :ok
  def init_complete(pools, took_ms) do
    workers = Map.new(pools, fn {name, roster} -> {name, ready(roster)} end)

    for {name, count} <- workers do
      Telemetry.execute(
        [:snakepit, :pool, :initialized],
        %{worker_count: count, count: 1},
        %{pool_name: name}
      )
    end

    total = workers |> Map.values() |> Enum.sum()

    Telemetry.execute(
      [:snakepit, :pool, :init_complete],
      %{duration_ms: took_ms, total_workers: total, count: 1},
      %{pool_workers: workers}
    )
  end

  @doc "How all pools are, for whoever wants to know now and then."
  @spec status() :: :ok
  def status do
    event = [:snakepit, :pool, :status]
    if Telemetry.attached?(event), do: Enum.each(Targets.all(), &status(event, &1)), else: :ok
  end

  defp status(event, target) do
    stats = Native.pool_stats(target.handle)
    segments = Native.pool_segments(target.handle)

    Telemetry.execute(
      event,
      %{
        queue_depth: stats.queued,
        total_workers: stats.slots,
        available_workers: stats.slots_available,
        busy_workers: stats.slots_busy,
        segments_sent: segments.sent,
        segments_received: segments.received,
        segments_missing: segments.inline
      },
      %{node: node(), pool_name: target.name}
    )
  end

  @doc "A worker is there again, of the same id, in place of a process that ended."
  @spec restarted(atom, String.t(), pid, Restarts.lost()) :: :ok
  def restarted(pool, id, pid, lost) do
    Telemetry.execute(
      [:snakepit, :pool, :worker, :restarted],
      %{restart_count: lost.count, downtime: System.monotonic_time() - lost.at},
      %{
        node: node(),
        pool_name: pool,
        worker_id: id,
        worker_pid: pid,
        previous_pid: lost.pid,
        reason: lost.reason
      }
    )
  end

  @doc "To be called before it is noted."
  @spec worker_ready(Roster.t(), String.t()) :: :ok
  def worker_ready(roster, id) do
    Telemetry.execute(
      [:snakepit, :pool, :worker_ready],
      %{worker_count: ready(roster) + 1, count: 1},
      %{pool_name: roster.name, worker_id: id}
    )
  end

  @doc "A call was refused, as the queue is full. In its caller."
  @spec saturated(Snakepit.Pool.Call.target()) :: :ok
  def saturated(target) do
    event = [:snakepit, :pool, :saturated]

    if Telemetry.attached?(event) do
      stats = Native.pool_stats(target.handle)

      Telemetry.execute(
        event,
        %{queue_size: stats.queued, max_queue_size: target.max_queue},
        %{
          pool: target.name,
          available_workers: stats.slots_available,
          busy_workers: stats.slots_busy
        }
      )
    end

    :ok
  end

  @doc "A session has the worker from now on that it is to come back to."
  @spec assigned(atom, String.t(), String.t()) :: :ok
  def assigned(pool, session_id, worker_id) do
    Telemetry.execute(
      [:snakepit, :session, :affinity, :assigned],
      %{system_time: System.system_time()},
      %{pool_name: pool, session_id: session_id, worker_id: worker_id}
    )
  end

  @spec resized(atom, pos_integer, pos_integer, :queueing | :idle | :manual) :: :ok
  def resized(name, before, size, reason) do
    Snakepit.Logger.info(:pool, fn ->
      "pool #{inspect(name)} has #{size} workers from now on, not #{before} (#{reason})"
    end)

    Telemetry.execute(
      [:snakepit, :pool, :resized],
      %{size: size, previous: before, count: 1},
      %{pool: name, reason: reason}
    )
  end

  defp ready(roster), do: length(Roster.in_state(roster, :ready))
end
