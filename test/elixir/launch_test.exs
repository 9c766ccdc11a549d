defmodule Snakepit.GRPCWorker.LaunchTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv

  alias Snakepit.Adapters.GRPCPython
  alias Snakepit.Config
  alias Snakepit.GRPCWorker.Launch

  setup do
    put_env(python_executable: "/bin/sh", instance_name: nil, instance_token: nil)
    put_system_env(%{"SNAKEPIT_INSTANCE_NAME" => nil, "SNAKEPIT_INSTANCE_TOKEN" => nil})
  end

  defp build(config) do
    config = Config.normalize_pool_config(Map.merge(%{name: :p}, config))
    {:ok, spec, ready_file} = Launch.build("a worker/1", config.adapter_module, config)
    {spec, ready_file}
  end

  defp value(args, flag), do: Enum.at(args, Enum.find_index(args, &(&1 == flag)) + 1)

  test "the command line is script, adapter, port and run" do
    {spec, _} = build(%{})
    assert spec.program == "/bin/sh"
    assert [script | args] = spec.args
    assert Path.basename(script) == "grpc_server.py"
    assert spec.cd == Path.dirname(script)
    assert value(args, "--adapter") == "snakepit_bridge.adapters.showcase.ShowcaseAdapter"
    assert value(args, "--port") == "0"
    assert value(args, "--snakepit-run-id") == Snakepit.Pool.ProcessRegistry.get_beam_run_id()
    refute "--snakepit-instance-name" in args
  end

  test "what the user says is not said again" do
    {spec, _} = build(%{adapter_args: ["--adapter", "a.B", "--port", "7"]})
    assert Enum.count(spec.args, &(&1 == "--port")) == 1
    assert value(spec.args, "--port") == "7"
    assert value(spec.args, "--adapter") == "a.B"
  end

  test "the instance is on the command line" do
    put_env(instance_name: "my app", instance_token: "t-1")
    {spec, _} = build(%{})
    assert value(spec.args, "--snakepit-instance-name") == "my_app"
    assert value(spec.args, "--snakepit-instance-token") == "t-1"
  end

  test "threads have the threaded script, their number and the checks" do
    thread = %{worker_profile: :thread, threads_per_worker: 4, thread_safety_checks: true}
    {spec, _} = build(Map.put(thread, :adapter_args, ["--adapter", "a.B"]))
    assert Path.basename(hd(spec.args)) == "grpc_server_threaded.py"
    assert value(spec.args, "--max-workers") == "4"
    assert value(spec.args, "--adapter") == "a.B"
    assert "--thread-safety-check" in spec.args
    assert {"OMP_NUM_THREADS", "4"} in spec.env

    {spec, _} = build(Map.put(thread, :adapter_args, ["--max-workers", "2"]))
    assert value(spec.args, "--max-workers") == "2"
    assert value(spec.args, "--adapter") =~ "threaded_showcase"
  end

  test "concurrency is in the environment of the process profile" do
    {spec, _} = build(%{concurrency: 8})
    assert {"SNAKEPIT_CONCURRENCY", "8"} in spec.env
    {spec, _} = build(%{})
    refute Map.has_key?(Map.new(spec.env), "SNAKEPIT_CONCURRENCY")
    {spec, _} = build(%{worker_profile: :thread, threads_per_worker: 4, concurrency: 8})
    refute Map.has_key?(Map.new(spec.env), "SNAKEPIT_CONCURRENCY")
  end

  test "the environment is complete, and the pool's wins whatever its case" do
    put_system_env(%{"OMP_NUM_THREADS" => nil, "MKL_NUM_THREADS" => "3", "PYTHONPATH" => "/mine"})
    {spec, ready_file} = build(%{adapter_env: %{"gRPC_verbosity" => "INFO", "X" => "1"}})
    env = Map.new(spec.env)
    assert env["SNAKEPIT_READY_FILE"] == ready_file
    assert Path.basename(ready_file) =~ ~r/^snakepit_ready_a_worker_1_\d+$/
    assert env["SNAKEPIT_LOG_LEVEL"] == "error"
    assert env["SNAKEPIT_PYTHON"] == "/bin/sh"
    assert env["SNAKEPIT_PROCESS_GROUP"] == "1"
    assert env["OMP_NUM_THREADS"] == "1"
    assert env["MKL_NUM_THREADS"] == "3"
    assert env["X"] == "1"
    assert env["gRPC_verbosity"] == "INFO"
    refute Map.has_key?(env, "GRPC_VERBOSITY")
    assert ["/mine", own | _] = String.split(env["PYTHONPATH"], ":")
    assert own == Application.app_dir(:snakepit, "priv/python")

    {spec, _} = build(%{adapter_env: [{"PYTHONPATH", "/only"}, {"SNAKEPIT_LOG_LEVEL", nil}]})
    assert {"PYTHONPATH", "/only"} in spec.env
    assert {"SNAKEPIT_LOG_LEVEL", nil} in spec.env
  end

  describe "PYTHONPATH" do
    # An application as a release has it: loaded, its folder anywhere.
    defp load(name, applications) do
      id = "snakepit-launch-#{System.pid()}-#{System.unique_integer([:positive])}"
      root = Path.join(System.tmp_dir!(), id)
      on_exit(fn -> File.rm_rf!(root) end)
      lib = Path.join(root, "#{name}-0.1.0")
      for dir <- ["ebin", "priv/python"], do: File.mkdir_p!(Path.join(lib, dir))
      Code.append_path(Path.join(lib, "ebin"))
      on_exit(fn -> Code.delete_path(Path.join(lib, "ebin")) end)

      :ok =
        :application.load(
          {:application, name,
           [vsn: [?0], modules: [], registered: [], applications: applications]}
        )

      on_exit(fn -> Application.unload(name) end)
      Path.join(lib, "priv/python")
    end

    defp python_path do
      {spec, _} = build(%{})
      String.split(Map.new(spec.env)["PYTHONPATH"], ":")
    end

    test "has priv/python of the applications that use this one, and of no other" do
      direct = load(:launch_test_direct, [:kernel, :snakepit])
      above = load(:launch_test_above, [:launch_test_direct])
      other = load(:launch_test_other, [:kernel])
      path = python_path()
      assert direct in path
      assert above in path
      refute other in path
    end

    test "has no folder twice" do
      own = Application.app_dir(:snakepit, "priv/python")
      link = load(:launch_test_link, [:snakepit])
      File.rmdir!(link)
      File.ln_s!(own, link)
      put_system_env(%{"PYTHONPATH" => nil})
      path = python_path()
      assert own in path
      refute link in path
    end
  end

  test "heartbeats are told in the words of the Python side" do
    {spec, _} = build(%{heartbeat: %{timeout_ms: 7, dependent: false}})
    {:ok, json} = Snakepit.Native.json_decode(Map.new(spec.env)["SNAKEPIT_HEARTBEAT_CONFIG"])

    assert json == %{
             "enabled" => true,
             "interval_ms" => 2000,
             "timeout_ms" => 7,
             "max_missed_heartbeats" => 3,
             "initial_delay_ms" => 0,
             "dependent" => false
           }
  end

  test "no interpreter is an error for people" do
    put_env(python_executable: "no-such-python-at-all")
    config = Config.normalize_pool_config(%{name: :p})
    assert {:error, message} = Launch.build("w", GRPCPython, config)
    assert message =~ "no-such-python-at-all"
  end
end
