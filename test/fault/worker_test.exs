defmodule Snakepit.WorkerDeathTest do
  # What a worker does to itself, or what is done to it, costs its own calls; the
  # pool is whole again, and nobody of the family is left.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{Error, OSProcess}
  alias Snakepit.Pool.{ApplicationCleanup, ProcessRegistry}
  alias Snakepit.Test.Spawning

  @moduletag :capture_log

  # Nothing takes so long unless it hangs.
  @long 60_000

  defp start(settings \\ []) do
    tools = [adapter_args: ["--adapter", "snakepit_fault_tools.FaultTools"]]
    start_pools(Keyword.merge(tools, settings))
  end

  # With keys of a pool.
  defp start_pool(pool), do: start(pool_config: Map.new(pool))

  defp call(tool, args \\ %{}, opts \\ []),
    do: Snakepit.execute(tool, args, Keyword.put_new(opts, :timeout, @long))

  # Of the one that serves: the one before may still be ending.
  defp os_pid do
    [pid] = ProcessRegistry.get_active_process_pids()
    pid
  end

  defp with_time(pid), do: {pid, OSProcess.start_time(pid)}
  defp gone?({pid, time}), do: not OSProcess.alive?(pid, time)

  # The pool answers again, with another process than `before`.
  defp assert_whole(before) do
    eventually(fn -> match?({:ok, _}, call("about")) end)
    assert os_pid() != before
  end

  # ---- killed -------------------------------------------------------------

  for {signal, number} <- [{"SEGV", 11}, {"ABRT", 6}, {"KILL", 9}, {"BUS", 7}] do
    test "a worker by SIG#{signal}: its call says so, its family is gone" do
      start()
      {:ok, daemons} = call("daemon", %{stubborn: true})
      family = Enum.map(daemons, &with_time/1)
      path = signal_path()
      task = occupy(path)
      pid = os_pid()
      begin = System.monotonic_time(:millisecond)
      kill(pid, unquote(signal))
      assert {:error, %Error{category: :worker} = error} = Task.await(task, @long)
      assert %{reason: :worker_exit, signal: unquote(number), os_pid: ^pid} = error.details
      assert %{usage: %{max_rss_kb: rss}, core_dumped: core, oom: nil} = error.details
      assert rss > 0 and is_boolean(core)
      assert error.message =~ "SIG#{unquote(signal)}"
      eventually(fn -> Enum.all?(family, &gone?/1) end)
      assert_whole(pid)
      took = System.monotonic_time(:millisecond) - begin
      IO.puts("fault: worker by SIG#{unquote(signal)}: family gone, pool whole after #{took} ms")
    end
  end

  test "a worker that is stopped: its call times out, and it is replaced" do
    start()
    {:ok, daemons} = call("daemon")
    family = Enum.map(daemons, &with_time/1)
    pid = os_pid()
    family = [with_time(pid) | family]
    kill(pid, "STOP")
    assert {:error, %Error{category: :timeout}} = call("about", %{}, timeout: 100)
    eventually(fn -> Enum.all?(family, &gone?/1) end)
    assert_whole(pid)
  end

  test "the spawner killed: nobody is left, and the pool is whole again" do
    start(pool_size: 3)
    for _ <- 1..6, do: {:ok, _} = call("daemon", %{stubborn: true})
    spawner = Snakepit.Spawner.info().os_pid

    all = [
      with_time(spawner) | Spawning.descendants(spawner) |> Enum.map(&with_time(elem(&1, 0)))
    ]

    assert length(all) >= 3 + 3 + 12
    begin = System.monotonic_time(:millisecond)
    kill(spawner)
    eventually(fn -> Enum.all?(all, &gone?/1) end)
    gone = System.monotonic_time(:millisecond) - begin
    # Not the old one, which may not have noticed yet.
    eventually(fn -> new_spawner?(spawner) and match?(%{workers: 3}, Snakepit.get_stats()) end)
    eventually(fn -> match?({:ok, _}, call("about")) end)
    whole = System.monotonic_time(:millisecond) - begin

    IO.puts(
      "fault: spawner of a pool killed: of #{length(all)} processes 0 left after #{gone} ms, " <>
        "pool whole after #{whole} ms"
    )
  end

  defp new_spawner?(old) do
    Snakepit.Spawner.info().os_pid != old
  catch
    :exit, _gone -> false
  end

  # ---- what a worker does to itself ---------------------------------------

  test "a worker that closes all its descriptors is replaced" do
    start()
    pid = os_pid()
    process = with_time(pid)
    assert {:error, %Error{category: :worker}} = call("close_all")
    eventually(fn -> gone?(process) end)
    assert_whole(pid)
  end

  test "a worker that becomes a daemon: the call fails, the daemon goes" do
    start()
    pid = os_pid()
    path = signal_path()

    assert {:error, %Error{category: :worker, details: details}} =
             call("daemonise", %{path: path})

    assert %{exit_status: 0, os_pid: ^pid} = details
    daemon = path |> File.read!() |> String.to_integer()
    eventually(fn -> not alive_number?(daemon) end)
    assert_whole(pid)
  end

  # It may be gone already, and then has no start time.
  defp alive_number?(pid), do: not gone?(with_time(pid)) and OSProcess.start_time(pid) != nil

  test "a worker that ends between request and answer" do
    start()
    pid = os_pid()

    assert {:error, %Error{details: %{exit_status: 23, os_pid: ^pid}}} =
             call("end", %{status: 23})

    assert_whole(pid)
  end

  test "a fork bomb of 50, all detached, dies with its worker" do
    start()
    pid = os_pid()
    path = signal_path()
    assert {:ok, nil} = call("bomb", %{path: path, count: 50})

    numbers = fn ->
      with {:ok, text} <- File.read(path),
           do: text |> String.split() |> Enum.map(&String.to_integer/1)
    end

    eventually(fn -> is_list(numbers.()) and length(numbers.()) == 100 end)
    family = Enum.map(numbers.(), &with_time/1)
    begin = System.monotonic_time(:millisecond)
    kill(pid)
    eventually(fn -> Enum.all?(family, &gone?/1) end)
    took = System.monotonic_time(:millisecond) - begin
    IO.puts("fault: fork bomb: of 100 processes 0 left after #{took} ms")
    assert_whole(pid)
  end

  test "a worker that uses up its descriptors still answers" do
    start_pool(limits: [open_files: 256])
    assert {:ok, count} = call("use_files")
    assert count in 200..256
    assert {:ok, %{"files" => [256, 256]}} = call("about")
  end

  @tag timeout: 600_000
  test "a flood of 1 GB to stdout costs nobody anything" do
    start(pool_size: 2)
    flood = Task.async(fn -> call("flood", %{bytes: 1_000_000_000}, timeout: 300_000) end)
    # The other worker is served meanwhile, all the time.
    assert serve(flood, 0) > 0
    spawner = Snakepit.Spawner.info().os_pid

    [kb] =
      Regex.run(~r/VmHWM:\s+(\d+)/, File.read!("/proc/#{spawner}/status"), capture: :all_but_first)

    assert String.to_integer(kb) < 50_000
  end

  defp serve(task, served) do
    assert {:ok, %{"pid" => _}} = call("about")

    case Task.yield(task, 0) do
      nil ->
        serve(task, served + 1)

      {:ok, answer} ->
        # 1023 bytes and an end of line, as often as it goes.
        assert answer == {:ok, 1_000_000_000}
        served
    end
  end

  test "a worker that ignores SIGTERM is killed when its grace is over" do
    start(
      adapter_env: [{"SNAKEPIT_TEST_STUBBORN", "1"} | test_env()],
      graceful_shutdown_timeout_ms: 200
    )

    process = with_time(os_pid())
    {:ok, daemons} = call("daemon", %{stubborn: true})
    family = [process | Enum.map(daemons, &with_time/1)]
    assert stop_app() == []
    assert Enum.all?(family, &gone?/1)
  end

  # ---- limits -------------------------------------------------------------

  test "memory that is not to be had is an error of the call, or of the worker" do
    start_pool(limits: [memory: "400M"])
    assert {:ok, 1_000_000} = call("allocate", %{bytes: 1_000_000})
    child = Enum.find(Snakepit.Spawner.info().children, &(&1.os_pid == os_pid()))
    error = call("allocate", %{bytes: 1_000_000_000})

    if :memory in child.held do
      assert {:error, %Error{details: %{oom: :cgroup, signal: 9}} = error} = error
      assert error.message =~ "400M"
      assert_whole(child.os_pid)
    else
      assert {:error, %{python_type: "MemoryError"}} = error
      assert {:ok, 1_000_000} = call("allocate", %{bytes: 1_000_000})
      assert os_pid() == child.os_pid
    end
  end

  test "processor time that is used up" do
    start_pool(limits: %{cpu_seconds: 4})
    pid = os_pid()
    assert {:error, %Error{details: %{signal: 24}} = error} = call("burn")
    assert error.message =~ "cpu_seconds: 4"
    assert error.details.usage.utime_us > 1_000_000
    assert_whole(pid)
  end

  # ---- who and where ------------------------------------------------------

  test "each worker of a pool has its share of the processors, and its niceness" do
    start(pool_size: 2, pool_config: %{cpu_affinity: :compact, nice: 15})
    all = for _ <- 1..20, {:ok, about} = call("about"), do: about
    assert Enum.all?(all, &(&1["nice"] == 15))
    assert Enum.all?(all, &match?([_], &1["cpus"]))
    # A zygote has none.
    shares = for %{share: share} when share != nil <- Snakepit.Spawner.info().children, do: share
    assert Enum.sort(shares) == [0, 1]
  end

  test "a pool in PID namespaces, where the machine has them" do
    {:ok, _} =
      defaults()
      |> Keyword.merge(
        adapter_args: ["--adapter", "snakepit_fault_tools.FaultTools"],
        containment: :pid_namespace
      )
      |> start_app()

    case Snakepit.Pool.await_init_complete(Snakepit.Pool, @long) do
      :ok ->
        assert {:ok, %{"pid" => 2}} = call("about")
        {:ok, [_, _]} = call("daemon", %{stubborn: true})
        spawner = Snakepit.Spawner.info().os_pid
        [guard] = Spawning.children_of(spawner)
        family = for {pid, _} <- Spawning.descendants(guard), do: with_time(pid)
        assert length(family) == 4
        kill(guard)
        eventually(fn -> Enum.all?(family, &gone?/1) end)
        eventually(fn -> match?({:ok, %{"pid" => 2}}, call("about")) end)

      {:error, error} ->
        assert error.message =~ "another containment"
    end
  end

  # Whether another user can read Python and its packages is the machine's
  # affair: so here it is our own, by its number.
  test "a pool with a user takes gRPC, and its ready file a directory open to all" do
    {uid, 0} = System.cmd("id", ["-u"])
    uid = uid |> String.trim() |> String.to_integer()
    start(pool_config: %{user: uid, transport: :auto})
    assert {:ok, %{"uid" => ^uid}} = call("about")
    [id] = Snakepit.Pool.list_workers()
    assert {:ok, %{port: port}} = Snakepit.GRPCWorker.get_info(id)
    assert is_integer(port)
    dir = ApplicationCleanup.open_dir()
    assert {"733\n", 0} = System.cmd("stat", ["-c", "%a", dir])
    assert stop_app() == []
    refute File.exists?(dir)
  end
end
