defmodule Snakepit.StartTest do
  # What does not start says why and what to do, and leaves nothing running.
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv, only: [put_system_env: 1]
  import Snakepit.Test.Pools

  alias Snakepit.{Error, Pool}

  @moduletag :capture_log

  defmodule Shell do
    @behaviour Snakepit.Adapter
    @impl true
    def executable_path, do: Application.get_env(:snakepit, :test_program, "/bin/sh")
    @impl true
    def script_path, do: Application.get_env(:snakepit, :test_script)
    @impl true
    def script_args, do: []
    @impl true
    def uses_grpc?, do: true
  end

  defp script(text) do
    path = signal_path() <> ".sh"
    File.write!(path, text)
    path
  end

  defp start(settings) do
    {:ok, _} = start_app(Keyword.merge(defaults(), settings))
  end

  # How waiting for the pool fails, either way of waiting.
  defp failure(settings) do
    start(settings)
    assert {:error, %Error{category: :pool} = error} = Pool.await_ready(Pool, 60_000)
    assert error.details.pool == :default
    assert {:error, %Error{category: :pool}} = Pool.await_init_complete(Pool, 60_000)

    assert {:error, %Error{category: :pool, details: %{reason: :pool_not_initialized}} = call} =
             Snakepit.execute("pid", %{})

    assert call.message =~ "did not start"
    error
  end

  defp shell(text), do: [adapter_module: Shell, adapter_args: nil, test_script: script(text)]

  test "an interpreter that is not there" do
    error = failure(python_executable: "/no/such/python")
    assert error.message =~ "/no/such/python"
    assert error.message =~ "does not exist"
    assert error.message =~ "python_executable"
  end

  test "no Python at all" do
    empty = Path.dirname(signal_path())
    put_system_env(%{"PATH" => empty, "SNAKEPIT_PYTHON" => nil, "VIRTUAL_ENV" => nil})

    File.cd!(empty, fn ->
      error = failure([])
      assert error.message =~ "no Python was found"
      assert error.message =~ "mix snakepit.setup"
    end)
  end

  test "a Python without grpcio" do
    # -S leaves out everything that was installed.
    {:ok, python, _} = Snakepit.PythonRuntime.resolve_executable()
    wrapper = signal_path() <> ".python"
    File.write!(wrapper, "#!/bin/sh\nexec '#{python}' -S \"$@\"\n")
    File.chmod!(wrapper, 0o755)

    error = failure(python_executable: wrapper, transport: :grpc)
    assert error.message =~ "grpc"
    assert error.message =~ "pip install"
    assert error.details.cause == {:exit_status, 1}

    # Shared memory needs none.
    _ = Application.stop(:snakepit)
    start_pools(python_executable: wrapper, transport: :local)
    assert {:ok, _pid} = Snakepit.execute("pid", %{})
  end

  test "workers of one pool that come by different ways" do
    start_pools(pool_size: 1, transport: :local)
    {:ok, target} = Snakepit.Pool.Targets.find(:default)
    channel = Snakepit.Native.channel_open("127.0.0.1:1")

    assert catch_error(Snakepit.Native.slot_add(target.handle, self(), "w", "s", 1, channel, [])) ==
             :transports_mixed

    assert Snakepit.GRPCWorker.Local.mixed(nil) =~ "it came by gRPC"
    assert {:ok, _pid} = Snakepit.execute("pid", %{})
  end

  test "workers of one pool that come by different ways and take the same" do
    start_pools(pool_size: 1, transport: :local)
    {:ok, target} = Snakepit.Pool.Targets.find(:default)
    channel = Snakepit.Native.channel_open("127.0.0.1:1")
    :ok = Snakepit.Native.channel_takes_cbor(channel)
    slot = Snakepit.Native.slot_add(target.handle, self(), "w", "s", 1, channel, [])
    :ok = Snakepit.Native.slot_remove(slot, :unused)
    assert {:ok, _pid} = Snakepit.execute("pid", %{})
  end

  test "a worker that takes both joins those that take JSON only" do
    start_pools(
      pool_size: 1,
      transport: :grpc,
      adapter_env: [{"SNAKEPIT_ENCODING", "json"} | test_env()]
    )

    {:ok, target} = Snakepit.Pool.Targets.find(:default)
    channel = Snakepit.Native.channel_open("127.0.0.1:1")
    :ok = Snakepit.Native.channel_takes_cbor(channel)
    slot = Snakepit.Native.slot_add(target.handle, self(), "w", "s", 1, channel, [])
    :ok = Snakepit.Native.slot_remove(slot, :unused)
    assert Snakepit.execute("echo", %{value: {1, ~D[2024-01-01]}}) == {:ok, {1, "2024-01-01"}}
  end

  test "transport: :local with a Python that has no shared memory" do
    # As if the extension had not been built: its folder has the protocol only.
    dir = signal_path() <> ".proto"
    File.mkdir_p!(dir)

    for file <- ["snakepit_bridge_pb2.py", "snakepit_bridge_pb2_grpc.py"],
        do: File.cp!(Path.join(to_string(Snakepit.Native.ebin()), file), Path.join(dir, file))

    env = [{"SNAKEPIT_PROTO_PATH", dir} | test_env()]
    error = failure(transport: :local, adapter_env: env)
    assert error.message =~ "transport: :local is asked for"
    assert error.message =~ "_snakepit_native"

    _ = Application.stop(:snakepit)
    start_pools(transport: :auto, adapter_env: env)
    assert {:ok, _pid} = Snakepit.execute("pid", %{})
    [id] = Snakepit.list_workers()
    assert {:ok, _channel} = Snakepit.GRPCWorker.get_channel(id)
  end

  test "an adapter that is not there" do
    error = failure(adapter_args: ["--adapter", "no_such_module.Adapter"])
    assert error.message =~ "no_such_module"
    assert error.details.stderr =~ "no_such_module"
  end

  test "a script that is not there" do
    error = failure(adapter_module: Shell, adapter_args: nil, test_script: "/no/such/script")
    assert error.message =~ "/no/such/script"
    assert error.message =~ "does not exist"
  end

  test "a program that cannot be executed" do
    plain = script("not a program")
    error = failure(Keyword.merge(shell("exit 0"), test_program: plain))
    assert error.message =~ plain
    assert error.message =~ ~r/execut/
  end

  test "a worker that ends before it is ready" do
    error = failure(shell("echo the reason >&2; exit 7"))
    assert error.message =~ "exited with status 7"
    assert error.message =~ "the reason"
    assert error.details.stderr == "the reason"
  end

  @tag :not_under_asan
  test "a worker that is killed before it is ready" do
    error = failure(shell("kill -SEGV $$"))
    assert error.message =~ "SIGSEGV"
    assert error.details.cause == {:signal, 11}
  end

  test "a worker that exits during the handshake" do
    # It says its port, and is gone when that is called.
    error = failure(shell("echo 1 > $SNAKEPIT_READY_FILE; echo over >&2; exit 3"))
    assert error.details.cause == {:exit_status, 3}
    assert error.message =~ "exited with status 3 before it was ready"
    assert error.details.stderr == "over"
  end

  test "a full disk: a worker that cannot write its ready file says so" do
    settings = [transport: :grpc, pool_config: %{limits: [file_size: 0]}]
    error = failure(settings ++ [adapter_args: ["--adapter", "snakepit_test_tools.TestTools"]])
    assert error.message =~ "cannot write the ready file"
    assert error.message =~ "File too large"
  end

  test "a temporary directory whose name is too long for a socket: another is taken" do
    dir = Path.join(Path.dirname(signal_path()), String.duplicate("long", 30))
    File.mkdir_p!(dir)
    put_system_env(%{"TMPDIR" => dir})

    start(transport: :local)
    assert Pool.await_ready(Pool, 60_000) == :ok
    [id] = Pool.list_workers()
    assert {:ok, %{port: nil}} = Snakepit.GRPCWorker.get_info(id)
    assert stop_app() == []
    assert File.ls!(dir) == []
  end

  test "a worker that never gets ready" do
    error =
      failure(
        Keyword.merge(shell("echo waiting; exec sleep 1000"), grpc_server_ready_timeout: 1_500)
      )

    assert error.message =~ "1500 ms"
    assert error.message =~ "grpc_server_ready_timeout"
    assert error.details.stderr == "waiting"
  end

  test "a worker that names a port where nobody listens" do
    # Port 1 is nobody's.
    error =
      failure(
        Keyword.merge(shell("echo 1 > $SNAKEPIT_READY_FILE; exec sleep 1000"),
          grpc_server_ready_timeout: 1_500
        )
      )

    assert error.message =~ "port 1"
  end

  test "tries are bounded" do
    count = signal_path()
    bounds = [pool_reconcile_interval_ms: 1, worker_starter_max_seconds: 600]
    start(Keyword.merge(shell("echo x >> #{count}; exit 1"), bounds))
    assert {:error, _} = Pool.await_ready(Pool, 60_000)

    # One at the start, then as many as a starter may restart.
    eventually(fn -> length(File.stream!(count) |> Enum.to_list()) == 4 end)
    assert Snakepit.Pool.Worker.StarterRegistry.starter_count() in [0, 1]
  end

  test "waiting ends with its time-out when the worker takes its time" do
    start(shell("exec sleep 1000"))

    assert {:error, %Error{category: :timeout, details: %{pool: :default, timeout_ms: 50}}} =
             Pool.await_ready(Pool, 50)

    assert {:error, %Error{category: :pool, details: %{reason: :pool_not_initialized}}} =
             Snakepit.execute("pid", %{})
  end

  test "one bad pool does not keep the other from working" do
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env]))
    bad = %{name: :bad, pool_size: 1, adapter_module: Shell}

    start(
      pools: [Map.merge(common, %{name: :good, pool_size: 1}), bad],
      test_script: script("exit 1")
    )

    assert Pool.await_ready(:good, 60_000) == :ok
    assert {:ok, _} = Snakepit.execute("pid", %{}, pool: :good)
    assert {:error, %Error{details: %{pool: :bad}}} = Pool.await_ready(Pool, 60_000)
  end

  test "configuration that is wrong stops the start, with the reason" do
    for {settings, reason} <- [
          {[pools: [%{name: :a, pool_size: 0}]], :invalid_pool_config},
          {[timeout_profile: :hasty], :invalid_timeout_profile},
          {[grpc_listener: %{mode: :external}], :invalid_grpc_listener_config}
        ] do
      assert {:error, {:snakepit, {why, {Snakepit.Application, :start, _}}}} =
               start_app([pooling_enabled: true] ++ settings)

      assert elem(why, 0) == reason
    end
  end

  test "what a worker prints is not in the way, and goes to the log when wanted" do
    level = Logger.level()
    on_exit(fn -> Logger.configure(level: level) end)
    Logger.configure(level: :info)

    log =
      ExUnit.CaptureLog.capture_log(fn ->
        failure(
          Keyword.merge(shell("echo one; printf 'tw\\377'; echo; exit 1"),
            log_python_output: true,
            log_level: :info
          )
        )
      end)

    assert log =~ ": one"
    assert log =~ ": tw?"
  end
end
