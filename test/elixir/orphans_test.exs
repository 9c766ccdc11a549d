defmodule Snakepit.Pool.ProcessRegistry.OrphansTest do
  # What dead BEAMs leave behind, with other BEAMs.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO, only: [capture_io: 2]
  import Snakepit.Test.AppEnv
  import Snakepit.Test.Pools, only: [eventually: 1, signal_path: 0]

  alias Snakepit.OSProcess
  alias Snakepit.OSProcess.Listing
  alias Snakepit.Pool.ProcessRegistry.{Disk, Orphans, Owner}
  alias Snakepit.Test.OtherVM

  # An unguarded process is recorded as a worker, and said.
  @worker """
  pid = unguarded.([])
  :ok = ProcessRegistry.reserve_worker("w1")
  :ok = ProcessRegistry.activate_worker("w1", self(), pid, "test")
  {:ok, entry} = ProcessRegistry.get_worker_info("w1")
  say.({pid, entry.start_time})
  """

  setup do
    %{dir: Path.dirname(signal_path())}
  end

  defp worker(beam) do
    {pid, start} = OtherVM.hear(beam)
    OtherVM.end_later(pid)
    assert OSProcess.alive?(pid, start)
    {pid, start}
  end

  defp context(dir) do
    key = Owner.key()
    %{dir: dir, key: key, owner: Owner.this("0000000", dir, key)}
  end

  # An owner that is known to be dead: its number never belonged to a process.
  defp dead_owner(dir), do: %{context(dir).owner | pid: 4_194_305, start: 7}

  defp dead_file(dir, entries) do
    {:ok, disk} = Disk.open(dir, Owner.key(), dead_owner(dir))
    for {id, entry} <- entries, do: :ok = Disk.put(disk, id, entry)
    :ok = Disk.close(disk)
    disk.path
  end

  defp sleeper(env \\ []) do
    port =
      Port.open({:spawn_executable, "/bin/sleep"}, [
        :binary,
        args: ["1000"],
        env: for({k, v} <- env, do: {String.to_charlist(k), String.to_charlist(v)})
      ])

    {:os_pid, pid} = Port.info(port, :os_pid)
    OtherVM.end_later(pid)
    # Before that it has the environment of what started it.
    eventually(fn -> Listing.args(pid) == ["/bin/sleep", "1000"] end)
    {pid, OSProcess.start_time(pid)}
  end

  defp alive?({pid, start}), do: OSProcess.alive?(pid, start)
  defp entry({pid, start}), do: %{status: :active, process_pid: pid, start_time: start}
  defp registries(dir), do: Path.wildcard(dir <> "/*.dets")

  describe "two BEAMs in one directory" do
    test "the worker of one that was killed is ended when the next starts", %{dir: dir} do
      first = OtherVM.start(dir, @worker)
      worker = worker(first)
      OtherVM.kill_and_wait(first)
      assert alive?(worker)
      assert [file] = registries(dir)

      second = OtherVM.start(dir, ~s|say.(ProcessRegistry.dets_table_size())|)
      assert OtherVM.hear(second) == 0
      eventually(fn -> not alive?(worker) end)
      eventually(fn -> not File.exists?(file) and length(registries(dir)) == 1 end)
    end

    test "the worker of one that lives is left alone", %{dir: dir} do
      first = OtherVM.start(dir, @worker)
      worker = worker(first)

      second =
        OtherVM.start(dir, """
        :ok = ProcessRegistry.manual_orphan_cleanup()
        say.(ProcessRegistry.debug_show_all_entries())
        """)

      assert OtherVM.hear(second) == []
      assert alive?(worker)
      assert length(registries(dir)) == 2
    end

    test "other instances are left alone, dead or not", %{dir: dir} do
      first = OtherVM.start(dir, @worker, settings: [instance_token: "one"])
      worker = worker(first)
      OtherVM.kill_and_wait(first)

      code = "say.(ProcessRegistry.manual_orphan_cleanup())"
      second = OtherVM.start(dir, code, settings: [instance_token: "two"])
      assert OtherVM.hear(second) == :ok
      assert alive?(worker)
      assert Enum.any?(registries(dir), &(&1 =~ "process_registry_one@"))

      third = OtherVM.start(dir, code, settings: [instance_token: "one"])
      assert OtherVM.hear(third) == :ok
      eventually(fn -> not alive?(worker) end)
    end

    test "what was reserved is found when it was started", %{dir: dir} do
      first =
        OtherVM.start(dir, """
        :ok = ProcessRegistry.reserve_worker("w1")
        pid = unguarded.([ProcessRegistry.owner_variable()])
        say.({pid, Snakepit.OSProcess.start_time(pid)})
        """)

      worker = worker(first)
      OtherVM.kill_and_wait(first)
      assert [file] = registries(dir)
      assert [{"w1", %{status: :reserved}}] = read_copy(file)

      assert Orphans.run(context(dir)) == [elem(worker, 0)]
      refute alive?(worker)
      assert registries(dir) == []
    end

    test "a full disk is a warning", %{dir: dir} do
      # No file may become longer than 16 KiB.
      beam =
        OtherVM.start(
          dir,
          """
          for n <- 1..500, do: :ok = ProcessRegistry.reserve_worker("worker_\#{n}")
          say.({ProcessRegistry.get_stats().reserved, ProcessRegistry.get_stats().file})
          """,
          before: "trap '' XFSZ; ulimit -f 32;"
        )

      assert warned(beam) =~ "no more recorded on disk"
      assert OtherVM.hear(beam) == {500, nil}
    end
  end

  defp warned(beam) do
    line = OtherVM.hear_line(beam)
    if line =~ "recorded on disk", do: line, else: warned(beam)
  end

  defp read_copy(file) do
    copy = file <> ".copy"
    File.cp!(file, copy)
    {:ok, entries} = Disk.read_claimed(copy)
    File.rm!(copy)
    entries
  end

  describe "a dead owner's file" do
    test "names processes; those that still are what they were are killed", %{dir: dir} do
      mine = sleeper()
      {pid, start} = other = sleeper()
      file = dead_file(dir, [{"a", entry(mine)}, {"b", entry({pid, start + 1})}])

      assert Orphans.run(context(dir)) == [elem(mine, 0)]
      refute alive?(mine)
      assert alive?(other)
      refute File.exists?(file)
    end

    test "says nothing about numbers without a start, or out of range", %{dir: dir} do
      other = {pid, _} = sleeper()

      dead_file(dir, [
        {"a", entry({pid, nil})},
        {"b", entry({-1, 5})},
        {"c", entry({1, OSProcess.start_time(1)})},
        {"d", %{}},
        {:e, entry(other)}
      ])

      assert Orphans.run(context(dir)) == []
      assert alive?(other)
    end

    test "is claimed once, and again from a claimer that died", %{dir: dir} do
      file = dead_file(dir, [])
      [claimed] = Disk.claim(dir, Owner.key(), context(dir).owner)
      refute File.exists?(file)
      assert Disk.claim(dir, Owner.key(), context(dir).owner) == [claimed]

      # Another that lives does not take it, one that finds the claimer dead does.
      {pid, start} = sleeper()
      living = %{context(dir).owner | pid: pid, start: start}
      assert Disk.claim(dir, Owner.key(), living) == []

      ours = "+#{context(dir).owner.pid}-#{context(dir).owner.start}.dets"
      File.rename!(claimed, String.replace(claimed, ours, "+4194306-9.dets"))
      assert [again] = Disk.claim(dir, Owner.key(), living)
      assert again =~ "+#{pid}-#{start}.dets"
    end

    test "is deleted unread when it is of another boot and long untouched", %{dir: dir} do
      owner = %{dead_owner(dir) | host: "0123456789ab"}
      worker = sleeper()
      {:ok, disk} = Disk.open(dir, Owner.key(), owner)
      :ok = Disk.put(disk, "a", entry(worker))
      :ok = Disk.close(disk)

      assert Orphans.run(context(dir)) == []
      assert File.exists?(disk.path)

      File.touch!(disk.path, System.os_time(:second) - 8 * 24 * 3600)
      assert Orphans.run(context(dir)) == []
      refute File.exists?(disk.path)
      assert alive?(worker)
    end

    test "that was not closed is read whole, without a word on the console", %{dir: dir} do
      before = for n <- 1..300, do: {"w#{n}", %{text: String.duplicate("x", rem(n * 37, 900))}}
      path = dead_file(dir, before)
      {:ok, disk} = Disk.open(dir, Owner.key(), dead_owner(dir))
      for n <- 1..50, do: :ok = Disk.delete(disk, "w#{n}")
      changed = for n <- 51..100, do: {"w#{n}", %{text: String.duplicate("y", 2000 + n)}}
      for {id, entry} <- changed, do: :ok = Disk.put(disk, id, entry)
      :ok = Disk.flush(disk)
      now = Enum.sort(changed ++ Enum.drop(before, 100))
      assert Enum.sort(Disk.entries(disk)) == now

      bytes = File.read!(path)
      :ok = Disk.close(disk)
      # The mark of a closed file, which is set soon after each write.
      <<head::binary-size(8), _::32, rest::binary>> = bytes
      File.write!(path, [head, <<0::32>>, rest])
      options = [file: String.to_charlist(path), repair: false]
      assert {:error, {:needs_repair, _}} = :dets.open_file(make_ref(), options)

      said =
        capture_io(:user, fn ->
          assert {:ok, entries} = Disk.read_claimed(path)
          assert Enum.sort(entries) == now
          # As this VM's own, which goes on with it.
          assert {:ok, disk} = Disk.open(dir, Owner.key(), dead_owner(dir))
          assert Enum.sort(Disk.entries(disk)) == now
          :ok = Disk.close(disk)
        end)

      assert said == ""
    end

    test "of a newer version is left alone", %{dir: dir} do
      worker = sleeper()
      file = dead_file(dir, [{"a", entry(worker)}])
      {:ok, table} = :dets.open_file(make_ref(), file: String.to_charlist(file))
      :ok = :dets.insert(table, {:snakepit_process_registry, %{version: 2}})
      :ok = :dets.close(table)

      assert Orphans.run(context(dir)) == []
      assert alive?(worker)
      assert [_] = registries(dir)
    end

    test "that is garbage is set aside", %{dir: dir} do
      for garbage <- ["", "garbage", :crypto.strong_rand_bytes(20_000)] do
        File.write!(dead_file(dir, []), garbage)
        assert Orphans.run(context(dir)) == []
        assert registries(dir) == []
        assert [aside] = Path.wildcard(dir <> "/*.corrupt.*")
        assert File.read!(aside) == garbage
        File.rm!(aside)
      end
    end

    test "that is cut off anywhere never does harm", %{dir: dir} do
      mine = sleeper()
      {pid, start} = other = sleeper()
      entries = for n <- 1..20, do: {"w#{n}", entry({pid, start + n})}
      file = dead_file(dir, [{"mine", entry(mine)} | entries])
      whole = File.read!(file)
      File.rm!(file)

      for cut <- Enum.take_every(0..byte_size(whole), 257) do
        File.write!(file, binary_part(whole, 0, cut))
        assert Orphans.run(context(dir)) in [[], [elem(mine, 0)]]
        assert registries(dir) == []
      end

      assert alive?(other)
    end
  end

  test "under the plain name only garbage is touched", %{dir: dir} do
    plain = Path.join(dir, "process_registry_#{Owner.key()}.dets")
    {:ok, table} = :dets.open_file(make_ref(), file: String.to_charlist(plain))
    :ok = :dets.insert(table, {"w", %{process_pid: 1}})
    :ok = :dets.close(table)
    before = File.read!(plain)
    assert Orphans.run(context(dir)) == []
    assert File.read!(plain) == before

    File.write!(plain, "garbage")
    assert Orphans.run(context(dir)) == []
    refute File.exists?(plain)
    assert [_] = Path.wildcard(plain <> ".corrupt.*")
  end

  describe "a process with a dead owner in its environment" do
    setup %{dir: dir} do
      %{dead: [{Owner.variable(), Owner.to_text(dead_owner(dir))}]}
    end

    test "is ended without a file", %{dir: dir, dead: dead} do
      worker = sleeper(dead)
      assert Orphans.run(context(dir)) == [elem(worker, 0)]
      refute alive?(worker)
    end

    test "is left alone with rogue_cleanup: false", %{dir: dir, dead: dead} do
      worker = sleeper(dead)

      for setting <- [false, [enabled: false], %{enabled: false}] do
        put_env(rogue_cleanup: setting)
        assert Orphans.run(context(dir)) == []
      end

      assert alive?(worker)
    end

    test "is left alone if the owner lives, is of elsewhere, or is nonsense", %{dir: dir} do
      this = context(dir).owner
      dead = dead_owner(dir)

      others =
        for text <- [
              Owner.to_text(this),
              Owner.to_text(%{dead | host: "0123456789ab"}),
              Owner.to_text(%{dead | scope: "0123456789ab"}),
              Owner.to_text(%{dead | start: 0}),
              "1:nonsense",
              ""
            ],
            do: sleeper([{Owner.variable(), text}])

      assert Orphans.run(context(dir)) == []
      assert Enum.all?(others, &alive?/1)
    end
  end

  test "where start times are not known nothing is touched", %{dir: dir} do
    file = dead_file(dir, [])
    context = context(dir)
    assert Orphans.run(%{context | owner: %{context.owner | start: 0}}) == []
    assert File.exists?(file)
  end
end
