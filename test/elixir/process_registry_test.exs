defmodule Snakepit.Pool.ProcessRegistryTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools, only: [eventually: 1]

  alias Snakepit.{OSProcess, RuntimeCleanup}
  alias Snakepit.Pool.ProcessRegistry

  # An OS process of this test's own.
  defp sleeper do
    port = Port.open({:spawn_executable, "/bin/sleep"}, [:binary, args: ["1000"]])
    {:os_pid, pid} = Port.info(port, :os_pid)
    on_exit(fn -> System.cmd("/bin/kill", ["-KILL", "#{pid}"], stderr_to_stdout: true) end)
    pid
  end

  defp id do
    id = "w#{System.unique_integer([:positive])}"
    on_exit(fn -> ProcessRegistry.unregister_worker(id) end)
    id
  end

  test "a worker is reserved, active, forgotten" do
    id = id()
    assert ProcessRegistry.reserve_worker(id) == :ok
    assert {:ok, %{status: :reserved}} = ProcessRegistry.get_worker_info(id)

    os_pid = sleeper()
    assert ProcessRegistry.activate_worker(id, self(), os_pid, "kind", pgid: os_pid) == :ok
    assert {:ok, %{status: :active, pgid: ^os_pid}} = ProcessRegistry.get_worker_info(id)
    assert ProcessRegistry.worker_registered?(id)
    assert os_pid in ProcessRegistry.get_active_process_pids()
    assert os_pid in ProcessRegistry.get_all_process_pids()
    assert [{^id, _}] = ProcessRegistry.get_workers_by_fingerprint("kind")

    assert {id, elem(ProcessRegistry.get_worker_info(id), 1)} in ProcessRegistry.current_run_entries()

    assert ProcessRegistry.unregister_worker(id) == :ok
    assert ProcessRegistry.unregister_worker(id) == :ok
    assert ProcessRegistry.get_worker_info(id) == {:error, :not_found}
  end

  test "a worker whose process died is forgotten when its OS process is gone" do
    id = id()
    os_pid = sleeper()
    {:ok, owner} = Task.start(fn -> Process.sleep(:infinity) end)
    ProcessRegistry.activate_worker(id, owner, os_pid, "kind")
    {_, 0} = System.cmd("/bin/kill", ["-KILL", "#{os_pid}"])
    eventually(fn -> OSProcess.start_time(os_pid) == nil end)
    Process.exit(owner, :kill)
    eventually(fn -> not ProcessRegistry.worker_registered?(id) end)
  end

  test "a number without its start time is not the process" do
    os_pid = sleeper()
    time = OSProcess.start_time(os_pid)
    assert OSProcess.alive?(os_pid, time)
    refute OSProcess.alive?(os_pid, time + 1)
    refute OSProcess.alive?(os_pid, nil)
    assert OSProcess.start_time(4_194_305) == nil
  end

  test "a clean-up ends what is left, and nobody else" do
    mine = sleeper()
    other = sleeper()
    entry = fn pid, time -> {"w", %{process_pid: pid, start_time: time}} end

    assert RuntimeCleanup.run([
             entry.(mine, OSProcess.start_time(mine)),
             entry.(other, OSProcess.start_time(other) + 1),
             {"reserved", %{status: :reserved}}
           ]) == :ok

    assert OSProcess.start_time(mine) == nil
    assert OSProcess.alive?(other, OSProcess.start_time(other))
  end
end
