defmodule Snakepit.Pool.ProcessRegistryTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools, only: [eventually: 1, start_app: 1, stop_app: 0, signal_path: 0]

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
    # Workers of other tests stay on record until their processes are gone.
    kind = "kind of #{id}"
    assert ProcessRegistry.activate_worker(id, self(), os_pid, kind, pgid: os_pid) == :ok
    assert {:ok, %{status: :active, pgid: ^os_pid}} = ProcessRegistry.get_worker_info(id)
    assert ProcessRegistry.worker_registered?(id)
    assert os_pid in ProcessRegistry.get_active_process_pids()
    assert os_pid in ProcessRegistry.get_all_process_pids()
    assert [{^id, _}] = ProcessRegistry.get_workers_by_fingerprint(kind)

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

  test "a worker stays on record until its OS process is gone" do
    id = id()
    os_pid = sleeper()
    ProcessRegistry.activate_worker(id, self(), os_pid, "kind")
    assert ProcessRegistry.unregister_worker(id) == :ok
    refute ProcessRegistry.worker_registered?(id)
    refute os_pid in ProcessRegistry.get_active_process_pids()
    assert os_pid in ProcessRegistry.get_all_process_pids()

    # The same worker starts again meanwhile.
    assert ProcessRegistry.reserve_worker(id) == :ok
    assert {:ok, %{status: :reserved}} = ProcessRegistry.get_worker_info(id)
    assert os_pid in ProcessRegistry.get_all_process_pids()

    {_, 0} = System.cmd("/bin/kill", ["-KILL", "#{os_pid}"])
    eventually(fn -> os_pid not in ProcessRegistry.get_all_process_pids() end)
  end

  test "a reservation ends with the process that made it" do
    id = id()
    task = Task.async(fn -> ProcessRegistry.reserve_worker(id) end)
    assert Task.await(task, 60_000) == :ok
    eventually(fn -> not ProcessRegistry.worker_registered?(id) end)
  end

  test "late news of a process group counts for the same process only" do
    id = id()
    os_pid = sleeper()
    ProcessRegistry.activate_worker(id, self(), os_pid, "kind")
    assert ProcessRegistry.update_process_group(id, os_pid + 1, 77) == :ok
    assert ProcessRegistry.update_process_group("nobody", os_pid, 77) == :ok
    assert {:ok, %{pgid: pgid}} = ProcessRegistry.get_worker_info(id)
    assert pgid != 77
    assert ProcessRegistry.update_process_group(id, os_pid, 77) == :ok
    assert {:ok, %{pgid: 77, process_group?: true}} = ProcessRegistry.get_worker_info(id)
  end

  test "the dead are found and forgotten" do
    id = id()
    os_pid = sleeper()
    ProcessRegistry.activate_worker(id, self(), os_pid, "kind")
    refute List.keymember?(ProcessRegistry.validate_workers(), id, 0)
    {_, 0} = System.cmd("/bin/kill", ["-KILL", "#{os_pid}"])
    eventually(fn -> List.keymember?(ProcessRegistry.validate_workers(), id, 0) end)
    assert ProcessRegistry.cleanup_dead_workers() >= 1
    refute ProcessRegistry.worker_registered?(id)
  end

  test "all of it is in the file, which does not grow" do
    before = ProcessRegistry.dets_table_size()
    ids = for _ <- 1..100, do: id()

    # Many at once wait for one write.
    ids |> Enum.map(&Task.async(fn -> reserve_and_stay(&1) end)) |> reserved()
    # What died before may go meanwhile.
    assert ProcessRegistry.dets_table_size() in 100..(before + 100)
    entries = Map.new(ProcessRegistry.debug_show_all_entries())
    run_id = ProcessRegistry.get_beam_run_id()

    for id <- ids do
      assert %{status: :reserved, beam_run_id: ^run_id} = entries[id]
      assert ProcessRegistry.unregister_worker(id) == :ok
    end

    assert ProcessRegistry.dets_table_size() in 0..before
    assert File.exists?(ProcessRegistry.get_stats().file)
  end

  defp reserve_and_stay(id) do
    {parent, :ok} = {hd(Process.get(:"$callers")), ProcessRegistry.reserve_worker(id)}
    send(parent, {:reserved, id})
    Process.sleep(:infinity)
  end

  defp reserved(tasks) do
    for _ <- tasks, do: assert_receive({:reserved, _id}, 60_000)
    on_exit(fn -> for task <- tasks, do: Process.exit(task.pid, :kill) end)
  end

  test "a registry that crashed knows again what it knew" do
    id = id()
    os_pid = sleeper()
    ProcessRegistry.activate_worker(id, self(), os_pid, "kind")
    {run_id, server} = {ProcessRegistry.get_beam_run_id(), Process.whereis(ProcessRegistry)}
    ref = Process.monitor(server)
    Process.exit(server, :kill)
    assert_receive {:DOWN, ^ref, _, _, _}, 60_000
    eventually(fn -> Process.whereis(ProcessRegistry) not in [nil, server] end)
    # Answered when the file has been read.
    assert ProcessRegistry.dets_table_size() >= 1
    assert {:ok, %{process_pid: ^os_pid}} = ProcessRegistry.get_worker_info(id)
    assert ProcessRegistry.get_beam_run_id() == run_id
  end

  test "without a place to write to it goes on" do
    for dir <- ["/proc/nowhere/data", "/etc/passwd/data"] do
      start_app(data_dir: dir)
      id = id()
      assert ProcessRegistry.reserve_worker(id) == :ok
      assert ProcessRegistry.worker_registered?(id)
      assert ProcessRegistry.get_stats().file == nil
      assert ProcessRegistry.dets_table_size() == 0
      assert ProcessRegistry.debug_show_all_entries() == []
      assert ProcessRegistry.manual_orphan_cleanup() == :ok
    end
  end

  test "its own file, if it is garbage, is set aside; a stop removes it" do
    dir = Path.dirname(signal_path())
    start_app(data_dir: dir)
    file = ProcessRegistry.get_stats().file
    assert Path.dirname(file) == dir
    stop_app()
    refute File.exists?(file)

    File.write!(file, "garbage")
    {:ok, _} = Application.ensure_all_started(:snakepit)
    assert ProcessRegistry.reserve_worker(id()) == :ok
    assert ProcessRegistry.dets_table_size() == 1
    assert [aside] = Path.wildcard(dir <> "/*.corrupt.*")
    assert File.read!(aside) == "garbage"
  end

  describe "a clean-up" do
    defp entry(pid, time), do: {"w", %{process_pid: pid, start_time: time}}

    test "ends what is left, and nobody else" do
      mine = sleeper()
      time = OSProcess.start_time(mine)
      other = sleeper()

      assert RuntimeCleanup.run([
               entry(mine, time),
               entry(other, OSProcess.start_time(other) + 1),
               entry(other, nil),
               {"reserved", %{status: :reserved}}
             ]) == :ok

      refute OSProcess.alive?(mine, time)
      assert OSProcess.alive?(other, OSProcess.start_time(other))
    end

    test "kills what does not heed SIGTERM, within its time" do
      script = ~s(trap "" TERM; echo up; while :; do sleep 1000; done)
      port = Port.open({:spawn_executable, "/bin/sh"}, [:binary, args: ["-c", script]])
      {:os_pid, pid} = Port.info(port, :os_pid)

      on_exit(fn ->
        System.cmd("/bin/kill", ["-KILL", "--", "-#{pid}"], stderr_to_stdout: true)
      end)

      assert_receive {^port, {:data, "up" <> _}}, 60_000
      time = OSProcess.start_time(pid)

      # No time at all is said so, and what is left is killed all the same.
      assert RuntimeCleanup.run([entry(pid, time)], timeout_ms: 0) in [:ok, {:timeout, [pid]}]
      eventually(fn -> not OSProcess.alive?(pid, time) end)
    end
  end
end
