defmodule Snakepit.PoolTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.{Error, Pool}
  alias Snakepit.Pool.Worker.StarterRegistry

  doctest Pool, only: [get_default_timeout_for_call: 3, derive_rpc_timeout_from_opts: 2]

  describe "budgets" do
    test "leave the margins to the worker's call" do
      deadline = System.monotonic_time(:millisecond) + 59_500
      left = Pool.derive_rpc_timeout_from_opts([deadline_ms: deadline], 60_000)
      assert left in 50_000..58_300
      assert Pool.derive_rpc_timeout_from_opts([timeout: 2_000], 60_000) == 800
      assert Pool.derive_rpc_timeout_from_opts([], :infinity) == :infinity
    end

    test "bound the wait for a worker" do
      deadline = System.monotonic_time(:millisecond) + 5_000
      assert Pool.effective_queue_timeout_ms([deadline_ms: deadline], 10_000) in 1..5_000
      assert Pool.effective_queue_timeout_ms([deadline_ms: 0 - 1_000_000_000_000], 10) == 0
      assert Pool.effective_queue_timeout_ms([], 10_000) == 10_000
    end

    test "come from the profile" do
      assert Pool.get_default_timeout_for_call(:execute, %{}, []) == 300_000
      assert Pool.get_default_timeout_for_call(:execute_stream, %{}, []) == 900_000
      assert Pool.get_default_timeout_for_call(:queue, %{}, []) == 10_000
    end
  end

  describe "a pool of one with a short queue" do
    setup do
      start_pools(pool_size: 1, pool_max_queue_size: 2)
      path = signal_path()
      %{path: path, holder: occupy(path)}
    end

    test "queues, and refuses what is too much", %{path: path, holder: holder} do
      waiting = for _ <- 1..2, do: Task.async(fn -> Snakepit.execute("pid", %{}) end)
      eventually(fn -> match?(%{queued: 2}, Snakepit.get_stats()) end)

      assert {:error, %Error{category: :pool, details: %{reason: :pool_saturated}}} =
               Snakepit.execute("pid", %{})

      assert %{pool_saturated: 1, busy: 1, available: 0} = Snakepit.get_stats()
      go(path)
      assert [{:ok, pid}, {:ok, pid}] = Task.await_many(waiting, 60_000)
      assert Task.await(holder, 60_000) == {:ok, pid}
    end

    test "lets nobody wait longer than the queue time-out", %{path: path, holder: holder} do
      assert {:error, %Error{category: :timeout, details: %{reason: :queue_timeout}}} =
               Snakepit.execute("pid", %{}, queue_timeout: 20)

      assert %{queue_timeouts: 1, queued: 0} = Snakepit.get_stats()
      go(path)
      assert {:ok, _} = Task.await(holder, 60_000)
    end

    test "forgets the request of a caller that died", %{path: path, holder: holder} do
      file = path <> ".notes"

      dead = spawn(fn -> Snakepit.execute("note", %{path: file, text: "of the dead"}) end)

      eventually(fn -> match?(%{queued: 1}, Snakepit.get_stats()) end)
      Process.exit(dead, :kill)
      eventually(fn -> match?(%{queued: 0}, Snakepit.get_stats()) end)
      go(path)
      assert {:ok, _} = Task.await(holder, 60_000)
      assert {:ok, nil} = Snakepit.execute("note", %{path: file, text: "of the living"})
      assert File.read!(file) == "of the living\n"
    end

    test "answers everybody when it is stopped", %{holder: holder} do
      waiting = Task.async(fn -> Snakepit.execute("pid", %{}) end)
      eventually(fn -> match?(%{queued: 1}, Snakepit.get_stats()) end)
      assert stop_app() == []
      assert {:error, %Error{}} = Task.await(holder, 60_000)
      assert {:error, %Error{}} = Task.await(waiting, 60_000)

      assert {:error, %Error{category: :pool, details: %{reason: :pool_not_initialized}}} =
               Snakepit.execute("pid", %{})
    end
  end

  describe "threads" do
    test "a worker of the thread profile runs several calls at a time" do
      common = Map.new(Keyword.take(defaults(), [:adapter_env]))

      pool =
        Map.merge(common, %{
          name: :threads,
          worker_profile: :thread,
          pool_size: 1,
          threads_per_worker: 3,
          adapter_args: ["--adapter", "snakepit_test_tools.ThreadedTestTools"]
        })

      start_pools(pools: [pool])
      paths = for _ <- 1..3, do: signal_path()
      tasks = Enum.map(paths, &occupy/1)
      assert %{busy: 1, available: 0} = Snakepit.get_stats()
      Enum.each(paths, &go/1)
      assert [{:ok, pid}, {:ok, pid}, {:ok, pid}] = Task.await_many(tasks, 60_000)
    end
  end

  describe "a worker that dies" do
    setup do
      # However long it takes to start one, they count as restarts in a row.
      start_pools(pool_size: 2, log_level: :none, worker_starter_max_seconds: 600)
    end

    @tag :capture_log
    test "fails its call with how it ended, and is there again under its id" do
      ids = Snakepit.list_workers()
      path = signal_path()
      task = occupy(path)

      held = holder(path)
      kill(held)

      assert {:error, %Error{category: :worker, message: message, details: details}} =
               Task.await(task, 60_000)

      assert message =~ "SIGKILL"
      assert %{reason: :worker_exit, signal: 9, command: "hold"} = details
      assert details.os_pid == held
      eventually(fn -> match?(%{workers: 2, available: 2}, Snakepit.get_stats()) end)
      assert Snakepit.list_workers() == ids
      refute held in Pool.ProcessRegistry.get_active_process_pids()
    end

    @tag :capture_log
    test "by its own exit is told with the status" do
      assert {:error, %Error{category: :worker, details: %{exit_status: 3, reason: :worker_exit}}} =
               Snakepit.execute("end", %{status: 3})

      eventually(fn -> match?(%{workers: 2}, Snakepit.get_stats()) end)
    end

    @tag :capture_log
    test "too often is replaced by another, and the others are not disturbed" do
      [first, second] = Snakepit.list_workers()

      eventually(fn ->
        case Pool.ProcessRegistry.get_worker_info(first) do
          {:ok, %{process_pid: pid}} ->
            System.cmd("/bin/kill", ["-KILL", "#{pid}"], stderr_to_stdout: true)

          _ ->
            :ok
        end

        not StarterRegistry.starter_exists?(first)
      end)

      eventually(fn -> match?(%{workers: 2}, Snakepit.get_stats()) end)
      assert second in Snakepit.list_workers()
    end

    @tag :capture_log
    test "with its supervisor is missed and started anew" do
      [first, second] = Snakepit.list_workers()
      {:ok, starter} = StarterRegistry.get_starter_pid(first)
      Process.exit(starter, :kill)
      eventually(fn -> first not in Snakepit.list_workers() end)
      eventually(fn -> length(Snakepit.list_workers()) == 2 end)
      assert second in Snakepit.list_workers()
    end
  end

  @tag :capture_log
  test "with pool_reconcile_interval_ms: 0 nobody is started for one that is missing" do
    start_pools(pool_size: 2, pool_reconcile_interval_ms: 0)
    [first, second] = Snakepit.list_workers()
    {:ok, starter} = StarterRegistry.get_starter_pid(first)
    Process.exit(starter, :kill)
    eventually(fn -> Snakepit.list_workers() == [second] end)
    # The pool has heard of it, and has acted if it does.
    %{starting: starting} = :sys.get_state(Snakepit.Pool)
    assert MapSet.size(starting) == 0
    eventually(fn -> StarterRegistry.list_starters() == [second] end)
    assert {:ok, _} = Snakepit.execute("pid", %{})
  end

  @tag :capture_log
  test "a worker that is stopped does not hold up the others, and may be asked for again" do
    start_pools(pool_size: 1)
    [id] = Snakepit.list_workers()
    before = worker_pid()
    assert {:ok, _pid} = Pool.WorkerSupervisor.restart_worker(id)
    eventually(fn -> Snakepit.list_workers() == [id] end)
    assert worker_pid() != before
    assert Pool.WorkerSupervisor.worker_count() == 1
    assert Pool.WorkerSupervisor.stop_worker("none") == {:error, :worker_not_found}
  end

  @tag :capture_log
  test "a worker's own process may be killed: its call is answered, its OS process is gone" do
    start_pools(pool_size: 2)
    path = signal_path()
    task = occupy(path)
    os_pid = holder(path)
    time = Snakepit.OSProcess.start_time(os_pid)

    [id] =
      for id <- Snakepit.list_workers(),
          {:ok, %{process_pid: ^os_pid}} <- [Snakepit.GRPCWorker.get_info(id)],
          do: id

    {:ok, pid} = Pool.Registry.get_worker_pid(id)
    Process.exit(pid, :kill)

    assert {:error, %Error{category: :worker, details: %{reason: :worker_exit}}} =
             Task.await(task, 60_000)

    eventually(fn -> match?(%{workers: 2, available: 2}, Snakepit.get_stats()) end)
    eventually(fn -> not Snakepit.OSProcess.alive?(os_pid, time) end)
  end

  @tag :capture_log
  test "the spawner may be killed: calls are answered, and the pool comes back" do
    start_pools(pool_size: 2)
    processes = os_processes()
    path = signal_path()
    task = occupy(path)
    kill(Snakepit.Spawner.info(Snakepit.Spawner).os_pid)
    assert {:error, %Error{}} = Task.await(task, 60_000)
    eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{})) end)
    refute Enum.any?(processes, fn {pid, time} -> Snakepit.OSProcess.alive?(pid, time) end)
    eventually(fn -> match?(%{workers: 2}, Snakepit.get_stats()) end)
  end

  @tag :capture_log
  test "workers outlive the process of the pools" do
    start_pools(pool_size: 2)

    pids =
      Enum.sort(
        for id <- Snakepit.list_workers(),
            {:ok, i} = Snakepit.GRPCWorker.get_info(id),
            do: i.process_pid
      )

    pool = Process.whereis(Pool)
    Process.exit(pool, :kill)
    eventually(fn -> Process.whereis(Pool) not in [nil, pool] end)
    assert Pool.await_init_complete(Pool, 60_000) == :ok
    assert %{workers: 2} = Snakepit.get_stats()
    assert worker_pid() in pids
    assert pids == Enum.sort(Pool.ProcessRegistry.get_active_process_pids())
  end

  @tag :capture_log
  test "cleanup ends all worker processes, and the pool gets new ones" do
    start_pools(pool_size: 2)
    processes = os_processes()
    assert length(processes) == 2
    assert Snakepit.cleanup() == :ok
    refute Enum.any?(processes, fn {pid, time} -> Snakepit.OSProcess.alive?(pid, time) end)
    eventually(fn -> match?(%{workers: 2}, Snakepit.get_stats()) end)
  end

  test "more workers than are allowed are not started, and that is said" do
    log =
      capture_log(fn ->
        start_pools(pool_size: 3, pool_max_workers: 1, log_level: :warning)
      end)

    assert log =~ "the limit is 1"
    assert [_] = Snakepit.list_workers()
  end

  test "batches are kept when they are asked for" do
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env]))

    pool =
      Map.merge(common, %{
        name: :waves,
        pool_size: 3,
        startup_batch_size: 1,
        startup_batch_delay_ms: 1
      })

    start_pools(pools: [pool])
    assert length(Snakepit.list_workers()) == 3
  end
end
