defmodule Snakepit.ApplicationTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Native, OSProcess, Pool}
  alias Snakepit.Pool.ProcessRegistry

  defp children(supervisor) do
    for {id, pid, _type, _modules} <- Supervisor.which_children(supervisor), is_pid(pid), do: id
  end

  describe "without pools" do
    setup do
      {:ok, _} = start_app(pooling_enabled: false)
      :ok
    end

    test "only the base runs" do
      running = children(Snakepit.Supervisor)

      for name <- [
            Snakepit.Bridge.SessionStore,
            Snakepit.Bridge.ToolRegistry,
            Snakepit.Pool.Registry,
            Snakepit.Pool.ProcessRegistry,
            Snakepit.TaskSupervisor,
            Snakepit.Pool.ApplicationCleanup
          ] do
        assert name in running
      end

      refute Snakepit.Pool.RuntimeSupervisor in running
      assert Process.whereis(Pool) == nil
    end

    test "calls say that pooling is off" do
      for result <- [
            Snakepit.execute("ping", %{}),
            Snakepit.execute_stream("ping", fn _ -> :ok end),
            Pool.await_ready(),
            Pool.await_init_complete(Pool, 100)
          ] do
        assert {:error, %Error{category: :pool, message: message, details: details}} = result
        assert message =~ "pooling_enabled"
        assert details.reason == :pool_not_initialized
      end

      assert Snakepit.list_workers() == []
      assert %{workers: 0, requests: 0} = Snakepit.get_stats()
      assert Snakepit.cleanup() == :ok
    end

    test "pools that are started by hand say where they belong" do
      Process.flag(:trap_exit, true)
      assert {:error, %Error{category: :pool} = error} = Pool.start_link()
      assert error.message =~ "pooling_enabled: true"
      assert {:error, reason} = Supervisor.start_link([Pool], strategy: :one_for_one)
      assert {:shutdown, {:failed_to_start_child, Pool, %Error{}}} = reason
    end

    test "the tree is not started twice" do
      assert Snakepit.Application.start_embedded() == :ignore
    end
  end

  test "the tree can be part of another" do
    stop = fn -> Application.ensure_all_started(:snakepit) end
    _ = Application.stop(:snakepit)
    on_exit(stop)
    {:ok, host} = Supervisor.start_link([Snakepit.Application], strategy: :one_for_one)
    assert is_pid(Process.whereis(Snakepit.Supervisor))
    assert Supervisor.stop(host) == :ok
    assert Process.whereis(Snakepit.Supervisor) == nil
  end

  test "a native part that cannot be loaded: what it is, and what to do" do
    dir = Path.join(Path.dirname(signal_path()), "snakepit/ebin")
    File.mkdir_p!(dir)
    ebin = Application.app_dir(:snakepit, "ebin")

    for path <- Path.wildcard("#{ebin}/*"),
        do: File.ln_s!(path, Path.join(dir, Path.basename(path)))

    nif = Path.join(dir, "snakepit_nif.so")
    File.rm!(nif)
    File.write!(nif, "")

    code = "IO.inspect(Application.ensure_all_started(:snakepit), printable_limit: :infinity)"
    elixir = System.find_executable("elixir")
    {output, 0} = System.cmd(elixir, ["-pa", dir, "-e", code], stderr_to_stdout: true)
    assert output =~ "snakepit did not start: #{nif} cannot be loaded"
    assert output =~ "mix compile --force"
    assert output =~ "{:native_unavailable"
  end

  test "with pools, all of it runs, and stopping leaves nothing" do
    start_pools(pool_size: 2)

    assert Snakepit.Pool.RuntimeSupervisor in children(Snakepit.Supervisor)

    # In the order of starting.
    assert [
             Snakepit.Spawner,
             Snakepit.GRPC.Listener,
             Snakepit.Pool.Worker.StarterRegistry,
             Snakepit.Pool.WorkerSupervisor,
             Snakepit.Pool
           ] -- Enum.reverse(children(Snakepit.Pool.RuntimeSupervisor)) == []

    dir = Snakepit.Pool.ApplicationCleanup.run_dir()
    assert %File.Stat{mode: mode} = File.stat!(dir)
    assert Bitwise.band(mode, 0o777) == 0o700
    # The sockets at which workers come in or tell that they are ready, and nothing
    # of those that came.
    assert File.ls!(dir) -- ["local", "ready"] == []

    assert [_, _] = os_processes()
    assert stop_app() == []
    refute File.exists?(dir)
  end

  # What the registry knows of, and nobody has stopped before.
  @tag :capture_log
  test "cleanup_on_stop ends what is left of this run, and does not when it is off" do
    for clean? <- [true, false] do
      {:ok, _} = start_app(pooling_enabled: false, cleanup_on_stop: clean?)
      port = Port.open({:spawn_executable, "/bin/sleep"}, args: ["1000"])
      {:os_pid, pid} = Port.info(port, :os_pid)
      start = OSProcess.start_time(pid)
      on_exit(fn -> Native.os_signal(pid, start, 9) end)
      :ok = ProcessRegistry.reserve_worker("left")
      :ok = ProcessRegistry.activate_worker("left", self(), pid, "kind")
      _ = stop_app()
      assert OSProcess.alive?(pid, start) != clean?
    end
  end

  @tag :capture_log
  test "workers that ignore SIGTERM are gone as well" do
    start_pools(
      pool_size: 1,
      graceful_shutdown_timeout_ms: 100,
      adapter_env: [{"SNAKEPIT_TEST_STUBBORN", "1"} | test_env()]
    )

    assert [_] = os_processes()
    assert stop_app() == []
  end

  test "settings are read at each start" do
    start_pools(pool_size: 1)
    first = worker_pid()
    _ = Application.stop(:snakepit)
    Application.put_env(:snakepit, :pool_size, 2)
    {:ok, _} = Application.ensure_all_started(:snakepit)
    assert Pool.await_init_complete(Pool, 60_000) == :ok
    assert length(Snakepit.list_workers()) == 2
    refute worker_pid() == first
  end
end
