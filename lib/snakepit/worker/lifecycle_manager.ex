defmodule Snakepit.Worker.LifecycleManager do
  @moduledoc """
  Recycles workers: by age (`worker_ttl`), by requests that they served
  (`worker_max_requests`), by memory (`memory_threshold_mb`), and by hand.

  A worker is replaced like this: another one is started; when that is ready, the
  old one gets nothing new and finishes what it runs, for at most
  `lifecycle_drain_timeout_ms`; then it is stopped. No call fails of it, and the
  pool has never fewer workers than before.

  Age and memory are looked at every `lifecycle_check_interval`; requests are
  counted by the scheduler, which says at once when there were enough. Memory is
  that of the OS process and of what it started (shared pages in part), and of
  its Elixir process.

  Sessions that prefer a recycled worker (`affinity: :hint`) get another; with
  `:strict_queue` and `:strict_fail_fast` their next call is answered
  `:session_worker_unavailable`, as what the worker held for them is gone.

  Every `lifecycle_health_check_interval` each worker is asked whether it answers.
  One that does not, and does not work either, is killed and started again, as
  when its heartbeats fail.
  """

  use GenServer

  alias Snakepit.{Defaults, GRPCWorker, Native, Telemetry}
  alias Snakepit.Pool.ProcessRegistry
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Worker.{LifecycleConfig, Vitals}

  @type reason :: :ttl_expired | :max_requests | :memory_threshold | :manual

  # From here on a worker counts as near to a limit.
  @near 0.9
  # Between the two looks at a worker that does not answer.
  @look_ms 500

  # ---- for users ----------------------------------------------------------

  @doc false
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc """
  Replaces a worker now. Returns when its replacement has taken over: then the
  old one gets no calls any more.

  `pool_name` is that of the worker's pool; `Snakepit.Pool` fits any.
  """
  @spec recycle_worker(atom | pid | String.t(), String.t()) ::
          :ok | {:error, :worker_not_found | :pool_mismatch | term}
  def recycle_worker(pool_name, worker_id) do
    GenServer.call(__MODULE__, {:recycle, pool_name, worker_id}, :infinity)
  catch
    :exit, {:noproc, _} -> {:error, :worker_not_found}
  end

  @doc """
  Counts: `total_workers`, `workers_by_pool`, `total_requests` (served by the
  workers that there are now), `workers_near_ttl`, `workers_near_max_requests`,
  `memory_recycles_by_pool`.
  """
  @spec get_stats() :: map
  def get_stats, do: GenServer.call(__MODULE__, :stats)

  @doc "How often workers of each pool were recycled for their memory."
  @spec memory_recycle_counts() :: %{term => non_neg_integer}
  def memory_recycle_counts, do: GenServer.call(__MODULE__, :memory_recycle_counts)

  @doc """
  Looks after a worker from now on. Snakepit's own workers are tracked from the
  moment that they are ready.
  """
  @spec track_worker(term, String.t(), pid, map | keyword | LifecycleConfig.t()) :: :ok
  def track_worker(pool_name, worker_id, worker_pid, config) when is_pid(worker_pid) do
    # A configuration that is none is its caller's trouble.
    config = LifecycleConfig.ensure(pool_name, config)
    GenServer.cast(__MODULE__, {:track, pool_name, worker_id, worker_pid, config})
  end

  @doc "Forgets a worker."
  @spec untrack_worker(String.t()) :: :ok
  def untrack_worker(worker_id), do: GenServer.cast(__MODULE__, {:untrack, worker_id})

  @doc """
  Counts a request of a worker that does not run its requests through a pool.
  Those of pools are counted by their scheduler.
  """
  @spec increment_request_count(String.t()) :: :ok
  def increment_request_count(worker_id), do: GenServer.cast(__MODULE__, {:count, worker_id})

  # ---- for workers --------------------------------------------------------

  @doc false
  # It has served as many requests as it may.
  @spec served(String.t()) :: :ok
  def served(worker_id), do: GenServer.cast(__MODULE__, {:served, worker_id})

  @doc false
  # It has done all that it had to, and ends now.
  @spec retired(String.t(), pid, term, non_neg_integer) :: :ok
  def retired(worker_id, pid, reason, served),
    do: GenServer.cast(__MODULE__, {:retired, worker_id, pid, reason, served})

  # ---- the process --------------------------------------------------------

  @impl true
  def init(_opts) do
    _ = Process.send_after(self(), :check, Defaults.lifecycle_check_interval())
    _ = Process.send_after(self(), :health, Defaults.lifecycle_health_check_interval())
    {:ok, %{workers: %{}, memory_recycles: %{}}, {:continue, :find_workers}}
  end

  # After a failure there are workers already.
  @impl true
  def handle_continue(:find_workers, state) do
    for id <- Workers.list_workers(),
        {:ok, pid, %{ready: true}} <- [Workers.fetch_worker(id)],
        do: GenServer.cast(pid, :track)

    {:noreply, state}
  end

  @impl true
  def handle_call({:recycle, pool, worker_id}, from, state) do
    case state.workers do
      %{^worker_id => worker} ->
        if fits?(pool, worker.pool),
          do: {:noreply, recycle(state, worker_id, :manual, %{}, from)},
          else: {:reply, {:error, :pool_mismatch}, state}

      _ ->
        {:reply, {:error, :worker_not_found}, state}
    end
  end

  def handle_call(:memory_recycle_counts, _from, state),
    do: {:reply, state.memory_recycles, state}

  def handle_call(:stats, _from, state) do
    workers = Map.new(state.workers, fn {id, w} -> {id, Map.put(w, :served, requests(id, w))} end)
    near = fn test -> Enum.count(workers, fn {_id, worker} -> test.(worker) end) end

    stats = %{
      total_workers: map_size(workers),
      workers_by_pool: Enum.frequencies_by(workers, fn {_id, worker} -> worker.pool end),
      total_requests: workers |> Enum.map(fn {_id, w} -> w.served end) |> Enum.sum(),
      workers_near_ttl: near.(&near?(age_ms(&1) / 1000, &1.config.worker_ttl_seconds)),
      workers_near_max_requests: near.(&near?(&1.served, &1.config.worker_max_requests)),
      memory_recycles_by_pool: state.memory_recycles
    }

    {:reply, stats, state}
  end

  defp fits?(pool, _name) when pool == Snakepit.Pool or is_pid(pool), do: true
  defp fits?(pool, name), do: pool == name or to_string(pool) == to_string(name)

  defp near?(_value, :infinity), do: false
  defp near?(value, limit), do: value >= @near * limit

  @impl true
  def handle_cast({:track, pool, worker_id, pid, config}, state) do
    state = forget(state, worker_id, :worker_died)

    worker = %{
      pool: pool,
      pid: pid,
      monitor: Process.monitor(pid),
      config: config,
      started_at: config.base_worker_config[:started_at] || now(),
      counted: 0,
      # Why it is being replaced, what the event says besides, who waits for it.
      recycling: nil,
      details: %{},
      callers: []
    }

    {:noreply, put_in(state.workers[worker_id], worker)}
  end

  def handle_cast({:untrack, worker_id}, state),
    do: {:noreply, forget(state, worker_id, :worker_not_found)}

  def handle_cast({:count, worker_id}, state) when is_map_key(state.workers, worker_id) do
    state = update_in(state.workers[worker_id].counted, &(&1 + 1))
    {:noreply, check_requests(state, worker_id)}
  end

  def handle_cast({:served, worker_id}, state) when is_map_key(state.workers, worker_id),
    do: {:noreply, check_requests(state, worker_id)}

  def handle_cast({:retired, worker_id, pid, reason, served}, state) do
    case state.workers do
      %{^worker_id => %{pid: ^pid} = worker} ->
        emit_recycled(worker_id, worker, reason, served + worker.counted)
        {:noreply, forget(state, worker_id, :ok)}

      _ ->
        {:noreply, state}
    end
  end

  def handle_cast(_other, state), do: {:noreply, state}

  @impl true
  def handle_info(:check, state) do
    _ = Process.send_after(self(), :check, Defaults.lifecycle_check_interval())
    state = Enum.reduce(Map.keys(state.workers), state, &check_requests(check_age(&2, &1), &1))
    start_memory_check(state)
    {:noreply, state}
  end

  def handle_info({:memory, bytes}, state),
    do: {:noreply, Enum.reduce(bytes, state, &check_memory/2)}

  def handle_info(:health, state) do
    _ = Process.send_after(self(), :health, Defaults.lifecycle_health_check_interval())

    for {id, worker} <- state.workers,
        do: start_task(fn -> check_health(id, worker) end)

    {:noreply, state}
  end

  # The pool's answers.
  def handle_info({:snakepit_replace, worker_id, :done}, state)
      when is_map_key(state.workers, worker_id) do
    worker = state.workers[worker_id]
    state = answer(state, worker_id, :ok)
    {:noreply, count_memory(state, worker)}
  end

  def handle_info({:snakepit_replace, worker_id, {:error, why}}, state)
      when is_map_key(state.workers, worker_id) do
    Snakepit.Logger.warning(:lifecycle, fn ->
      "worker #{worker_id} could not be replaced: #{inspect(why)}; it goes on"
    end)

    state = answer(state, worker_id, {:error, why})
    {:noreply, put_in(state.workers[worker_id].recycling, nil)}
  end

  def handle_info({:DOWN, ref, :process, _pid, reason}, state) do
    case Enum.find(state.workers, fn {_id, worker} -> worker.monitor == ref end) do
      {worker_id, worker} ->
        if not planned?(reason),
          do: emit_recycled(worker_id, worker, :worker_died, worker.counted)

        {:noreply, forget(state, worker_id, {:error, :worker_not_found})}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  # ---- reasons ------------------------------------------------------------

  defp check_age(state, worker_id) do
    worker = state.workers[worker_id]

    # Numbers sort before atoms: nothing is older than :infinity.
    if age_ms(worker) / 1000 >= worker.config.worker_ttl_seconds,
      do: recycle(state, worker_id, :ttl_expired),
      else: state
  end

  defp check_requests(state, worker_id) do
    worker = state.workers[worker_id]
    most = worker.config.worker_max_requests

    if most != :infinity and requests(worker_id, worker) >= most,
      do: recycle(state, worker_id, :max_requests),
      else: state
  end

  # Reading what the kernel says of many processes takes a while.
  defp start_memory_check(state) do
    watched =
      for {id, %{recycling: nil, config: %{memory_threshold_mb: mb}, pid: pid}} <- state.workers,
          mb != nil,
          do: {id, pid, os_pid(id)}

    manager = self()

    if watched != [] do
      start_task(fn ->
        by_process = Vitals.memory(for {_id, _pid, os_pid} <- watched, os_pid, do: os_pid)
        send(manager, {:memory, Map.new(watched, &memory(&1, by_process))})
      end)
    end
  end

  defp memory({id, pid, os_pid}, by_process) do
    own =
      case Process.info(pid, :memory) do
        {:memory, bytes} -> bytes
        nil -> 0
      end

    {id, own + Map.get(by_process, os_pid, 0)}
  end

  defp check_memory({worker_id, bytes}, state) do
    mb = bytes / (1024 * 1024)

    case state.workers do
      %{^worker_id => %{config: %{memory_threshold_mb: most}}} when most != nil and mb >= most ->
        details = %{memory_mb: Float.round(mb, 1), memory_threshold_mb: most}
        recycle(state, worker_id, :memory_threshold, details)

      _ ->
        state
    end
  end

  # ---- recycling ----------------------------------------------------------

  defp recycle(state, worker_id, reason, details \\ %{}, from \\ nil) do
    worker = state.workers[worker_id]
    callers = List.wrap(from) ++ worker.callers

    if worker.recycling == nil do
      :ok = Snakepit.Pool.replace(worker.pool, worker_id, reason, self())
      worker = %{worker | recycling: reason, details: details, callers: callers}
      put_in(state.workers[worker_id], worker)
    else
      put_in(state.workers[worker_id].callers, callers)
    end
  end

  defp answer(state, worker_id, result) do
    for from <- state.workers[worker_id].callers, do: GenServer.reply(from, result)
    put_in(state.workers[worker_id].callers, [])
  end

  defp forget(state, worker_id, result) when is_map_key(state.workers, worker_id) do
    result = if result in [:worker_died, :worker_not_found], do: {:error, result}, else: result
    state = answer(state, worker_id, result)
    {worker, workers} = Map.pop(state.workers, worker_id)
    true = Process.demonitor(worker.monitor, [:flush])
    %{state | workers: workers}
  end

  defp forget(state, _worker_id, _result), do: state

  defp count_memory(state, %{recycling: :memory_threshold, pool: pool}),
    do: update_in(state.memory_recycles[pool], &((&1 || 0) + 1))

  defp count_memory(state, _worker), do: state

  defp emit_recycled(worker_id, worker, reason, served) do
    metadata = %{
      worker_id: worker_id,
      pool: worker.pool,
      reason: reason,
      uptime_seconds: div(age_ms(worker), 1000),
      request_count: served
    }

    measurements = Map.merge(%{count: 1}, Map.take(worker.details, [:memory_mb]))

    Telemetry.execute(
      [:snakepit, :worker, :recycled],
      measurements,
      Map.merge(metadata, worker.details)
    )
  end

  # ---- health -------------------------------------------------------------

  defp check_health(worker_id, worker) do
    timeout = Defaults.grpc_worker_health_check_timeout_ms()

    with :ready <- phase(worker.pid),
         before = Vitals.sample(os_pid(worker_id)),
         {:error, reason} <- worker.config.profile_module.health_check(worker.pid) do
      metadata = %{worker_id: worker_id, pool: worker.pool, reason: reason}
      Telemetry.execute([:snakepit, :worker, :health_check_failed], %{count: 1}, metadata)
      Process.sleep(@look_ms)

      # One that computes will answer when it can.
      if Vitals.activity(before, Vitals.sample(os_pid(worker_id))) == :idle,
        do: GRPCWorker.lost(worker.pid, "it did not answer a health check within #{timeout} ms")
    end
  end

  defp phase(pid) do
    case GRPCWorker.get_info(pid) do
      {:ok, %{phase: phase}} -> phase
      {:error, _} -> :gone
    end
  end

  # ---- small parts --------------------------------------------------------

  defp start_task(fun) do
    {:ok, _pid} = Task.Supervisor.start_child(Snakepit.TaskSupervisor, fun)
    :ok
  end

  defp requests(worker_id, worker) do
    with {:ok, %{slot: slot}} when slot != nil <- Workers.get_worker_metadata(worker_id),
         {:ok, %{served: served}} <- Native.slot_stats(slot) do
      served + worker.counted
    else
      _ -> worker.counted
    end
  end

  defp os_pid(worker_id) do
    case ProcessRegistry.get_worker_info(worker_id) do
      {:ok, %{process_pid: pid}} -> pid
      _ -> nil
    end
  end

  defp age_ms(worker), do: now() - worker.started_at
  defp now, do: System.monotonic_time(:millisecond)

  defp planned?(:normal), do: true
  defp planned?(:shutdown), do: true
  defp planned?({:shutdown, _}), do: true
  defp planned?(_), do: false
end
