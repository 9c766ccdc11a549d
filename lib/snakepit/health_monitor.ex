defmodule Snakepit.HealthMonitor do
  @moduledoc """
  Counts crashes of a pool's workers within a window of time.

      {:ok, monitor} = Snakepit.HealthMonitor.start_link(name: :ml_health, pool: :ml)
      true = Snakepit.HealthMonitor.healthy?(monitor)

  With `max_crashes` or more within the last `crash_window_ms` the pool is not
  healthy; it is again when enough of them are older. Both are logged.

  It counts by itself: each worker of its pool that served and whose OS process then
  ended without being asked to. That Snakepit ended it (it was stopped, replaced,
  not needed any more, or did not respond) is no crash, nor is an end with status 0
  or by SIGTERM. The reason that is kept is the class that `Snakepit.CrashBarrier`
  gives it (`:segfault`, `:abort`, `:oom`, `:gpu`), else how it ended:
  `{:exit_status, n}` or `{:signal, n}`. Neither the crash barrier nor the pool must
  be running for that.

  `record_crash/3` counts one more, of which only the caller knows:

      :ok = Snakepit.HealthMonitor.record_crash(monitor, "ml_worker_1", %{reason: :wrong_results})

  A telemetry handler that runs in the process of a worker and tells of that worker's
  crash does not count it twice.
  """

  use GenServer

  alias Snakepit.Defaults
  alias Snakepit.Pool.Targets

  # Under this key: each monitor's pool and process. It is there without the
  # application; who changes it holds a lock.
  @monitors {__MODULE__, :monitors}

  @type worker_id :: String.t()

  @type worker_stats :: %{
          crash_count: non_neg_integer,
          last_crash_time: integer | nil,
          crash_reasons: [term]
        }

  @type t :: %{
          pool: atom,
          workers: %{worker_id => [{integer, term, pid | nil}]},
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
  @spec start_link(keyword | map) :: GenServer.on_start()
  def start_link(opts) do
    opts = Map.new(opts)
    GenServer.start_link(__MODULE__, settings(opts), name: Map.fetch!(opts, :name))
  end

  # `:clock` is for tests: a function that says the time in ms.
  defp settings(opts) do
    %{
      pool: Map.fetch!(opts, :pool),
      crash_window_ms: number(opts, :crash_window_ms, Defaults.health_monitor_crash_window_ms()),
      max_crashes: number(opts, :max_crashes, Defaults.health_monitor_max_crashes()),
      check_interval_ms:
        number(opts, :check_interval_ms, Defaults.health_monitor_check_interval()),
      clock: Map.get(opts, :clock, &now/0)
    }
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp number(opts, key, default) do
    case Map.get(opts, key, default) do
      n when is_integer(n) and n > 0 ->
        n

      other ->
        raise ArgumentError,
              "Snakepit.HealthMonitor: #{inspect(key)} is a positive integer, " <>
                "not #{inspect(other)}"
    end
  end

  @doc "Supervisor specification; its id is the name."
  @spec child_spec(keyword | map) :: Supervisor.child_spec()
  def child_spec(opts) do
    %{id: Map.get(Map.new(opts), :name, __MODULE__), start: {__MODULE__, :start_link, [opts]}}
  end

  @doc "Counts a crash. Of `info` the `:reason` is kept."
  @spec record_crash(GenServer.server(), worker_id, map | keyword) :: :ok
  def record_crash(server, worker_id, info \\ %{}),
    do: GenServer.cast(server, {:crash, worker_id, Map.new(info), self()})

  @doc false
  # For the process of a worker: its OS process has crashed.
  @spec crashed(atom, worker_id, term) :: :ok
  def crashed(pool, worker_id, reason) do
    for {watched, monitor} <- :persistent_term.get(@monitors, []),
        same?(watched, pool) and Process.alive?(monitor),
        do: GenServer.cast(monitor, {:crashed, worker_id, %{reason: reason}, self()})

    :ok
  end

  # It may be named as for a call.
  defp same?(pool, pool), do: true
  defp same?(watched, pool), do: match?({:ok, %{name: ^pool}}, Targets.find(watched))

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
    :ok = :global.trans({@monitors, self()}, fn -> listed(settings.pool) end, [node()])
    none = %{workers: %{}, total_crashes: 0, unhealthy?: false, check_timer: nil}
    {:ok, schedule(Map.merge(settings, none))}
  end

  defp listed(pool) do
    there =
      for {_, pid} = known <- :persistent_term.get(@monitors, []), Process.alive?(pid), do: known

    :persistent_term.put(@monitors, [{pool, self()} | there])
  end

  # `from` told of it. The process of a worker ends with its OS process.
  @impl true
  def handle_cast({:crash, worker_id, info, from}, state) do
    known = Map.get(state.workers, worker_id, [])
    told? = Enum.any?(known, &match?({_time, _reason, ^from}, &1))
    {:noreply, if(told?, do: state, else: counted(state, worker_id, info, nil))}
  end

  def handle_cast({:crashed, worker_id, info, from}, state),
    do: {:noreply, counted(state, worker_id, info, from)}

  defp counted(state, worker_id, info, worker) do
    crash = {state.clock.(), Map.get(info, :reason, :unknown), worker}
    workers = Map.update(state.workers, worker_id, [crash], &[crash | &1])
    pruned(%{state | workers: workers, total_crashes: state.total_crashes + 1})
  end

  @impl true
  def handle_call(:stats, _from, state) do
    state = pruned(state)
    workers = Map.new(state.workers, fn {id, crashes} -> {id, worker(crashes, state)} end)

    stats = %{
      pool: state.pool,
      crash_window_ms: state.crash_window_ms,
      max_crashes: state.max_crashes,
      check_interval_ms: state.check_interval_ms,
      total_crashes: state.total_crashes,
      crashes_in_window: count(state),
      healthy: not state.unhealthy?,
      workers: workers
    }

    {:reply, stats, state}
  end

  @impl true
  def handle_info(:check, state), do: {:noreply, state |> pruned() |> schedule()}
  def handle_info(_other, state), do: {:noreply, state}

  defp worker([{last, _, _} | _] = crashes, state) do
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
          recent = Enum.take_while(crashes, fn {time, _, _} -> time > since end),
          recent != [],
          into: %{},
          do: {id, recent}

    judged(%{state | workers: workers})
  end

  defp count(state),
    do: Enum.reduce(state.workers, 0, fn {_id, crashes}, sum -> sum + length(crashes) end)

  defp judged(%{unhealthy?: before} = state) do
    count = count(state)
    unhealthy? = count >= state.max_crashes
    if unhealthy? != before, do: say(unhealthy?, count, state)
    %{state | unhealthy?: unhealthy?}
  end

  defp say(true, count, state) do
    Snakepit.Logger.warning(:pool, fn ->
      "pool #{inspect(state.pool)} is not healthy: #{count} crashes of its workers " <>
        "within #{state.crash_window_ms} ms"
    end)
  end

  # Whoever saw the warning is to see its end.
  defp say(false, _count, state),
    do: Snakepit.Logger.warning(:pool, fn -> "pool #{inspect(state.pool)} is healthy again" end)

  defp schedule(state),
    do: %{state | check_timer: Process.send_after(self(), :check, state.check_interval_ms)}
end
