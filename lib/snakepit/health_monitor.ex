defmodule Snakepit.HealthMonitor do
  @moduledoc """
  Counts crashes of a pool's workers within a window of time.

      {:ok, monitor} = Snakepit.HealthMonitor.start_link(name: :ml_health, pool: :ml)
      :ok = Snakepit.HealthMonitor.record_crash(monitor, "ml_worker_1", %{reason: :segfault})
      true = Snakepit.HealthMonitor.healthy?(monitor)

  With `max_crashes` or more within the last `crash_window_ms` the pool is not
  healthy; it is again when enough of them are older. It counts what it is told:
  `guides/faults.md` shows how to tell it of each worker that dies.
  """

  use GenServer

  alias Snakepit.Defaults

  @type worker_id :: String.t()

  @type worker_stats :: %{
          crash_count: non_neg_integer,
          last_crash_time: integer | nil,
          crash_reasons: [term]
        }

  @type t :: %{
          pool: atom,
          workers: %{worker_id => [{integer, term}]},
          crash_window_ms: pos_integer,
          max_crashes: pos_integer,
          total_crashes: non_neg_integer,
          check_interval_ms: pos_integer,
          check_timer: reference | nil
        }

  @doc """
  Starts one. `:name` and `:pool` must be given; `:check_interval_ms` (30 000: how
  often old crashes are forgotten), `:crash_window_ms` (60 000), `:max_crashes` (10)
  come from the configuration (`health_monitor_*`) otherwise.
  """
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts) do
    name = Keyword.fetch!(opts, :name)
    GenServer.start_link(__MODULE__, settings(opts), name: name)
  end

  # `:clock` is for tests: a function that says the time in ms.
  defp settings(opts) do
    %{
      pool: Keyword.fetch!(opts, :pool),
      crash_window_ms: number(opts, :crash_window_ms, Defaults.health_monitor_crash_window_ms()),
      max_crashes: number(opts, :max_crashes, Defaults.health_monitor_max_crashes()),
      check_interval_ms:
        number(opts, :check_interval_ms, Defaults.health_monitor_check_interval()),
      clock: Keyword.get(opts, :clock, &now/0)
    }
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp number(opts, key, default) do
    case Keyword.get(opts, key, default) do
      n when is_integer(n) and n > 0 ->
        n

      other ->
        raise ArgumentError,
              "Snakepit.HealthMonitor: #{inspect(key)} is a positive integer, " <>
                "not #{inspect(other)}"
    end
  end

  @doc "Supervisor specification; its id is the name."
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts) do
    %{id: Keyword.get(opts, :name, __MODULE__), start: {__MODULE__, :start_link, [opts]}}
  end

  @doc "Counts a crash. Of `info` the `:reason` is kept."
  @spec record_crash(GenServer.server(), worker_id, map | keyword) :: :ok
  def record_crash(server, worker_id, info \\ %{}),
    do: GenServer.cast(server, {:crash, worker_id, Map.new(info)})

  @doc "Whether there were fewer than `max_crashes` within the window."
  @spec healthy?(GenServer.server()) :: boolean
  def healthy?(server), do: stats(server).healthy

  @doc """
  The pool's settings and counts: `total_crashes` since the start,
  `crashes_in_window`, `healthy`, and `workers`, each as in `worker_health/2`.
  """
  @spec stats(GenServer.server()) :: map
  def stats(server), do: GenServer.call(server, :stats)

  @doc "The crashes of one worker within the window, times in monotonic ms, newest first."
  @spec worker_health(GenServer.server(), worker_id) :: %{
          healthy: boolean,
          crash_count: non_neg_integer,
          last_crash_time: integer | nil,
          crash_reasons: [term]
        }
  def worker_health(server, worker_id) do
    none = %{healthy: true, crash_count: 0, last_crash_time: nil, crash_reasons: []}
    Map.get(stats(server).workers, worker_id, none)
  end

  # ---- the process --------------------------------------------------------

  @impl true
  def init(settings) do
    {:ok, schedule(Map.merge(settings, %{workers: %{}, total_crashes: 0, check_timer: nil}))}
  end

  @impl true
  def handle_cast({:crash, worker_id, info}, state) do
    crash = {state.clock.(), Map.get(info, :reason, :unknown)}
    workers = Map.update(state.workers, worker_id, [crash], &[crash | &1])
    {:noreply, %{state | workers: workers, total_crashes: state.total_crashes + 1}}
  end

  @impl true
  def handle_call(:stats, _from, state) do
    state = pruned(state)
    workers = Map.new(state.workers, fn {id, crashes} -> {id, worker(crashes, state)} end)
    count = Enum.reduce(workers, 0, fn {_id, worker}, sum -> sum + worker.crash_count end)

    stats = %{
      pool: state.pool,
      crash_window_ms: state.crash_window_ms,
      max_crashes: state.max_crashes,
      check_interval_ms: state.check_interval_ms,
      total_crashes: state.total_crashes,
      crashes_in_window: count,
      healthy: count < state.max_crashes,
      workers: workers
    }

    {:reply, stats, state}
  end

  @impl true
  def handle_info(:check, state), do: {:noreply, state |> pruned() |> schedule()}
  def handle_info(_other, state), do: {:noreply, state}

  defp worker([{last, _} | _] = crashes, state) do
    %{
      healthy: length(crashes) < state.max_crashes,
      crash_count: length(crashes),
      last_crash_time: last,
      crash_reasons: Enum.map(crashes, &elem(&1, 1))
    }
  end

  # Nothing is kept that does not count.
  defp pruned(state) do
    since = state.clock.() - state.crash_window_ms

    workers =
      for {id, crashes} <- state.workers,
          recent = Enum.take_while(crashes, fn {time, _} -> time > since end),
          recent != [],
          into: %{},
          do: {id, recent}

    %{state | workers: workers}
  end

  defp schedule(state),
    do: %{state | check_timer: Process.send_after(self(), :check, state.check_interval_ms)}
end
