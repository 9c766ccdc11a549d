defmodule Snakepit.ProcessKillerTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools, only: [eventually: 1]

  alias Snakepit.{OSProcess, ProcessKiller}
  alias Snakepit.OSProcess.Listing

  # The port tells of the end only when nobody holds its pipe any more.
  @stubborn ~s(trap "" TERM HUP; echo up; while :; do sleep 1000 >/dev/null 2>&1; done)

  # A process of this test's own. A port's program leads a group of its own.
  defp start(program, args) do
    port = Port.open({:spawn_executable, program}, [:binary, :exit_status, line: 100, args: args])

    {:os_pid, pid} = Port.info(port, :os_pid)
    on_exit(fn -> System.cmd("/bin/kill", ["-KILL", "--", "-#{pid}"], stderr_to_stdout: true) end)
    eventually(fn -> Listing.pgid(pid) == pid and Listing.args(pid) == [program | args] end)
    {port, pid}
  end

  defp sleeper, do: start("/bin/sleep", ["1000"])

  defp stubborn do
    {port, pid} = start("/bin/sh", ["-c", @stubborn])
    assert_receive {^port, {:data, {:eol, "up"}}}, 60_000
    {port, pid}
  end

  # Ended by that signal; the port's helper says 128 + signal.
  defp assert_ended(port, signal) do
    assert_receive {^port, {:exit_status, status}}, 60_000
    assert status == 128 + signal
  end

  test "a signal ends a process" do
    for {signal, number} <- [sigterm: 15, sigkill: 9, sighup: 1] do
      {port, pid} = sleeper()
      assert ProcessKiller.process_alive?(pid)
      assert ProcessKiller.kill_process(pid, signal) == :ok
      assert_ended(port, number)
      refute ProcessKiller.process_alive?(pid)
      assert ProcessKiller.kill_process(pid, signal) == {:error, :esrch}
    end

    {port, pid} = sleeper()
    assert ProcessKiller.kill_process(pid) == :ok
    assert_ended(port, 15)
  end

  test "numbers that are not those of a process are refused, whatever is asked" do
    for pid <- [-1, 0, 1, 0x80000000, 1.5, nil, "2", :self] do
      assert ProcessKiller.kill_process(pid) == {:error, :invalid_pid}
      assert ProcessKiller.kill_process(pid, :sigkill) == {:error, :invalid_pid}
      assert ProcessKiller.kill_process_group(pid) == {:error, :invalid_pid}
      assert ProcessKiller.kill_with_escalation(pid) == {:error, :invalid_pid}
      assert ProcessKiller.kill_process_group_with_escalation(pid) == {:error, :invalid_pid}
      assert ProcessKiller.get_process_command(pid) == {:error, :invalid_pid}
      assert ProcessKiller.get_process_group_id(pid) == {:error, :invalid_pid}
      refute ProcessKiller.process_alive?(pid)
    end
  end

  test "unknown signals are refused" do
    {_port, pid} = sleeper()

    for signal <- [:sigfoo, 0, 65, -9, "KILL"] do
      assert ProcessKiller.kill_process(pid, signal) == {:error, :invalid_signal}
      assert ProcessKiller.kill_process_group(pid, signal) == {:error, :invalid_signal}
    end

    assert ProcessKiller.process_alive?(pid)
  end

  test "our own group is never signalled" do
    {:ok, pgid} = ProcessKiller.get_process_group_id(String.to_integer(System.pid()))
    assert ProcessKiller.kill_process_group(pgid, :sigterm) == {:error, :eperm}
    assert ProcessKiller.kill_process_group_with_escalation(pgid, 0) == {:error, :eperm}
  end

  test "a signal with a start time reaches that process only" do
    {port, pid} = sleeper()
    start = OSProcess.start_time(pid)
    assert Snakepit.Native.os_signal(pid, start + 1, 9) == 3
    assert ProcessKiller.process_alive?(pid)
    assert Snakepit.Native.os_signal(pid, start, 9) == 0
    assert_ended(port, 9)
    assert Snakepit.Native.os_signal(pid, start, 9) == 3

    for {pid, start, signal} <- [{1, 0, 9}, {-5, 0, 9}, {:a, 0, 9}, {5, -1, 9}, {5, 0, 65}] do
      assert_raise ArgumentError, fn -> Snakepit.Native.os_signal(pid, start, signal) end
    end

    for {pgid, signal} <- [{1, 9}, {-5, 9}, {5, -1}, {5, 65}, {nil, 9}] do
      assert_raise ArgumentError, fn -> Snakepit.Native.os_signal_group(pgid, signal) end
    end
  end

  test "what heeds SIGTERM gets no SIGKILL, what does not is killed" do
    {port, pid} = sleeper()
    assert ProcessKiller.kill_with_escalation(pid, 60_000) == :ok
    assert_ended(port, 15)

    {port, pid} = stubborn()
    assert ProcessKiller.kill_with_escalation(pid, 10) == :ok
    assert_ended(port, 9)
    refute ProcessKiller.process_alive?(pid)
    assert ProcessKiller.kill_with_escalation(pid) == :ok
  end

  test "the whole group gets it" do
    {port, pid} = start("/bin/sh", ["-c", "sleep 1000 & echo $!; wait"])
    assert_receive {^port, {:data, {:eol, child}}}, 60_000
    child = String.to_integer(child)
    assert ProcessKiller.get_process_group_id(child) == {:ok, pid}
    assert ProcessKiller.kill_process_group(pid) == :ok
    assert_ended(port, 15)
    eventually(fn -> not ProcessKiller.process_alive?(child) end)
  end

  test "a group that does not heed SIGTERM is killed" do
    {port, pid} = stubborn()
    assert ProcessKiller.kill_process_group_with_escalation(pid, 10) == :ok
    assert_ended(port, 9)
    assert ProcessKiller.kill_process_group_with_escalation(pid, 10) == :ok
  end

  test "command, group, interpreters" do
    {port, pid} = sleeper()
    assert ProcessKiller.get_process_command(pid) == {:ok, "/bin/sleep 1000"}
    assert ProcessKiller.get_process_group_id(pid) == {:ok, pid}
    refute pid in ProcessKiller.find_python_processes()
    assert ProcessKiller.process_group_supported?()
    assert {:ok, path} = ProcessKiller.setsid_executable()
    assert ProcessKiller.setsid_executable!() == path

    Port.close(port)
    {:ok, python, _} = Snakepit.PythonRuntime.resolve_executable()
    {port, python} = start(python, ["-c", "import time; time.sleep(1000)"])
    assert python in ProcessKiller.find_python_processes()
    assert ProcessKiller.kill_process(python, :sigkill) == :ok
    assert_ended(port, 9)
    assert ProcessKiller.get_process_command(python) == {:error, :not_found}
    assert ProcessKiller.get_process_group_id(python) == {:error, :not_found}
  end

  describe "by run id" do
    defp with_args(args), do: start("/bin/sh", ["-c", "read x", "worker" | args])

    test "ends those that have it among their arguments, and no others" do
      id = unique_id()
      one = with_args(["--snakepit-run-id", id])
      two = with_args(["--run-id", id])
      other = with_args(["--run-id", unique_id()])
      text = with_args(["about --run-id #{id}"])

      assert ProcessKiller.kill_by_run_id(id) == {:ok, 2}
      for {port, _pid} <- [one, two], do: assert_ended(port, 15)
      for {_port, pid} <- [other, text], do: assert(ProcessKiller.process_alive?(pid))
      assert ProcessKiller.kill_by_run_id(id) == {:ok, 0}
    end

    test "kills what does not heed SIGTERM" do
      id = unique_id()
      {port, _pid} = start("/bin/sh", ["-c", @stubborn, "worker", "--run-id", id])
      assert_receive {^port, {:data, {:eol, "up"}}}, 60_000
      assert ProcessKiller.kill_by_run_id(id, timeout_ms: 10) == {:ok, 1}
      assert_ended(port, 9)
    end

    test "of one instance only, if asked" do
      id = unique_id()
      mine = with_args(["--run-id", id, "--snakepit-instance-token", "a"])
      other = with_args(["--run-id", id, "--snakepit-instance-token", "b"])
      assert ProcessKiller.kill_by_run_id(id, instance_token: "a") == {:ok, 1}
      assert_ended(elem(mine, 0), 15)
      assert ProcessKiller.process_alive?(elem(other, 1))
    end

    test "refuses what is no run id" do
      for id <- ["", "short", "UPPER12", "abcdefgh", nil, :abcdefg] do
        assert ProcessKiller.kill_by_run_id(id) == {:error, :invalid_run_id}
      end
    end

    defp unique_id do
      <<id::binary-size(7), _::binary>> =
        16 |> :crypto.strong_rand_bytes() |> Base.encode32(case: :lower, padding: false)

      id
    end
  end
end
