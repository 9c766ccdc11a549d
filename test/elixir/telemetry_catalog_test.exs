defmodule Snakepit.TelemetryCatalogTest do
  # The guide's table, the catalogue and what is emitted say the same.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Events, only: [wrong: 3]
  import Snakepit.Test.Pools

  alias Snakepit.Bridge.SessionStore
  alias Snakepit.Pool.ProcessRegistry

  alias Snakepit.{
    CircuitBreaker,
    Executor,
    HeartbeatMonitor,
    Native,
    OSProcess,
    RuntimeCleanup,
    Telemetry,
    ZeroCopy
  }

  alias Snakepit.Error.{Device, Shape}
  alias Snakepit.Telemetry.{Catalog, Events, Naming}

  doctest Snakepit.Telemetry.Control
  doctest Snakepit.Telemetry.Correlation
  doctest Events
  doctest Naming
  doctest Snakepit.Telemetry.SafeMetadata

  @guide Path.expand("../../guides/telemetry.md", __DIR__)
  @units %{
    "native" => :native,
    "ns" => :ns,
    "µs" => :us,
    "ms" => :ms,
    "s" => :s,
    "bytes" => :bytes,
    "MB" => :mb
  }

  test "the guide's table is the catalogue" do
    # First, for the names are atoms only once it is loaded.
    catalogue = for entry <- Catalog.entries(), do: Map.delete(entry, :group)

    rows =
      for [_, event, measurements, metadata] <-
            Regex.scan(~r/^\| `([a-z_]+, [^`]*)` \|(.*)\|(.*)\|$/m, File.read!(@guide)) do
        %{
          event: [:snakepit | event |> String.split(", ") |> Enum.map(&String.to_existing_atom/1)],
          measurements: measurements |> cells() |> Enum.map(&measurement/1),
          metadata: metadata |> cells() |> Enum.map(&key/1)
        }
      end

    assert rows -- catalogue == []
    assert rows == catalogue
  end

  defp cells(text) do
    case String.trim(text) do
      "" -> []
      text -> String.split(text, ", ")
    end
  end

  defp measurement("[" <> rest) do
    {key, unit} = rest |> String.trim_trailing("]") |> measurement()
    {key, [unit]}
  end

  defp measurement(text) do
    case String.split(text, " ") do
      [key] -> {key(key), :number}
      [key, unit] -> {key(key), Map.fetch!(@units, unit)}
    end
  end

  defp key("[" <> rest), do: [rest |> String.trim_trailing("]") |> key()]
  defp key("`\"" <> rest), do: String.trim_trailing(rest, "\"`")
  defp key("`" <> rest), do: rest |> String.trim_trailing("`") |> String.to_existing_atom()

  test "all events are those of the groups, each of one" do
    groups = [
      Telemetry.pool_events(),
      Telemetry.grpc_events(),
      Telemetry.session_events(),
      Telemetry.program_events(),
      Telemetry.heartbeat_events(),
      Telemetry.runtime_events(),
      Telemetry.script_events(),
      Telemetry.python_events()
    ]

    assert Enum.concat(groups) |> Enum.sort() == Enum.sort(Telemetry.events())
    assert Enum.uniq(Telemetry.events()) == Telemetry.events()
    assert Naming.event(:pool, :worker, :spawned) in Telemetry.pool_events()
  end

  test "each event has a schema; another has none" do
    for event <- Telemetry.events() ++ Events.all_ml_events() do
      assert %{measurements: %{}, metadata: %{}} = Events.event_schema(event)
    end

    assert Events.all_ml_events() != []
    assert Events.event_schema([:snakepit, :nothing]) == nil
  end

  test "every measurement that Python may send with a known event is known" do
    for {name, %{event: event, measurements: keys}} <- Naming.python_event_catalog() do
      assert Naming.from_parts(String.split(name, ".")) == {:ok, event}
      for key <- keys, do: assert(Naming.measurement_key(to_string(key)) == {:ok, key})
    end
  end

  test "the logger of what programs for machine learning look at comes and goes" do
    alias Snakepit.Telemetry.Handlers.Logger, as: Handler
    event = hd(Events.exception_events())
    for _ <- 1..2, do: assert(Handler.attach() == :ok)
    assert Telemetry.attached?(event)
    for _ <- 1..2, do: assert(Handler.detach() == :ok)
    refute Telemetry.attached?(event)
  end

  test "the default handlers log, and are attached once" do
    on_exit(fn ->
      for what <- [:all, :session, :program, :heartbeat],
          do: Telemetry.detach({Telemetry.DefaultHandlers, what})
    end)

    for _ <- 1..2 do
      assert Telemetry.attach_session_handlers() == :ok
      assert Telemetry.attach_program_handlers() == :ok
      assert Telemetry.attach_heartbeat_handlers() == :ok
    end

    assert Telemetry.attach_handlers() == :ok
    level = Logger.level()
    Logger.configure(level: :debug)
    on_exit(fn -> Logger.configure(level: level) end)

    log =
      capture_log(fn ->
        Snakepit.Logger.with_level(:debug, fn ->
          Telemetry.execute([:snakepit, :session, :created], %{count: 1}, %{session_id: "logged"})
        end)
      end)

    assert log =~ "session.created"
    assert log =~ "logged"
  end

  test "everything that is emitted is in the catalogue as it is, and all of that is emitted" do
    table = :ets.new(:told, [:public, :duplicate_bag])

    handler = fn event, measurements, metadata, _ ->
      :ets.insert(table, {event, wrong(event, measurements, metadata)})
    end

    id = {__MODULE__, make_ref()}
    :ok = Telemetry.attach_many(id, Telemetry.events(), handler, nil)
    on_exit(fn -> Telemetry.detach(id) end)
    capture_log(fn -> everything(table) end)
    :ok = Telemetry.detach(id)

    told = :ets.tab2list(table)
    assert for({event, [_ | _] = what} <- told, do: {event, what}) |> Enum.uniq() == []
    assert Telemetry.events() -- Enum.map(told, &elem(&1, 0)) == []
  end

  defp everything(table) do
    failing()
    calls(table)
    sessions()
    errors()
    handles()
    heartbeats(table)
    workers(table)
    health(table)
    grpc(table)
    left_over(table)
    stop_app()
    orphans(table)
    script()
  end

  defp await(table, event), do: eventually(fn -> :ets.member(table, event) end)

  defp failing do
    _ = start_app(Keyword.merge(defaults(), adapter_args: ["--adapter", "no_such.Adapter"]))
    _ = Snakepit.Pool.await_ready()
  end

  defp calls(table) do
    start_pools(
      pool_config: %{max_queue_size: 1, capacity_strategy: :hybrid},
      pool_status_interval_ms: 1,
      telemetry_events: []
    )

    await(table, [:snakepit, :pool, :status])

    {:ok, _} = Snakepit.execute("pid", %{})
    {:ok, _} = Snakepit.execute("pid", %{}, session_id: "catalogue")
    {:error, _} = Snakepit.execute("pid", %{x: 1}, session_id: "catalogue")
    {:error, _} = Snakepit.execute("echo", %{x: 1})
    :ok = Snakepit.execute_stream("numbers", %{count: 2}, fn _ -> :ok end)
    {:ok, 3} = Snakepit.execute("sum_all", %{}, inputs: [1, 2])

    for opts <- [[], [session_id: "s"]] do
      :oops = catch_throw(Snakepit.execute("sum_all", %{}, [inputs: raising()] ++ opts))
    end

    :oops = catch_throw(Snakepit.execute_stream("numbers", %{count: 2}, fn _ -> throw(:oops) end))

    # What tools tell of, when they do.
    for {event, measurements} <- [
          {"python.memory.sampled", %{rss_bytes: 1}},
          {"python.cpu.sampled", %{cpu_percent: 1.5}},
          {"python.gc.completed", %{collected: 1, generation: 2}},
          {"python.error.occurred", %{count: 1}},
          {"tool.result_size", %{bytes: 1}}
        ] do
      {:ok, _} = Snakepit.execute("emit", %{event: event, measurements: measurements})
    end

    {:ok, _} =
      Snakepit.execute("emit", %{
        event: "snakepit.serialization.unserializable_marker",
        measurements: %{first_seen: 1},
        metadata: %{type: "x.Y"}
      })

    await(table, [:snakepit, :python, :serialization, :unserializable_marker])
    queue()

    for what <- [:start, :stop, :exception], span <- [[:call], [:tool, :execution]] do
      await(table, [:snakepit, :python] ++ span ++ [what])
    end
  end

  defp raising, do: Stream.map([1], fn _ -> throw(:oops) end)

  defp queue do
    path = signal_path()
    holding = occupy(path)
    {:error, _} = Snakepit.execute("pid", %{}, queue_timeout: 1)
    waiting = Snakepit.async("pid")
    {:error, _} = Snakepit.execute("pid", %{})
    go(path)
    {:ok, _} = Task.await(holding, 60_000)
    {:ok, _} = Snakepit.await(waiting)
  end

  defp handles do
    {:ok, ref} = ZeroCopy.to_dlpack([1, 2])
    {:ok, [1, 2]} = ZeroCopy.from_dlpack(ref)
    Application.put_env(:snakepit, :zero_copy, device: Snakepit.Test.GPU)
    {:ok, _} = ZeroCopy.to_dlpack({:on_gpu, 1}, device: :cuda)
    Application.delete_env(:snakepit, :zero_copy)
  end

  defp sessions do
    {:ok, _} = SessionStore.create_session("program", ttl: 0)
    {:ok, _} = SessionStore.create_session("kept")
    {:ok, _} = SessionStore.get_session("kept")
    :ok = SessionStore.store_program("kept", "p", %{})
    :ok = SessionStore.delete_session("kept")

    eventually(fn ->
      SessionStore.cleanup_expired_sessions() >= 0 and not SessionStore.session_exists?("program")
    end)

    {:ok, store} = SessionStore.start_link(name: nil, max_sessions: 2, warning_threshold: 0.5)
    {:ok, _} = SessionStore.create_session(store, "one", [])
    GenServer.stop(store)
  end

  defp errors do
    _ = Shape.shape_mismatch([1, 2], [2, 1], "matmul")
    _ = Device.device_mismatch(:cpu, {:cuda, 0}, "matmul")
    _ = Device.out_of_memory({:cuda, 0}, 2, 1)
    _ = Snakepit.Error.PythonException.from_wire(%{"type" => "ValueError", "message" => "m"})
    _ = Snakepit.Error.PythonException.from_wire(%{"type" => "MyError", "message" => "m"})
    fail = fn -> {:error, :timeout} end
    {:error, :timeout} = Executor.execute_with_retry(fail, max_attempts: 2, backoff_ms: [0])
    {:ok, counter} = Agent.start_link(fn -> 0 end)

    second = fn ->
      if Agent.get_and_update(counter, &{&1, &1 + 1}) == 0, do: {:error, :timeout}, else: {:ok, 1}
    end

    {:ok, 1} = Executor.execute_with_retry(second, max_attempts: 2, backoff_ms: [0])
    breaker()
  end

  defp breaker do
    {:ok, breaker} = CircuitBreaker.start_link(failure_threshold: 1, reset_timeout_ms: 0)
    {:error, :no} = CircuitBreaker.call(breaker, fn -> {:error, :no} end)
    eventually(fn -> match?({:ok, 1}, CircuitBreaker.call(breaker, fn -> {:ok, 1} end)) end)
    GenServer.stop(breaker)

    {:ok, open} = CircuitBreaker.start_link(failure_threshold: 1, reset_timeout_ms: 60_000)
    {:error, :no} = CircuitBreaker.call(open, fn -> {:error, :no} end)
    {:error, :circuit_open} = CircuitBreaker.call(open, fn -> {:ok, 1} end)
    GenServer.stop(open)
  end

  # The monitor's worker: a process that pings fail for.
  defp heartbeats(table) do
    {:ok, fails} = Agent.start_link(fn -> false end)
    ping = fn _ -> if Agent.get(fails, & &1), do: {:error, :no}, else: :ok end

    config = [
      ping_interval_ms: 1,
      timeout_ms: 1,
      max_missed_heartbeats: 1,
      initial_delay_ms: 0,
      dependent: false,
      ping_fun: ping
    ]

    {:ok, monitor} =
      HeartbeatMonitor.start_link(
        [worker_pid: spawn(fn -> Process.sleep(:infinity) end), worker_id: "w"] ++ config
      )

    await(table, [:snakepit, :heartbeat, :pong_received])
    Agent.update(fails, fn _ -> true end)
    await(table, [:snakepit, :heartbeat, :monitor_failure])
    GenServer.stop(monitor)
  end

  defp workers(table) do
    start_pools(pool_size: 2, crash_barrier: [enabled: true, taint_duration_ms: 1])
    :ok = Snakepit.Pool.resize(:default, 3)
    [worker | _] = Snakepit.list_workers()
    :ok = Snakepit.Worker.LifecycleManager.recycle_worker(:default, worker)
    await(table, [:snakepit, :worker, :recycled])
    path = signal_path()
    {:error, _} = Snakepit.execute("die_once", %{path: path, number: 11}, idempotent: false)
    await(table, [:snakepit, :worker, :tainted])
    await(table, [:snakepit, :worker, :restarted])
  end

  # A worker that cannot answer.
  defp health(table) do
    start_pools(
      heartbeat: %{enabled: false},
      lifecycle_health_check_interval: 50,
      grpc_worker_health_check_timeout_ms: 1_000
    )

    {:ok, pid} = Snakepit.execute("pid", %{})
    {_, 0} = System.cmd("kill", ["-STOP", "#{pid}"])
    await(table, [:snakepit, :worker, :health_check_failed])
  end

  defp grpc(table) do
    start_pools(transport: :grpc)
    {:ok, _} = Snakepit.execute("pid", %{})
    :ok = Snakepit.execute_stream("numbers", %{count: 2}, fn _ -> :ok end)
    :oops = catch_throw(Snakepit.execute("sum_all", %{}, inputs: raising()))
    Process.exit(Process.whereis(Snakepit.Pool), :kill)
    await(table, [:snakepit, :grpc, :connection, :reconnected])
    eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{})) end)
    {:error, _} = Snakepit.execute("die_once", %{path: signal_path(), number: 9})
    await(table, [:snakepit, :grpc, :connection, :lost])
  end

  # What is left when the application stops, and that there is no time for.
  defp left_over(table) do
    eventually(fn ->
      start_app(Keyword.put(defaults(), :cleanup_on_stop_timeout_ms, 0))
      {pid, _start} = sleeper()
      :ok = ProcessRegistry.reserve_worker("left")
      :ok = ProcessRegistry.activate_worker("left", self(), pid, "kind")
      _ = stop_app()
      :ets.member(table, [:snakepit, :application_cleanup, :emergency_cleanup])
    end)

    await(table, [:snakepit, :application_cleanup, :orphaned_processes_found])
  end

  # Processes that the registry knows of, and that nobody stops before the clean-up.
  defp orphans(table) do
    {:ok, _} = Application.ensure_all_started(:snakepit)
    :ok = RuntimeCleanup.run([orphan()], timeout_ms: 10_000)

    # One that is quicker than that is not left.
    eventually(fn ->
      _ = RuntimeCleanup.run([orphan()], timeout_ms: 0)
      :ets.member(table, [:snakepit, :cleanup, :timeout])
    end)
  end

  defp orphan do
    {pid, start} = sleeper()
    {"orphan", %{process_pid: pid, start_time: start}}
  end

  defp sleeper do
    port = Port.open({:spawn_executable, "/bin/sleep"}, args: ["1000"])
    {:os_pid, pid} = Port.info(port, :os_pid)
    start = OSProcess.start_time(pid)
    on_exit(fn -> Native.os_signal(pid, start, 9) end)
    {pid, start}
  end

  defp script, do: Snakepit.run_as_script(fn -> :ok end, exit_mode: :none, stop_mode: :never)
end
