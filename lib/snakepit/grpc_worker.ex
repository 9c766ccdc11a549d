defmodule Snakepit.GRPCWorker do
  @moduledoc """
  Owns one worker: its OS process, its channel and its place in the pool.

  It starts the process, waits until that says on which port it listens, pings
  it, and gives it to the pool. From then on calls go from their callers to
  the worker directly; this process watches. When the OS process ends, what
  runs on it is answered with how it ended, and this process stops for its
  supervisor to start it again.
  """

  use GenServer, restart: :transient

  alias Snakepit.Bridge.{WorkerRequests, WorkerTools}
  alias Snakepit.{CrashBarrier, Defaults, Error, Native, Spawner}
  alias Snakepit.GRPCWorker.{Ask, Ending, Events, HealthCheck, Heart, Launch, Local, Output}
  alias Snakepit.GRPCWorker.{Place, Prefork, ReadyBell, Remote, State, Taint}
  alias Snakepit.Pool.{Call, ProcessRegistry}
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Telemetry.WorkerStream
  alias Snakepit.Worker.LifecycleManager

  @type worker_state :: map
  @type worker :: pid | String.t()

  # A broken connection is most often a process that just ended: then how it
  # ended is worth a moment's wait.
  @suspect_wait_ms 500
  # How often one that is to be replaced looks whether it has finished.
  @drain_poll_ms 20
  # A killed process is gone within this, or cannot be waited for.
  @kill_wait_ms 2_000
  # A worker without room says so at most this often.
  @full_pause_ms 1_000

  # ---- for users ----------------------------------------------------------

  @doc """
  Starts a worker. Options: `:id`, `:adapter`, `:pool_name` (a pool that gets
  the worker; none for one that stands alone), `:worker_config`.
  """
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts) do
    id = opts[:id] || "worker_#{System.unique_integer([:positive])}"
    GenServer.start_link(__MODULE__, Keyword.put(opts, :id, id), name: Workers.via_tuple(id))
  end

  @doc "How long a supervisor waits for a worker to stop."
  @spec supervisor_shutdown_timeout() :: non_neg_integer
  def supervisor_shutdown_timeout,
    do: Defaults.graceful_shutdown_timeout_ms() + Defaults.shutdown_margin_ms()

  @doc "Runs a command on this very worker."
  @spec execute(worker, String.t(), map, timeout | keyword | nil, keyword) ::
          {:ok, term} | {:error, term}
  def execute(worker, command, args, timeout_or_opts \\ nil, opts \\ []) do
    opts = Ask.options(timeout_or_opts, opts, Defaults.grpc_worker_execute_timeout())
    with {:ok, target} <- Ask.direct(worker), do: Call.execute(target, command, args, opts)
  end

  @doc "The same in a session."
  @spec execute_in_session(worker, String.t(), String.t(), map, timeout | keyword | nil, keyword) ::
          {:ok, term} | {:error, term}
  def execute_in_session(worker, session_id, command, args, timeout_or_opts \\ nil, opts \\ []) do
    opts = Ask.options(timeout_or_opts, opts, Defaults.grpc_worker_execute_timeout())
    execute(worker, command, args, Keyword.put(opts, :session_id, session_id))
  end

  @doc """
  Runs a streaming command on this very worker. When the callback returns
  `{:halt, reason}` the result is `{:error, reason}`, `reason` as it is.
  """
  @spec execute_stream(
          worker,
          String.t(),
          map,
          (map -> term),
          timeout | keyword | nil,
          keyword
        ) :: :ok | {:error, term}
  def execute_stream(worker, command, args, callback_fn, timeout_or_opts \\ nil, opts \\ []) do
    opts = Ask.options(timeout_or_opts, opts, Defaults.grpc_worker_stream_timeout())

    with {:ok, target} <- Ask.direct(worker),
         do: target |> Call.stream(command, args, callback_fn, opts) |> halted()
  end

  defp halted({:halted, reason, _context}), do: {:error, reason}
  defp halted(result), do: result

  @doc "Asks the worker whether it answers."
  @spec get_health(worker) :: {:ok, map} | {:error, term}
  def get_health(worker),
    do: Ask.call(worker, :get_health, Defaults.grpc_worker_health_check_timeout_ms())

  @doc "What is known of it: id, pool, port, OS process, session."
  @spec get_info(worker) :: {:ok, map} | {:error, term}
  def get_info(worker), do: Ask.call(worker, :get_info)

  @doc false
  # Gets nothing new, finishes what it runs, and ends for good.
  @spec retire(pid, term) :: :ok
  def retire(worker, reason), do: GenServer.cast(worker, {:retire, reason})

  @doc false
  # Is not there any more as far as can be told: ends, and is started again.
  @spec lost(pid, String.t()) :: :ok
  def lost(worker, text), do: GenServer.cast(worker, {:lost, text})

  @doc false
  # For calls to this very worker; :not_found, :not_ready, :closed or :timeout.
  @spec direct_target(String.t()) :: {:ok, Call.target()} | {:error, atom}
  def direct_target(worker_id), do: Ask.call(worker_id, :direct)

  @doc "Its gRPC channel."
  @spec get_channel(worker) :: {:ok, reference} | {:error, :not_connected | :not_found}
  def get_channel(worker), do: Ask.call(worker, :get_channel)

  @doc "The session id that it sends for calls without one."
  @spec get_session_id(worker) :: {:ok, String.t()} | {:error, :not_found}
  def get_session_id(worker), do: Ask.call(worker, :get_session_id)

  # ---- start --------------------------------------------------------------

  @impl true
  def init(opts) do
    _ = Process.flag(:trap_exit, true)
    config = opts[:worker_config] || %{}
    pool = opts[:pool_name] || config[:pool_name]

    state = %State{
      id: opts[:id],
      adapter: opts[:adapter] || config[:adapter_module] || Snakepit.Adapters.GRPCPython,
      pool: if(is_atom(pool), do: pool),
      config: config,
      session_id:
        "session_#{System.unique_integer([:positive])}_#{System.system_time(:microsecond)}",
      started_at: System.monotonic_time(:millisecond)
    }

    :ok =
      Workers.put_metadata(state.id, %{
        worker_module: __MODULE__,
        pool_name: state.pool,
        pool_identifier: config[:pool_identifier] || state.pool,
        adapter_module: state.adapter
      })

    {:ok, state, {:continue, :launch}}
  end

  @impl true
  def handle_continue(:launch, state) do
    _ = Code.ensure_loaded(state.adapter)
    Events.spawn_started(state)

    config = Map.put(state.config, :pool_name, state.pool)

    with {:ok, spec, ready_file} <- Launch.build(state.id, state.adapter, config),
         {:ok, local, spec} <- Local.offer(state.config[:transport] || :auto, spec),
         :ok <- ProcessRegistry.reserve_worker(state.id) do
      begin(%{
        state
        | spec: spec,
          program: spec.program,
          tells?: Prefork.ours?(spec) and ReadyBell.told?(spec.env),
          announces?: Prefork.ours?(spec),
          ready_file: ready_file,
          local: local
      })
    else
      {:error, message} -> start_failed(state, message, :not_started)
    end
  end

  # `except` is a zygote that did not fork.
  defp begin(state, except \\ nil) do
    case Prefork.ask(state.pool || self(), state.config, state.spec, except) do
      {:ok, ref} -> {:noreply, %{state | phase: :forking, prefork: ref}}
      :cold -> started(state, Spawner.spawn(state.spec))
    end
  end

  defp started(state, {:ok, os_id, os_pid}) do
    :ok = ProcessRegistry.activate_worker(state.id, self(), os_pid, "grpc_worker", os_id: os_id)
    deadline = System.monotonic_time(:millisecond) + Defaults.grpc_server_ready_timeout()

    state = %{
      state
      | phase: :waiting,
        spec: nil,
        os_id: os_id,
        os_pid: os_pid,
        deadline: deadline
    }

    {:noreply, Remote.poll(state)}
  end

  defp started(state, {:error, %{message: message}}),
    do: start_failed(state, message, :not_started)

  @of_settings [:limit, :affinity, :user, :cgroup, :namespace]

  defp forked(state, {:fork, zygote}) do
    case Prefork.fork(zygote, state.spec) do
      {:ok, _os_id, _os_pid} = started -> started(state, started)
      # What the pool asks for: no other zygote, nor none, would change that.
      {:error, %{stage: stage}} = failed when stage in @of_settings -> started(state, failed)
      {:error, %{message: message}} -> not_forked(state, zygote, message)
    end
  end

  defp forked(state, {:cold, _why}), do: started(state, Spawner.spawn(state.spec))

  defp forked(state, {:failed, failure}) do
    output = Output.keep(state.output, failure.output)
    start_failed(%{state | output: output}, failure.message, failure.cause)
  end

  # A new zygote is tried once.
  defp not_forked(%State{fork_failed?: false} = state, zygote, _message),
    do: begin(%{state | fork_failed?: true}, zygote)

  defp not_forked(state, _zygote, message) do
    Snakepit.Logger.warning(:worker, fn -> "worker #{state.id} is not forked: #{message}" end)
    started(state, Spawner.spawn(state.spec))
  end

  # What was offered besides is withdrawn.
  defp came_by_grpc(state) do
    :ok = Local.withdraw(state.local)
    :ok = Workers.put_metadata(state.id, %{grpc_port: state.port})

    if state.config[:transport] == :local,
      do: start_failed(state, Local.refused(state.program), :transport),
      else: {:noreply, Remote.ping(Remote.connect(%{state | phase: :pinging, local: nil}))}
  end

  defp late?(state), do: System.monotonic_time(:millisecond) >= state.deadline

  # ---- events -------------------------------------------------------------

  @impl true
  def handle_info({:snakepit_zygote, ref, answer}, %State{prefork: ref} = state)
      when state.phase == :forking do
    true = Process.demonitor(ref, [:flush])
    forked(%{state | prefork: nil}, answer)
  end

  def handle_info({:DOWN, ref, :process, _pid, reason}, %State{prefork: ref} = state)
      when state.phase == :forking,
      do: forked(%{state | prefork: nil}, {:cold, inspect(reason)})

  def handle_info({:poll, os_id}, %State{phase: :waiting, os_id: os_id} = state) do
    case Remote.read_port(state.ready_file) do
      {:ok, port} ->
        came_by_grpc(%{state | port: port})

      :not_yet ->
        if late?(state),
          do: start_failed(state, too_late(state), :timeout),
          else: {:noreply, Remote.poll(state)}
    end
  end

  def handle_info(:ready_file_written, %State{phase: :waiting} = state) do
    case Remote.read_port(state.ready_file) do
      {:ok, port} -> came_by_grpc(%{state | port: port})
      # It was told of the one before.
      :not_yet -> {:noreply, state}
    end
  end

  def handle_info({:snakepit_local, ref, said}, %State{local: %{ref: ref}} = state)
      when said in [:ready, {:ready, :no_gil}] and state.phase == :waiting do
    :ok = Workers.put_metadata(state.id, %{free_threaded: said != :ready})
    worker = %{id: state.id, pool: state.pool, os_pid: state.os_pid}
    {:ok, _pid} = WorkerRequests.start_link(state.local.link, worker)
    state = %{state | channel: state.local.link}

    # Its first request is what it tells of itself; see {:announced, about}.
    if state.announces?, do: {:noreply, state}, else: come(state)
  end

  def handle_info({:snakepit_local, ref, {:pong, n, _ms}}, %State{local: %{ref: ref}} = state)
      when is_map_key(state.checks, n),
      do: {:noreply, HealthCheck.answered(state, n, {:ok, :pong})}

  def handle_info({:snakepit_local, ref, {:pong, n, ms}}, %State{local: %{ref: ref}} = state) do
    :ok = Heart.pong(state, n, ms)
    {:noreply, state}
  end

  def handle_info({:poll, os_id}, %State{phase: :pinging, os_id: os_id} = state),
    do: {:noreply, Remote.ping(state)}

  def handle_info({ref, {:ok, pong}}, %State{phase: :pinging, ping: ref} = state),
    do: state |> Remote.learn(pong) |> come()

  def handle_info({ref, {:error, why}}, %State{phase: :pinging, ping: ref} = state) do
    if late?(state),
      do: start_failed(state, "it does not answer on port #{state.port}: #{inspect(why)}", :ping),
      else: {:noreply, Remote.poll(state)}
  end

  def handle_info({ref, answer}, %State{checks: checks} = state) when is_map_key(checks, ref),
    do: {:noreply, HealthCheck.answered(state, ref, answer)}

  def handle_info(:check_health, state), do: {:noreply, HealthCheck.look(state)}

  def handle_info({:snakepit_os, id, {:output, stream, bytes}}, %State{os_id: id} = state) do
    :ok = Spawner.ack(Spawner, id, byte_size(bytes))
    {:noreply, State.output(state, stream, bytes)}
  end

  def handle_info({:snakepit_os, id, {:exit, how, usage}}, %State{os_id: id} = state) do
    :ok = State.output_ended(state)
    :ok = Place.await_last_words(state)
    exited(%{state | os_id: nil, usage: usage}, how)
  end

  def handle_info({:snakepit_slot, :suspect, why}, %State{phase: phase} = state)
      when phase in [:ready, :retiring] do
    Snakepit.Logger.warning(:worker, fn -> "worker #{state.id} is replaced: #{why}" end)
    _ = Process.send_after(self(), {:give_up, state.os_id}, @suspect_wait_ms)
    {:noreply, %{state | suspect: why}}
  end

  def handle_info({:give_up, os_id}, %State{os_id: os_id} = state) when os_id != nil do
    :ok = Spawner.stop(Spawner, os_id, 0)
    {:noreply, %{state | killed?: true}}
  end

  def handle_info({:snakepit_slot, :served, _n}, state) do
    :ok = LifecycleManager.served(state.id)
    {:noreply, state}
  end

  def handle_info({:snakepit_slot, :full, capacity}, state) do
    Events.full(state, capacity)
    _ = Process.send_after(self(), :watch_full, @full_pause_ms)
    {:noreply, state}
  end

  def handle_info(:watch_full, state) do
    Place.watch(state)
    {:noreply, state}
  end

  def handle_info(:taint_changed, state), do: {:noreply, Taint.look(state, :served)}

  # The monitor has given it up.
  def handle_info({:EXIT, heart, {:shutdown, {:heartbeat_failed, text}}}, state)
      when heart == state.heart,
      do: {:noreply, give_up(%{state | heart: nil}, text)}

  def handle_info({:EXIT, pid, reason}, %State{telemetry: pid, phase: :ready} = state)
      when reason != :normal,
      do: {:noreply, listen(state)}

  # A monitor that failed itself is no reason to end.
  def handle_info({:EXIT, heart, _reason}, %State{heart: heart, phase: :ready} = state),
    do: {:noreply, Heart.start(state)}

  def handle_info(:drained?, %State{phase: :retiring} = state) do
    if Place.load(state) == 0 or System.monotonic_time(:millisecond) >= state.retiring.until,
      do: retired(state),
      else: {:noreply, look_again(state)}
  end

  def handle_info({:not_gone, os_id}, %State{os_id: os_id, phase: :lost} = state),
    do: {:stop, {:not_responding, state.suspect}, state}

  # Supervisors do not send this; a linked helper that ended means nothing.
  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def handle_call(:direct, _from, %State{phase: :ready} = state) do
    state = Place.with_direct(state)
    # There is no other worker for a retry.
    config = Map.merge(state.config, %{adapter_module: state.adapter, crash_barrier: false})
    {:reply, {:ok, Call.target(state.pool || :direct, state.direct, config)}, state}
  catch
    :error, :closed -> {:reply, {:error, :closed}, state}
  end

  def handle_call(:direct, _from, state), do: {:reply, {:error, :not_ready}, state}

  def handle_call(:taint_changed, _from, state), do: {:reply, :ok, Taint.look(state, :served)}

  def handle_call({:announced, _about}, _from, %State{announced?: true} = state),
    do: {:reply, :ok, state}

  def handle_call({:announced, about}, from, state) do
    :ok = WorkerTools.register(about, state.id, state.pool)
    GenServer.reply(from, :ok)
    state = %{state | announced?: true}
    came? = state.phase == :waiting and state.channel != nil
    if came?, do: come(state), else: {:noreply, state}
  end

  def handle_call(:get_info, _from, state), do: {:reply, {:ok, State.info(state)}, state}

  def handle_call(:get_session_id, _from, state), do: {:reply, {:ok, state.session_id}, state}

  # A local worker has none.
  def handle_call(:get_channel, _from, state) when state.channel == nil or state.local != nil,
    do: {:reply, {:error, :not_connected}, state}

  def handle_call(:get_channel, _from, state), do: {:reply, {:ok, state.channel}, state}

  def handle_call({:get_port}, _from, state), do: {:reply, {:ok, state.port}, state}

  def handle_call({:get_port_metadata}, _from, state) do
    {:reply, {:ok, %{current_port: state.port, requested_port: 0}}, state}
  end

  def handle_call(:get_memory_usage, _from, state) do
    {:memory, bytes} = Process.info(self(), :memory)
    {:reply, {:ok, bytes}, state}
  end

  def handle_call(:get_health, from, %State{phase: :ready, local: local} = state)
      when local != nil do
    n = System.unique_integer([:positive])

    case Native.local_ping(local.link, n) do
      :ok -> {:noreply, %{state | checks: Map.put(state.checks, n, from)}}
      {:error, why} -> {:reply, {:error, why}, state}
    end
  end

  def handle_call(:get_health, from, %State{phase: :ready} = state) do
    ref = Remote.send_ping(state, Defaults.grpc_worker_health_check_timeout_ms())
    {:noreply, %{state | checks: Map.put(state.checks, ref, from)}}
  end

  def handle_call(:get_health, _from, state), do: {:reply, {:error, :not_ready}, state}

  # The pool's process was replaced: its scheduler is gone, and what that
  # closed with it.
  @impl true
  def handle_cast(:attach, %State{phase: :ready} = state) do
    state = state |> Place.leave(:stopped) |> Remote.reconnect()

    try do
      state = state |> Place.join() |> Heart.restart() |> listen()
      {:noreply, Events.connected(state, :reconnected)}
    catch
      :error, :closed -> handle_info({:snakepit_slot, :suspect, "the connection ended"}, state)
    end
  end

  def handle_cast(:attach, state), do: {:noreply, state}

  def handle_cast(:track, state) do
    if state.phase == :ready, do: Place.track(state)
    {:noreply, state}
  end

  def handle_cast({:retire, reason}, %State{phase: :ready} = state) do
    _ = state.slot && Native.slot_set_state(state.slot, :draining)
    until = System.monotonic_time(:millisecond) + Defaults.lifecycle_drain_timeout_ms()
    state = %{state | phase: :retiring, retiring: %{reason: reason, until: until}}
    {:noreply, look_again(state)}
  end

  def handle_cast({:retire, _reason}, %State{phase: :retiring} = state), do: {:noreply, state}

  # It runs nothing for anybody.
  def handle_cast({:retire, reason}, state),
    do: {:stop, {:shutdown, {:retired, reason}}, state}

  def handle_cast({:lost, text}, %State{phase: phase} = state) when phase in [:ready, :retiring],
    do: {:noreply, give_up(state, text)}

  def handle_cast({:lost, _text}, state), do: {:noreply, state}

  # ---- ready --------------------------------------------------------------

  defp come(state) do
    {:noreply, ready(state)}
  catch
    :error, :transports_mixed -> start_failed(state, Local.mixed(state.local), :transport)
    :error, :closed -> start_failed(state, "its connection ended at once", :transport)
  end

  defp ready(state) do
    state = Place.join(%{state | phase: :ready, ping: nil})
    state = state |> Heart.start() |> HealthCheck.start() |> listen()
    state = Events.connected(state, :established)
    if state.pool, do: CrashBarrier.maybe_emit_restart(state.pool, state.id)
    took = System.monotonic_time(:millisecond) - state.started_at
    Events.spawned(state, took)

    Snakepit.Logger.info(:worker, fn ->
      "worker #{state.id} is ready (OS process #{state.os_pid}, #{took} ms)"
    end)

    state
  end

  # To what it tells of itself: a local worker does so as one of its requests.
  defp listen(%State{local: nil} = state) do
    :ok = WorkerStream.stop(state.telemetry)
    ctx = %{worker_id: state.id, pool_name: state.pool, python_pid: state.os_pid}
    {:ok, pid} = WorkerStream.start_link(state.channel, ctx)
    %{state | telemetry: pid}
  end

  defp listen(state), do: state

  # ---- the end ------------------------------------------------------------

  # Starting failed: the pool is told why, and decides whether to try again.
  defp start_failed(state, message, cause) do
    {tail, shown} = State.last_lines(state)
    message = "worker #{state.id} did not start: #{message}#{shown}"

    error =
      Error.worker_error(message, %{
        reason: :start_failed,
        cause: cause,
        worker_id: state.id,
        pool: state.pool,
        adapter: state.adapter,
        stderr: tail
      })

    Events.spawn_failed(state, message, cause)
    Place.tell_pool(state, {:worker_failed, state.pool, state.id, error})
    if state.pool == nil, do: Snakepit.Logger.error(:worker, message)
    {:stop, {:shutdown, {:start_failed, error}}, %{state | phase: :failed}}
  end

  defp too_late(state) do
    "#{state.program} did not get ready within #{Defaults.grpc_server_ready_timeout()} ms. " <>
      "If it only needs longer, raise config :snakepit, grpc_server_ready_timeout"
  end

  defp exited(%State{phase: phase} = state, how) when phase in [:waiting, :pinging] do
    text = State.exit_text(how) <> State.cause_text(state, how)
    message = "#{state.program} #{text} before it was ready"
    start_failed(state, message, State.exit_cause(how))
  end

  defp exited(state, how) do
    :ok = Taint.exited(state, how)
    state = Place.release(state, how)

    Snakepit.Logger.warning(:worker, fn ->
      "worker #{state.id}: #{State.exit_text(how)}#{State.cause_text(state, how)}"
    end)

    {:stop, Ending.reason(state, how), state}
  end

  @impl true
  def terminate(reason, state) do
    Events.terminated(state, Place.served(state), reason, Ending.planned?(reason))
    Events.disconnected(state, reason, Ending.planned?(reason))
    state = Place.release(state, Ending.how(reason))

    grace = if Ending.planned?(reason) and state.phase != :failed, do: grace(), else: 0
    ended = if state.os_id, do: Ending.stop_process(state, grace), else: :ok
    _ = state.ready_file && File.rm(state.ready_file)
    # What may still run stays on record for the last clean-up.
    if ended == :ok, do: ProcessRegistry.unregister_worker(state.id)
  end

  # ---- being replaced -----------------------------------------------------

  defp look_again(state) do
    _ = Process.send_after(self(), :drained?, @drain_poll_ms)
    state
  end

  defp retired(%State{retiring: %{reason: reason}} = state) do
    LifecycleManager.retired(state.id, self(), reason, Place.served(state))
    {:stop, {:shutdown, {:retired, reason}}, state}
  end

  # ---- being given up -----------------------------------------------------

  # Its callers need not wait for the end of a process that may not even take
  # a signal; that is waited for before another one is started.
  defp give_up(state, text) do
    state = Place.leave(%{state | phase: :lost, suspect: text, killed?: true}, {:lost, text})
    _ = state.os_id && Spawner.stop(Spawner, state.os_id, 0)
    _ = Process.send_after(self(), {:not_gone, state.os_id}, @kill_wait_ms)
    state
  end

  defp grace, do: Defaults.graceful_shutdown_timeout_ms()
end
