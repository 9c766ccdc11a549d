defmodule Snakepit.Pool do
  @moduledoc """
  The pools: named sets of workers with one queue each.

  A call goes from its process to the pool's native scheduler and on to a
  worker. The process registered as `Snakepit.Pool` is not on that way: it
  starts workers, and replaces those that are missing.

  Functions that take a pool take its name, or `Snakepit.Pool` for the default
  one (`:default`, else the first that is configured).
  """

  use GenServer

  alias Snakepit.Bridge.SessionStore
  alias Snakepit.{Config, Defaults, Error, Native}
  alias Snakepit.Pool.{Async, Call, Drain, Elastic, Events, Roster, Targets, Turnover, Waiters}
  alias Snakepit.Pool.WorkerSupervisor
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Pool.Worker.StarterRegistry

  @type pool :: atom | String.t() | pid
  @type result :: {:ok, term} | {:error, Exception.t() | :worker_busy}

  # ---- calls --------------------------------------------------------------

  @doc """
  Runs a command on a free worker; see `Snakepit.execute/3`.
  """
  @spec execute(String.t(), map | keyword, keyword) :: result
  def execute(command, args, opts \\ []) do
    case Targets.find(opts[:pool_name] || opts[:pool]) do
      {:ok, target} -> target |> Call.execute(command, args, opts) |> Targets.counted(target)
      {:error, reason, name} -> {:error, refused(name, command, reason)}
    end
  end

  @doc "Runs a streaming command; see `Snakepit.execute_stream/4`."
  @spec execute_stream(String.t(), map | keyword, (map -> term), keyword) ::
          :ok | {:error, term}
  def execute_stream(command, args, callback_fn, opts \\ []) do
    case Targets.find(opts[:pool_name] || opts[:pool]) do
      {:ok, target} ->
        target |> Call.stream(command, args, callback_fn, opts) |> Targets.counted(target)

      {:error, reason, name} ->
        {:error, refused(name, command, reason)}
    end
  end

  @doc "Starts a call without waiting for it; see `Snakepit.async/3`."
  @spec async(String.t(), map | keyword, keyword) :: Snakepit.Async.t()
  def async(command, args, opts \\ []) do
    case Targets.find(opts[:pool_name] || opts[:pool]) do
      {:ok, target} ->
        Async.start(target, command, args, opts)

      {:error, reason, name} ->
        error = {:error, refused(name, command, reason)}
        %Snakepit.Async{owner: self(), ref: make_ref(), result: error}
    end
  end

  @doc "The chunks of a streaming command as a lazy stream; see `Snakepit.stream/3`."
  @spec stream(String.t(), map | keyword, keyword) :: Enumerable.t()
  def stream(command, args, opts \\ []) do
    case Targets.find(opts[:pool_name] || opts[:pool]) do
      {:ok, target} -> Async.stream(target, command, args, opts)
      {:error, reason, name} -> raise refused(name, command, reason)
    end
  end

  @doc """
  The time a call gets: its `:timeout`, else the configured one.

      iex> Snakepit.Pool.get_default_timeout_for_call(:execute, %{}, timeout: 5)
      5
  """
  @spec get_default_timeout_for_call(:execute | :execute_stream | :queue, map, keyword) :: timeout
  def get_default_timeout_for_call(call_type, _args, opts) do
    case {opts[:timeout], call_type} do
      {nil, :execute} -> Defaults.pool_request_timeout()
      {nil, :execute_stream} -> Defaults.pool_streaming_timeout()
      {nil, :queue} -> Defaults.pool_queue_timeout()
      {timeout, _} -> timeout
    end
  end

  @doc """
  The time that a call leaves for its worker: of its deadline, its timeout or
  the given default.

      iex> Snakepit.Pool.derive_rpc_timeout_from_opts([], 60_000)
      58_800
  """
  @spec derive_rpc_timeout_from_opts(keyword, timeout) :: timeout
  def derive_rpc_timeout_from_opts(opts, default_timeout) do
    case opts[:deadline_ms] do
      nil -> Defaults.rpc_timeout(opts[:timeout] || default_timeout)
      deadline -> Defaults.rpc_timeout(left(deadline))
    end
  end

  @doc "The time a call may wait for a worker: not longer than its deadline."
  @spec effective_queue_timeout_ms(keyword, timeout) :: timeout
  def effective_queue_timeout_ms(opts, configured_queue_timeout) do
    case opts[:deadline_ms] do
      nil -> configured_queue_timeout
      deadline -> min(configured_queue_timeout, left(deadline))
    end
  end

  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  defp refused(name, command, :not_running) do
    error = not_running()
    %{error | details: Map.merge(error.details, %{command: command, pool: name, pool_name: name})}
  end

  defp refused(name, command, :pool_not_found) do
    known = Targets.names() |> Enum.map(&inspect/1) |> Enum.join(", ")

    Error.pool_error("there is no pool #{inspect(name)}; there is #{known}", %{
      reason: :pool_not_found,
      command: command,
      pool: name,
      pool_name: name
    })
  end

  # ---- what there is ------------------------------------------------------

  @doc """
  Counters, of one pool (by its name) or of all together (by the process of the
  pools, the default).

  Requests, taken since the pool was started and now, at one moment:

      requests = answered + failed + running + queued

    * `requests`: taken from callers. A call that the crash barrier makes again is
      as many requests as were made.
    * `answered`: the worker answered, with a result or with its tool's exception;
      over gRPC, with any status.
    * `failed`: ended in another way; the sum of `cancelled` (by their callers, or
      because these died), `queue_timeouts` (waited too long), `timeouts` (took too
      long), `workers_lost` (the worker died) and `refused` (while they waited, the
      session's worker or the pool went away)
    * `running`: a worker has them and a caller waits
    * `queued`: wait for a worker

  Beside them:

    * `pool_saturated`: refused because the queue was full; these are no requests
    * `errors`: calls that gave their caller an error, whatever it was: those that
      were refused or never valid, and the exceptions of tools, are among them
    * `abandoned`: what workers have not ended yet although nobody waits for it
      any more
    * `workers`, and how many of these are `busy` and `available` now
  """
  @spec get_stats(pool) :: map | {:error, {:pool_not_found, term}}
  def get_stats(pool \\ __MODULE__)

  def get_stats(pool) when pool == __MODULE__ or is_pid(pool), do: Targets.stats()

  def get_stats(pool) do
    case Targets.find(pool) do
      {:ok, target} -> Targets.stats(target)
      {:error, _reason, name} -> {:error, {:pool_not_found, name}}
    end
  end

  @doc "The counters of one pool."
  @spec get_stats(pool, pool) :: map | {:error, {:pool_not_found, term}}
  def get_stats(_pool, pool_name), do: get_stats(pool_name)

  @doc "The ids of the workers that are ready, of one pool or all."
  @spec list_workers(pool) :: [String.t()] | {:error, {:pool_not_found, term}}
  def list_workers(pool \\ __MODULE__)

  def list_workers(pool) when pool == __MODULE__ or is_pid(pool),
    do: Enum.flat_map(Targets.names(), &ready_workers/1)

  def list_workers(pool) do
    case Targets.find(pool) do
      {:ok, target} -> ready_workers(target.name)
      {:error, _reason, name} -> {:error, {:pool_not_found, name}}
    end
  end

  @doc "The ids of the workers of one pool."
  @spec list_workers(pool, pool) :: [String.t()] | {:error, {:pool_not_found, term}}
  def list_workers(_pool, pool_name), do: list_workers(pool_name)

  @doc "Waits until each pool (or the named one) has a worker, or cannot get one."
  @spec await_ready(pool, timeout | nil) :: :ok | {:error, Error.t()}
  def await_ready(pool \\ __MODULE__, timeout \\ nil), do: await(:ready, pool, timeout)

  @doc "Waits until each worker that a pool starts with is ready or has failed."
  @spec await_init_complete(pool, timeout | nil) :: :ok | {:error, Error.t()}
  def await_init_complete(pool \\ __MODULE__, timeout \\ nil),
    do: await(:init_complete, pool, timeout)

  @doc """
  Changes how many workers a pool has, while it works.

  A number is that many from now on; in a pool with `min_size` and `max_size`
  it lies between them. A range, `2..8`, sets those two. More workers are started
  at once. Of too many, those that run nothing and hold no session go first; those
  that run something finish it.

      Snakepit.Pool.resize(:default, 4)
      Snakepit.Pool.resize(:default, 2..16)
  """
  @spec resize(pool, pos_integer | Range.t()) :: :ok | {:error, Error.t()}
  def resize(pool \\ __MODULE__, size) do
    case Targets.find(pool) do
      {:ok, target} -> GenServer.call(__MODULE__, {:resize, target.name, size})
      {:error, reason, name} -> {:error, refused(name, nil, reason)}
    end
  catch
    :exit, _ -> {:error, not_running()}
  end

  @doc """
  Stops taking calls, and returns when those that were taken, the waiting ones
  included, are done. New ones are refused with the reason `:pool_draining` until
  `resume/1`. The workers stay.

  With calls left after `timeout` (milliseconds or `:infinity`) it returns an
  error of the category `:timeout`; the pool still takes none then.
  """
  @spec drain(pool, timeout) :: :ok | {:error, Error.t()}
  def drain(pool \\ __MODULE__, timeout \\ :infinity) do
    case Targets.find(pool) do
      {:ok, target} -> Drain.run(target, timeout)
      {:error, reason, name} -> {:error, refused(name, nil, reason)}
    end
  end

  @doc "Takes calls again after `drain/2`."
  @spec resume(pool) :: :ok | {:error, Error.t()}
  def resume(pool \\ __MODULE__) do
    case Targets.find(pool) do
      {:ok, target} -> Native.pool_set_draining(target.handle, false)
      {:error, reason, name} -> {:error, refused(name, nil, reason)}
    end
  end

  @doc false
  # Replaces a worker. `notify` gets {:snakepit_replace, worker_id, :done |
  # {:error, reason}}: done when the replacement has taken over.
  @spec replace(atom, String.t(), term, pid) :: :ok
  def replace(pool, worker_id, reason, notify),
    do: GenServer.cast(__MODULE__, {:replace, pool, worker_id, reason, notify})

  defp await(what, pool, timeout) do
    timeout = timeout || Defaults.pool_await_ready_timeout()
    only = if is_pid(pool) or pool == __MODULE__, do: :all, else: pool
    GenServer.call(__MODULE__, {:await, what, only, timeout}, :infinity)
  catch
    :exit, _ -> {:error, not_running()}
  end

  @doc false
  @spec not_running() :: Error.t()
  def not_running do
    message =
      if Application.get_env(:snakepit, :pooling_enabled, false),
        do: "the pools are not running: start the application :snakepit first",
        else:
          "pooling is off: set config :snakepit, pooling_enabled: true and start the " <>
            "application :snakepit"

    Error.pool_error(message, %{reason: :pool_not_initialized})
  end

  @doc false
  # Why a pool has no worker, if it is known.
  @spec failure(atom) :: Error.t() | nil
  def failure(name) do
    GenServer.call(__MODULE__, {:failure, name}, 1_000)
  catch
    :exit, _ -> nil
  end

  defp ready_workers(name) do
    pattern = {:"$1", :_, %{pool_name: name, ready: true}}
    Workers |> Registry.select([{pattern, [], [:"$1"]}]) |> Enum.sort()
  end

  # ---- the process --------------------------------------------------------

  @doc "Starts all configured pools."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

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
      turnover: Turnover.new()
    }
  end

  defp open(config) do
    size = size(config)
    queue = config[:max_queue_size] || Defaults.pool_max_queue_size()
    handle = Native.pool_new(config.name, queue, Defaults.affinity_cache_ttl_seconds() * 1000)
    grace = config[:cancel_grace_ms] || Defaults.cancel_grace_ms()
    :ok = Native.pool_set_cancel_grace(handle, grace)
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
    Events.worker_ready(state.pools[name], id)

    state =
      state
      |> adopted(name, id)
      |> update_pool(name, &Roster.ready(&1, id, pid))
      |> Map.update!(:starting, &MapSet.delete(&1, id))
      |> Map.update!(:logged, &Map.delete(&1, name))
      |> monitor(pid, {:worker, name, id})
      |> Turnover.ready(name, id)
      |> completed()

    {:noreply, state |> settle() |> pump()}
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
  def handle_info({:DOWN, ref, :process, _pid, reason}, state)
      when is_map_key(state.monitors, ref) do
    {what, monitors} = Map.pop(state.monitors, ref)
    state = %{state | monitors: monitors} |> down(what, reason) |> completed() |> turn()
    {:noreply, state |> settle() |> pump()}
  end

  def handle_info(:reconcile, state) do
    _ = schedule_reconcile()
    {:noreply, state.order |> Enum.reduce(state, &reconcile/2) |> pump()}
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
    remember(session_id, worker_id)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # Its supervisor starts it again.
  defp down(state, {:worker, name, id}, _reason) do
    update_pool(state, name, fn roster ->
      if match?({:ready, _}, roster.workers[id]), do: Roster.starting(roster, id), else: roster
    end)
  end

  # A starter that ends without a word of its worker failed before it had one.
  defp down(state, {:starter, name, id}, reason) do
    state =
      if MapSet.member?(state.starting, id) do
        error = Error.worker_error("worker #{id} did not start: #{inspect(reason)}", %{})
        failed(state, name, id, error)
      else
        state
      end

    state |> update_pool(name, &Roster.gone(&1, id)) |> Turnover.gone(id)
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

  defp remember(session_id, worker_id) do
    _ = SessionStore.served_by(session_id, worker_id)
    :ok
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
