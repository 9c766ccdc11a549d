defmodule Snakepit.HeartbeatTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  alias Snakepit.{Error, HeartbeatMonitor}
  alias Snakepit.Pool.ProcessRegistry

  @moduletag :capture_log

  # Short, but longer than a loaded machine keeps a healthy worker from answering.
  @beat %{ping_interval_ms: 50, timeout_ms: 500, max_missed_heartbeats: 3}

  defp start(heartbeat, settings \\ []) do
    heartbeat = @beat |> Map.merge(heartbeat) |> Map.put(:test_pid, self())
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env, :transport]))
    pool = Map.merge(common, %{name: :default, pool_size: 1, heartbeat: heartbeat})
    start_pools([pools: [Map.merge(pool, Map.new(settings))], log_level: :none] ++ env(settings))
    assert_receive {:heartbeat_monitor_started, id, monitor}, 60_000
    {id, monitor}
  end

  defp env(_settings), do: [pooling_enabled: true]

  describe "a worker that is stopped" do
    test "in a call is replaced, and the call says why" do
      {id, _monitor} = start(%{})

      events =
        listen([
          [:snakepit, :heartbeat, :heartbeat_timeout],
          [:snakepit, :heartbeat, :monitor_failure],
          [:snakepit, :pool, :worker, :terminated]
        ])

      path = signal_path()
      task = occupy(path)
      stopped = holder(path)
      kill(stopped, "STOP")

      assert {:error, %Error{category: :worker, message: message, details: details}} =
               Task.await(task, 60_000)

      assert message =~ "none of 3 heartbeats"

      assert %{reason: :worker_exit, exit_reason: :not_responding, os_pid: ^stopped} = details

      assert missed(events, id, 1) == 3
      assert %{failure_reason: _} = event(events, [:snakepit, :heartbeat, :monitor_failure])
      assert %{planned: false} = event(events, [:snakepit, :pool, :worker, :terminated])
      assert_receive {:heartbeat_monitor_failed, ^id, _}
      eventually(fn -> match?(%{available: 1}, Snakepit.get_stats()) end)
      assert worker_pid() != stopped
      assert Snakepit.list_workers() == [id]
    end

    # In a row: it may have missed one before it was stopped.
    defp missed(_events, _id, 4), do: 3

    defp missed(events, id, next) do
      assert %{missed_count: n, worker_id: ^id, dependent: true} =
               event(events, [:snakepit, :heartbeat, :heartbeat_timeout])

      assert n in [1, next]
      missed(events, id, n + 1)
    end

    test "while it does nothing is replaced too" do
      {_id, _monitor} = start(%{})
      stopped = worker_pid()
      kill(stopped, "STOP")
      assert_receive {:heartbeat_monitor_failed, _, _}, 60_000
      eventually(fn -> stopped not in ProcessRegistry.get_active_process_pids() end)
      eventually(fn -> match?({:ok, pid} when pid != stopped, Snakepit.execute("pid", %{})) end)
    end

    test "stays with dependent: false, which is told" do
      {id, _monitor} = start(%{dependent: false})
      stopped = worker_pid()
      kill(stopped, "STOP")
      assert_receive {:heartbeat_monitor_failed, ^id, _}, 60_000
      kill(stopped, "CONT")
      assert worker_pid() == stopped
    end
  end

  test "a worker that is deadlocked with Python's lock held is replaced" do
    start(%{})
    path = signal_path()
    task = Task.async(fn -> Snakepit.execute("deadlock", %{path: path}, timeout: 60_000) end)

    assert {:error, %Error{details: %{exit_reason: :not_responding, os_pid: dead}}} =
             Task.await(task, 60_000)

    assert holder(path) == dead
    eventually(fn -> match?({:ok, pid} when pid != dead, Snakepit.execute("pid", %{})) end)
  end

  test "a worker that computes with Python's lock held is left alone" do
    {_id, monitor} = start(%{})
    pid = worker_pid()
    # Twice as long as a dead one would be given.
    assert {:ok, ^pid} = Snakepit.execute("compute", %{seconds: 3.0}, timeout: 60_000)
    assert worker_pid() == pid
    assert %{busy: busy, failures: 0} = HeartbeatMonitor.get_status(monitor)
    assert busy > 0
    refute_received {:heartbeat_monitor_failed, _, _}
  end

  @threads [
    worker_profile: :thread,
    threads_per_worker: 3,
    adapter_args: ["--adapter", "snakepit_test_tools.ThreadedTestTools"]
  ]

  test "a worker whose thread is deadlocked with Python's lock held is replaced" do
    start(%{}, @threads)
    path = signal_path()
    task = Task.async(fn -> Snakepit.execute("deadlock", %{path: path}, timeout: 60_000) end)

    assert {:error, %Error{details: %{exit_reason: :not_responding}}} = Task.await(task, 60_000)
  end

  for {profile, settings} <- [process: [], thread: @threads] do
    @settings settings
    test "a worker whose #{profile} waits in C with Python's lock held is left alone" do
      {_id, monitor} = start(%{}, @settings)
      pid = worker_pid()
      path = signal_path()
      {_, 0} = System.cmd("mkfifo", [path])
      task = Task.async(fn -> Snakepit.execute("wait_in_c", %{path: path}, timeout: 60_000) end)
      # A dead one would be given three.
      eventually(fn -> HeartbeatMonitor.get_status(monitor).busy > 6 end)
      File.write!(path, "")
      assert {:ok, ^pid} = Task.await(task, 60_000)
      assert worker_pid() == pid
      refute_received {:heartbeat_monitor_failed, _, _}
    end
  end

  test "heartbeats and cancellation go on while all threads compute" do
    {_id, monitor} = start(%{}, @threads)
    pid = worker_pid()
    paths = for n <- 1..3, do: signal_path() <> "#{n}"
    [one | others] = for path <- paths, do: Snakepit.async("hash_until", %{path: path})
    for path <- paths, do: eventually(fn -> File.exists?(path <> ".started") end)
    before = HeartbeatMonitor.get_status(monitor).pongs
    eventually(fn -> HeartbeatMonitor.get_status(monitor).pongs > before + 5 end)
    assert :ok = Snakepit.cancel(one)
    # There is a thread for it, so the cancelled one is over.
    assert {:ok, ^pid} = Snakepit.execute("pid", %{}, timeout: 60_000)
    Enum.each(paths, &go/1)
    assert [{:ok, ^pid}, {:ok, ^pid}] = Enum.map(others, &Snakepit.await/1)
  end

  test "a worker whose tool waits is left alone" do
    {_id, monitor} = start(%{})
    path = signal_path()
    task = occupy(path)
    before = HeartbeatMonitor.get_status(monitor).pongs
    eventually(fn -> HeartbeatMonitor.get_status(monitor).pongs > before + 20 end)
    go(path)
    assert {:ok, _} = Task.await(task, 60_000)
  end

  test "there is no monitor where heartbeats are off" do
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env, :transport]))
    beat = %{enabled: false, test_pid: self()}
    pool = Map.merge(common, %{name: :default, pool_size: 1, heartbeat: beat})
    start_pools(pools: [pool], pooling_enabled: true)
    refute_received {:heartbeat_monitor_started, _, _}
    assert is_integer(worker_pid())
  end

  test "a ping of the user's is asked instead" do
    test = self()
    fun = fn timestamp -> send(test, {:asked, timestamp}) && :ok end
    {_id, monitor} = start(%{ping_fun: fun})
    assert_receive {:asked, timestamp} when is_integer(timestamp), 60_000
    eventually(fn -> HeartbeatMonitor.get_status(monitor).pongs > 0 end)
  end

  test "a worker whose monitor dies gets another one" do
    {id, monitor} = start(%{})
    pid = worker_pid()
    Process.exit(monitor, :kill)
    assert_receive {:heartbeat_monitor_started, ^id, other}, 60_000
    assert other != monitor
    assert worker_pid() == pid
  end
end
