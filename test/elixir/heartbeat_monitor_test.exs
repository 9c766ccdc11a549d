defmodule Snakepit.HeartbeatMonitorTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools, only: [eventually: 1]

  alias Snakepit.HeartbeatMonitor

  @moduletag :capture_log

  # Traps nothing: the monitor's signal ends it.
  defp worker do
    test = self()
    pid = spawn(fn -> worker_loop(test) end)
    on_exit(fn -> Process.exit(pid, :kill) end)
    {pid, Process.monitor(pid)}
  end

  defp worker_loop(test) do
    receive do
      message -> send(test, {:worker, message})
    end

    worker_loop(test)
  end

  defp start(opts) do
    Process.flag(:trap_exit, true)

    {:ok, monitor} =
      [worker_id: "w", ping_interval_ms: 5, timeout_ms: 20, test_pid: self()]
      |> Keyword.merge(opts)
      |> HeartbeatMonitor.start_link()

    monitor
  end

  test "a worker that never answers gets an exit signal that says so" do
    {pid, ref} = worker()
    monitor = start(worker_pid: pid, ping_fun: fn _ -> :ok end, max_missed_heartbeats: 3)

    assert_receive {:DOWN, ^ref, :process, ^pid, {:shutdown, {:heartbeat_failed, text}}}, 60_000
    assert text =~ "none of 3"
    assert_receive {:heartbeat_monitor_failed, "w", :timeout}
    assert_receive {:EXIT, ^monitor, {:shutdown, {:heartbeat_failed, ^text}}}, 60_000
  end

  test "one failed ping is one miss, not the end" do
    {pid, _ref} = worker()
    failures = :counters.new(1, [])
    test = self()

    fun = fn timestamp ->
      :counters.add(failures, 1, 1)

      case :counters.get(failures, 1) do
        n when n < 3 -> {:error, :refused}
        n -> send(test, {:tried, n}) && HeartbeatMonitor.notify_pong(self(), timestamp)
      end
    end

    monitor = start(worker_pid: pid, ping_fun: fun, max_missed_heartbeats: 4, timeout_ms: 1_000)
    assert_receive {:tried, 3}, 60_000
    assert_receive {:tried, 6}, 60_000
    eventually(fn -> HeartbeatMonitor.get_status(monitor).missed_heartbeats == 0 end)
    assert HeartbeatMonitor.get_status(monitor).pongs >= 3
    assert Process.alive?(pid)
  end

  test "why pings fail is told" do
    {pid, ref} = worker()
    # Time for a ping to begin, on a machine that has other things to do.
    settings = [max_missed_heartbeats: 1, timeout_ms: 1_000]
    start([worker_pid: pid, ping_fun: fn _ -> raise "broken" end] ++ settings)
    assert_receive {:DOWN, ^ref, :process, _, {:shutdown, {:heartbeat_failed, text}}}, 60_000
    assert text =~ "broken"
    assert_receive {:heartbeat_monitor_failed, "w", {:ping_failed, %RuntimeError{}}}
  end

  test "a ping that hangs is a miss" do
    {pid, ref} = worker()
    hang = fn _ -> Process.sleep(:infinity) end
    start(worker_pid: pid, ping_fun: hang, max_missed_heartbeats: 2)
    assert_receive {:DOWN, ^ref, :process, _, {:shutdown, {:heartbeat_failed, _}}}, 60_000
  end

  test "pongs that come by message keep it alive" do
    {pid, _ref} = worker()

    monitor =
      start(worker_pid: pid, ping_fun: &(send(pid, {:ping, &1}) && :ok), timeout_ms: 60_000)

    for _ <- 1..5 do
      assert_receive {:worker, {:ping, timestamp}}, 60_000
      :ok = HeartbeatMonitor.notify_pong(monitor, timestamp)
    end

    assert %{pongs: pongs, last_latency_ms: ms} = HeartbeatMonitor.get_status(monitor)
    assert pongs >= 5 and ms >= 0
  end

  test "a worker that shows another sign of life is busy, not dead" do
    {pid, _ref} = worker()
    test = self()
    judge = fn seen -> send(test, {:judged, seen}) && :active end

    monitor =
      start(
        worker_pid: pid,
        ping_fun: fn _ -> :ok end,
        max_missed_heartbeats: 1,
        sign: {fn -> :looked end, judge}
      )

    for _ <- 1..3, do: assert_receive({:judged, :looked}, 60_000)
    eventually(fn -> HeartbeatMonitor.get_status(monitor).busy >= 3 end)
    assert Process.alive?(pid)
  end

  test "one that was held up itself looks again before it counts a miss, once" do
    {pid, ref} = worker()
    ping = &(send(pid, {:ping, &1}) && :ok)
    monitor = start(worker_pid: pid, ping_fun: ping, timeout_ms: 60_000, max_missed_heartbeats: 1)
    assert_receive {:worker, {:ping, timestamp}}
    overdue(monitor)
    assert %{timeouts: 0, missed_heartbeats: 0} = HeartbeatMonitor.get_status(monitor)
    :ok = HeartbeatMonitor.notify_pong(monitor, timestamp)
    assert_receive {:worker, {:ping, _next}}
    for _ <- 1..2, do: overdue(monitor)
    assert_receive {:DOWN, ^ref, :process, ^pid, {:shutdown, {:heartbeat_failed, text}}}
    assert text =~ "none of 1"
  end

  # As after an hour in which it did not run.
  defp overdue(monitor) do
    %{ping: ping} = :sys.replace_state(monitor, &%{&1 | due: &1.due - 3_600_000})
    send(monitor, {:overdue, ping})
  end

  test "with dependent: false it goes on, and counts anew" do
    {pid, _ref} = worker()
    start(worker_pid: pid, ping_fun: fn _ -> :ok end, max_missed_heartbeats: 2, dependent: false)
    for _ <- 1..2, do: assert_receive({:heartbeat_monitor_failed, "w", :timeout}, 60_000)
    assert Process.alive?(pid)
  end

  test "it ends with its worker" do
    {pid, _ref} = worker()
    monitor = start(worker_pid: pid, ping_fun: fn _ -> :ok end, timeout_ms: 60_000)
    Process.exit(pid, :kill)
    assert_receive {:EXIT, ^monitor, {:shutdown, :worker_down}}, 60_000
    assert_receive {:heartbeat_monitor_stopped, "w", {:shutdown, :worker_down}}
  end

  test "a child specification starts it" do
    {pid, _ref} = worker()
    opts = [worker_pid: pid, worker_id: "c", ping_fun: fn _ -> :ok end]
    assert {HeartbeatMonitor, "c"} = HeartbeatMonitor.child_spec(opts).id
    monitor = start_supervised!({HeartbeatMonitor, opts})
    assert %{worker_id: "c", dependent: true} = HeartbeatMonitor.get_status(monitor)
  end
end
