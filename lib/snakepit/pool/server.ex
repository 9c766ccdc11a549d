defmodule Snakepit.Pool.Server do
  @moduledoc false
  # The process of `Snakepit.Pool`: starts the workers of all pools, replaces those
  # that are missing, and has pools grow and shrink.

  use GenServer

  alias Snakepit.Bridge.SessionStore
  alias Snakepit.{Config, Defaults, Error, GRPCWorker, Native}
  alias Snakepit.Pool.{Call, Changes, Elastic, Events, Restarts, Roster, Targets, Turnover}
  alias Snakepit.Pool.Waiters
  alias Snakepit.Pool.WorkerSupervisor
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Pool.Worker.StarterRegistry
  alias Snakepit.ZeroCopy.Segment

  @sessions_at_once 500

  @impl true
  def init(_opts) do
    _ = Process.flag(:trap_exit, true)

    case Config.get_pool_configs() do
      {:ok, configs} ->
        pools = Enum.map(configs, &open/1)
        :ok = Targets.publish(Enum.map(pools, & &1.name))
        {:ok, state(pools), {:continue, :start_workers}}

      {:error, reason} ->
        {:stop, {:invalid_pool_config, reason}}
    end
  end

  # `slots` bounds how many workers start at a time: more would only make
  # each of them slower, up to its time-out.
  defp state(pools) do
    %{
      pools: Map.new(pools, &{&1.name, &1}),
      order: Enum.map(pools, & &1.name),
      monitors: %{},
      queue: :queue.new(),
      starting: MapSet.new(),
      slots: max(System.schedulers_online() * 2, 8),
      delayed: [],
      waiters: %{},
      logged: %{},
      started_at: now(),
      complete?: false,
      restarts: Restarts.new(),
      turnover: Turnover.new()
    }
  end

  defp open(config) do
    size = size(config)
    queue = config[:max_queue_size] || Defaults.pool_max_queue_size()
    handle = Native.pool_new(config.name, queue, Defaults.affinity_cache_ttl_seconds() * 1000)
    grace = config[:cancel_grace_ms] || Defaults.cancel_grace_ms()
    :ok = Native.pool_set_cancel_grace(handle, grace)
    :ok = Segment.configure_pool(handle, config)
    :ok = Targets.put(Call.target(config.name, handle, config))
    Elastic.open(Roster.new(config, size), handle)
  end

  defp size(config) do
    limit = config[:max_workers] || Defaults.pool_max_workers()

    if config.pool_size > limit do
      Snakepit.Logger.warning(:pool, fn ->
        "pool #{inspect(config.name)}: #{config.pool_size} workers are wanted, the limit is " <>
          "#{limit}: raise max_workers or config :snakepit, pool_max_workers"
      end)
    end

    min(config.pool_size, limit)
  end

  @impl true
  def handle_continue(:start_workers, state) do
    _ = schedule_reconcile()
    _ = schedule_status()
    Events.init_started(state.pools)
    state = Enum.reduce(state.order, state, &adopt/2)

    {state, started} =
      Enum.reduce(state.order, {state, []}, fn name, {state, started} ->
        roster = state.pools[name]
        {roster, ids} = Roster.add(roster, Roster.missing(roster, now()), :initial)
        {put_in(state.pools[name], roster), [{name, batches(roster.config, ids)} | started]}
      end)

    # The first batch of each pool, then by their delays.
    state =
      for {name, batches} <- Enum.reverse(started), {batch, delay} <- batches, reduce: state do
        state -> later(state, name, batch, delay)
      end

    {:noreply, pump(%{state | queue: mixed(state.queue)})}
  end

  # The pools by turns, so that one that is slow to import holds up no other.
  defp mixed(queue) do
    queue
    |> :queue.to_list()
    |> Enum.group_by(fn {name, _id} -> name end)
    |> Enum.flat_map(fn {_name, items} -> Enum.with_index(items) end)
    |> Enum.sort_by(fn {_item, place} -> place end)
    |> Enum.map(fn {item, _place} -> item end)
    |> :queue.from_list()
  end

  defp later(state, name, ids, 0), do: enqueue(state, name, ids)

  defp later(state, name, ids, delay) do
    _ = Process.send_after(self(), {:start, name, ids}, delay)
    update_in(state.delayed, &[{name, ids} | &1])
  end

  # A batch whose time has come, unless it was started already.
  defp start_delayed(state, name, ids) do
    if {name, ids} in state.delayed do
      state = update_in(state.delayed, &List.delete(&1, {name, ids}))
      enqueue(state, name, ids)
    else
      state
    end
  end

  # Only who asks for batches gets them.
  defp batches(config, ids) do
    case batch(config) do
      nil ->
        [{ids, 0}]

      {size, delay} ->
        ids |> Enum.chunk_every(size) |> Enum.with_index(&{&1, &2 * delay})
    end
  end

  defp batch(config) do
    global = Application.get_env(:snakepit, :pool_startup_batch_size)

    cond do
      config.startup_batches? -> {config.startup_batch_size, config.startup_batch_delay_ms}
      global != nil -> {global, Defaults.pool_startup_batch_delay_ms()}
      true -> nil
    end
  end

  # Workers that outlived a former process of this name.
  defp adopt(name, state) do
    for id <- StarterRegistry.list_starters(),
        {:ok, pid, %{pool_name: ^name}} <- [Workers.fetch_worker(id)],
        {:ok, starter} <- [StarterRegistry.get_starter_pid(id)],
        reduce: state do
      state ->
        :ok = GenServer.cast(pid, :attach)
        state = update_in(state.pools[name], &Roster.adopt(&1, id))
        monitor(state, starter, {:starter, name, id})
    end
  end

  # One that was between two lives when this process took over.
  defp adopted(state, name, id) do
    with false <- Map.has_key?(state.pools[name].workers, id),
         {:ok, starter} <- StarterRegistry.get_starter_pid(id) do
      monitor(state, starter, {:starter, name, id})
    else
      _ -> state
    end
  end

  # ---- starting workers ---------------------------------------------------

  defp enqueue(state, name, ids) do
    %{state | queue: Enum.reduce(ids, state.queue, &:queue.in({name, &1}, &2))}
  end

  defp pump(state) do
    if MapSet.size(state.starting) < state.slots do
      case :queue.out(state.queue) do
        {{:value, {name, id}}, queue} -> pump(start(%{state | queue: queue}, name, id))
        {:empty, _queue} -> state
      end
    else
      state
    end
  end

  defp start(state, name, id) do
    case Turnover.start_worker(state.pools[name], id) do
      # It is not wanted any more.
      :gone ->
        state

      {:ok, starter} ->
        state
        |> update_pool(name, &Roster.starting(&1, id))
        |> Map.update!(:starting, &MapSet.put(&1, id))
        |> monitor(starter, {:starter, name, id})

      {:error, reason} ->
        error =
          Error.worker_error("worker #{id} did not start: #{inspect(reason)}", %{reason: reason})

        state |> failed(name, id, error) |> update_pool(name, &Roster.gone(&1, id)) |> settle()
    end
  end

  defp monitor(state, pid, what) do
    put_in(state.monitors[Process.monitor(pid)], what)
  end

  defp failed(state, name, id, error) do
    limits = %{
      first_wait: max(Defaults.pool_reconcile_interval_ms(), 100),
      max_rounds: Defaults.worker_starter_max_restarts()
    }

    state
    |> report(name, error)
    |> update_pool(name, &Roster.failed(&1, id, error, now(), limits))
    |> Map.update!(:starting, &MapSet.delete(&1, id))
  end

  # The same failure of many workers and many tries is one line.
  defp report(state, name, error) do
    what = {error.details[:cause], error.details[:stderr]}

    if state.logged[name] == what do
      state
    else
      Snakepit.Logger.error(:pool, "pool #{inspect(name)}: #{error.message}")
      put_in(state.logged[name], what)
    end
  end

  defp update_pool(state, name, fun), do: %{state | pools: Map.update!(state.pools, name, fun)}

  # ---- events -------------------------------------------------------------

  @impl true
  def handle_cast({:worker_ready, name, id, pid}, state) when is_map_key(state.pools, name) do
    if Roster.retiring?(state.pools[name], id) do
      # It has been told, unless its supervisor started it once more.
      :ok = GRPCWorker.retire(pid, :resized)
      {:noreply, state}
    else
      {:noreply, worker_ready(state, name, id, pid)}
    end
  end

  def handle_cast({:worker_failed, name, id, error}, state) when is_map_key(state.pools, name) do
    {:noreply, state |> failed(name, id, error) |> settle() |> pump()}
  end

  # The pauses between batches are for workers that start from nothing.
  def handle_cast({:forks, names}, state) do
    ready = for {name, ids} <- Enum.reverse(state.delayed), name in names, do: {name, ids}

    state =
      Enum.reduce(ready, state, fn {name, ids}, state -> start_delayed(state, name, ids) end)

    {:noreply, pump(state)}
  end

  def handle_cast({:replace, name, id, reason, notify}, state) do
    {:noreply, state |> Turnover.replace(name, id, reason, notify) |> turn() |> pump()}
  end

  def handle_cast(_other, state), do: {:noreply, state}

  @impl true
  def handle_info({:DOWN, ref, :process, pid, reason}, state)
      when is_map_key(state.monitors, ref) do
    :ok = Changes.tell()
    {what, monitors} = Map.pop(state.monitors, ref)
    state = %{state | monitors: monitors} |> down(what, pid, reason) |> completed() |> turn()
    {:noreply, state |> settle() |> pump()}
  end

  def handle_info(:reconcile, state) do
    _ = schedule_reconcile()
    {:noreply, state.order |> Enum.reduce(state, &reconcile/2) |> pump()}
  end

  def handle_info(:status, state) do
    _ = schedule_status()
    Events.status()
    {:noreply, state}
  end

  def handle_info({:start, name, ids}, state),
    do: {:noreply, state |> start_delayed(name, ids) |> pump()}

  def handle_info({:waited, from}, state) do
    case Map.pop(state.waiters, from) do
      {nil, _} ->
        {:noreply, state}

      {waiter, waiters} ->
        GenServer.reply(from, {:error, Waiters.too_long(waiter, state.pools)})
        {:noreply, %{state | waiters: waiters}}
    end
  end

  def handle_info({:snakepit_pool, name, :short}, state) do
    Elastic.short(name)
    {:noreply, state}
  end

  def handle_info({:grow?, name}, state) when is_map_key(state.pools, name),
    do: {:noreply, state |> resized(name, Elastic.grow(state.pools[name]), :queueing) |> pump()}

  def handle_info({:shrink?, name}, state) when is_map_key(state.pools, name) do
    {size, idle} = Elastic.shrink(state.pools[name])
    state = state |> update_pool(name, &%{&1 | look?: false}) |> resized(name, size, :idle)
    {:noreply, state |> Turnover.retire(name, idle, :idle) |> update_pool(name, &Elastic.watch/1)}
  end

  def handle_info({:snakepit_session, pool, session_id, worker_id}, state) do
    Events.assigned(pool, session_id, worker_id)
    remember(more_sessions([{session_id, worker_id}], @sessions_at_once - 1))
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp worker_ready(state, name, id, pid) do
    Events.worker_ready(state.pools[name], id)

    state =
      state
      |> restarted(name, id, pid)
      |> adopted(name, id)
      |> update_pool(name, &Roster.ready(&1, id, pid))
      |> Map.update!(:starting, &MapSet.delete(&1, id))
      |> Map.update!(:logged, &Map.delete(&1, name))
      |> monitor(pid, {:worker, name, id})
      |> Turnover.ready(name, id)
      |> completed()

    state |> settle() |> pump()
  end

  # Its supervisor starts it again.
  defp down(state, {:worker, name, id}, pid, reason) do
    if match?({:ready, _}, state.pools[name].workers[id]) do
      state
      |> Map.update!(:restarts, &Restarts.lost(&1, id, pid, reason))
      |> update_pool(name, &Roster.starting(&1, id))
    else
      state
    end
  end

  # A starter that ends without a word of its worker failed before it had one.
  defp down(state, {:starter, name, id}, _pid, reason) do
    state = Map.update!(state, :restarts, &Restarts.gone(&1, id))

    state =
      if MapSet.member?(state.starting, id) do
        error = Error.worker_error("worker #{id} did not start: #{inspect(reason)}", %{})
        failed(state, name, id, error)
      else
        state
      end

    state |> update_pool(name, &Roster.gone(&1, id)) |> Turnover.gone(id)
  end

  defp restarted(state, name, id, pid) do
    {lost, restarts} = Restarts.ready(state.restarts, id)
    if lost, do: Events.restarted(name, id, pid, lost)
    %{state | restarts: restarts}
  end

  # Places that were given up may be others' turn.
  defp turn(state) do
    {state, started} = Turnover.next(state)
    Enum.reduce(started, state, fn {name, ids}, state -> enqueue(state, name, ids) end)
  end

  defp resized(state, name, size, reason) do
    before = state.pools[name].size

    if size == before do
      state
    else
      Events.resized(name, before, size, reason)

      state
      |> update_pool(name, &Elastic.watch(Roster.resize(&1, size)))
      |> fill(name)
    end
  end

  # At once, as it was asked for.
  defp fill(state, name) do
    roster = state.pools[name]
    {roster, ids} = Roster.add(roster, Roster.missing(roster, now()), :later)
    state |> update_pool(name, fn _ -> roster end) |> enqueue(name, ids)
  end

  defp completed(%{complete?: true} = state), do: state

  defp completed(state) do
    complete? = Enum.all?(state.pools, fn {_name, roster} -> Roster.settled?(roster) end)
    if complete?, do: Events.init_complete(state.pools, now() - state.started_at)
    %{state | complete?: complete?}
  end

  defp reconcile(name, state) do
    count = min(Roster.missing(state.pools[name], now()), Defaults.pool_reconcile_batch_size())
    {roster, ids} = Roster.add(state.pools[name], count, :later)
    state |> update_pool(name, fn _ -> roster end) |> enqueue(name, ids)
  end

  defp schedule_reconcile do
    case Defaults.pool_reconcile_interval_ms() do
      0 -> :off
      interval -> Process.send_after(self(), :reconcile, interval)
    end
  end

  defp schedule_status do
    case Defaults.pool_status_interval_ms() do
      0 -> :off
      interval -> Process.send_after(self(), :status, interval)
    end
  end

  # Those that lie in the mailbox go to the store in one message. What came in
  # between waits no longer than for so many.
  defp more_sessions(workers, 0), do: workers

  defp more_sessions(workers, left) do
    receive do
      {:snakepit_session, pool, session_id, worker_id} ->
        Events.assigned(pool, session_id, worker_id)
        more_sessions([{session_id, worker_id} | workers], left - 1)
    after
      0 -> workers
    end
  end

  defp remember(workers) do
    SessionStore.served_by(workers)
  catch
    # The store is restarting; what it had is gone with it.
    :exit, _ -> :ok
  end

  # ---- waiting for pools --------------------------------------------------

  @impl true
  def handle_call({:await, what, only, timeout}, from, state) do
    case Waiters.wanted(only, state.order) do
      {:ok, names} ->
        waiter = %{what: what, names: names, timeout: timeout}

        case Waiters.verdict(waiter, state.pools) do
          nil ->
            _ = timeout != :infinity and Process.send_after(self(), {:waited, from}, timeout)
            {:noreply, put_in(state.waiters[from], waiter)}

          answer ->
            {:reply, answer, state}
        end

      :error ->
        {:reply, {:error, Error.normalize_public_error(:pool_not_found, %{pool_name: only})},
         state}
    end
  end

  # What came before this has been handled.
  def handle_call(:settled, _from, state), do: {:reply, :ok, state}

  def handle_call({:failure, name}, _from, state) do
    {:reply, state.pools[name] && state.pools[name].error, state}
  end

  def handle_call({:resize, name, wanted}, _from, state) when is_map_key(state.pools, name) do
    case Elastic.resize(state.pools[name], wanted) do
      {:ok, roster, size} ->
        state =
          state
          |> update_pool(name, fn _ -> Elastic.watch(roster) end)
          |> resized(name, size, :manual)

        surplus = Elastic.surplus(state.pools[name], Turnover.replacements(state, name))
        {:reply, :ok, state |> Turnover.retire(name, surplus, :resized) |> pump()}

      {:error, error} ->
        {:reply, {:error, error}, state}
    end
  end

  # They come back, but not before the next look but one.
  def handle_call(:stop_workers, _from, state) do
    _ = stop_workers()
    until = now() + max(Defaults.pool_reconcile_interval_ms(), 1)
    pools = Map.new(state.pools, fn {name, roster} -> {name, Roster.hold(roster, until)} end)
    {:reply, :ok, %{state | pools: pools, queue: :queue.new(), delayed: []}}
  end

  # ---- the end ------------------------------------------------------------

  # All at once, as each may take its grace time.
  defp stop_workers do
    StarterRegistry.list_starters()
    |> Enum.map(&Task.async(fn -> WorkerSupervisor.stop_worker(&1) end))
    |> Task.await_many(:infinity)
  end

  # After a crash the next process puts its own handles in place of these.
  @impl true
  def terminate(reason, _state) do
    for target <- Targets.all(), do: :ok = Native.pool_close(target.handle)
    if reason in [:normal, :shutdown] or match?({:shutdown, _}, reason), do: Targets.erase()
  end

  # Answers those whose wait is over.
  defp settle(state), do: %{state | waiters: Waiters.settle(state.waiters, state.pools)}

  defp now, do: System.monotonic_time(:millisecond)
end
