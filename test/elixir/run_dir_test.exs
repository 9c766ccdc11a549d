defmodule Snakepit.Pool.RunDirTest do
  # The temporary directories of BEAMs: who removes them, and which.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools, only: [eventually: 1, kill: 1, kill: 2, signal_path: 0]

  alias Snakepit.OSProcess
  alias Snakepit.Pool.ProcessRegistry.Owner
  alias Snakepit.Pool.RunDir
  alias Snakepit.Test.OtherVM

  setup do
    %{parent: Path.dirname(signal_path())}
  end

  defp this, do: Owner.this("0000000", "", "")

  defp name(changes) do
    %{host: host, pid: pid, start: start} = Map.merge(Map.from_struct(this()), changes)
    "snakepit-#{host}-#{pid}-#{start}-aB3-_9"
  end

  # The number never belonged to a process.
  defp dead(start), do: name(%{pid: 4_194_305, start: start})

  defp make(parent, name) do
    path = Path.join(parent, name)
    File.mkdir_p!(path)
    path
  end

  describe "a sweep" do
    test "removes what dead BEAMs left, and nothing else", %{parent: parent} do
      own = make(parent, name(%{}))
      dead = [make(parent, dead(1)), make(parent, dead(2) <> "-open")]
      for dir <- dead, do: File.write!(Path.join(dir, "snakepit_ready_1"), "1234")

      kept =
        for name <- [
              # a living one of another process, of another boot or host, ...
              name(%{pid: 1, start: OSProcess.start_time(1)}),
              name(%{host: "0123456789ab", pid: 4_194_305}),
              # ... one of which nothing is known, and names that are not ours
              dead(0),
              "snakepit-4194305-abcdefghijkl",
              dead(1) <> "x",
              "x" <> dead(1),
              "snakepit-data"
            ],
            do: make(parent, name)

      assert Enum.sort(RunDir.sweep(own)) == Enum.sort(dead)
      refute Enum.any?(dead, &File.exists?/1)
      assert Enum.all?([own | kept], &File.dir?/1)
    end

    test "follows no link", %{parent: parent} do
      own = make(parent, name(%{}))
      target = make(parent, "target")
      File.write!(Path.join(target, "file"), "")
      link = Path.join(parent, dead(1))
      File.ln_s!(target, link)
      dir = make(parent, dead(2))
      File.ln_s!(Path.join(target, "file"), Path.join(dir, "link"))
      File.ln_s!(target, Path.join(dir, "another"))

      assert RunDir.sweep(own) == [dir]
      assert File.exists?(Path.join(target, "file"))
      assert {:ok, _} = File.read_link(link)
    end

    test "leaves a directory in which there is another", %{parent: parent} do
      own = make(parent, name(%{}))
      dir = make(parent, dead(1))
      inner = make(dir, "inner")
      File.write!(Path.join(inner, "file"), "")
      assert RunDir.sweep(own) == []
      assert File.exists?(Path.join(inner, "file"))
    end

    test "takes a file of such a name for none", %{parent: parent} do
      own = make(parent, name(%{}))
      file = Path.join(parent, dead(1))
      File.write!(file, "")
      assert RunDir.sweep(own) == []
      assert File.exists?(file)
    end
  end

  test "one is for its user alone, and goes with the one beside it" do
    {:ok, dir} = RunDir.make()
    on_exit(fn -> RunDir.remove(dir) end)
    assert Bitwise.band(File.stat!(dir).mode, 0o777) == 0o700
    open = RunDir.make_open(dir)
    assert Bitwise.band(File.stat!(open).mode, 0o777) == 0o733
    assert {pid, start, [^dir, ^open]} = RunDir.heir(dir)
    assert OSProcess.alive?(pid, start)
    :ok = RunDir.remove(dir)
    refute File.exists?(dir) or File.exists?(open)
  end

  describe "its place" do
    defp made(parents) do
      with {:ok, dir} <- RunDir.make(parents) do
        on_exit(fn -> RunDir.remove(dir) end)
        {:ok, Path.dirname(dir)}
      end
    end

    test "is the first that can be written to", %{parent: parent} do
      file = Path.join(parent, "file")
      File.write!(file, "")
      first = make(parent, "first")
      assert made([Path.join(parent, "none"), file, first, parent]) == {:ok, first}
    end

    test "is one with room for the names of sockets, if there is any", %{parent: parent} do
      deep = make(parent, String.duplicate("deep", 30))
      assert made([deep, parent]) == {:ok, parent}
      assert made([deep]) == {:ok, deep}
    end

    test "cannot be found: what was tried, why not, and what to do", %{parent: parent} do
      none = Path.join(parent, "none")
      assert {:error, text} = made([none])
      assert text =~ "#{none}: no such file or directory"
      assert text =~ "Set TMPDIR"
    end

    test "holds a socket with the longest name that is allowed", %{parent: parent} do
      {:ok, dir} = RunDir.make([parent])
      on_exit(fn -> RunDir.remove(dir) end)
      name = byte_size(Path.basename(dir))
      room = 107 - byte_size("/local") - name - 1 - byte_size(parent) - 1
      exact = make(parent, String.duplicate("x", room))
      assert {:ok, dir} = RunDir.make([exact, parent])
      on_exit(fn -> RunDir.remove(dir) end)
      assert Path.dirname(dir) == exact
      options = [:binary, ifaddr: {:local, Path.join(dir, "local")}]
      assert {:ok, socket} = :gen_tcp.listen(0, options)
      :gen_tcp.close(socket)

      longer = make(parent, String.duplicate("x", room + 1))
      assert {:ok, dir} = RunDir.make([longer, parent])
      on_exit(fn -> RunDir.remove(dir) end)
      assert Path.dirname(dir) == parent
    end
  end

  describe "of a BEAM with a spawner" do
    # Says its directory, and the spawner's number.
    @with_spawner """
    alias Snakepit.Pool.{ApplicationCleanup, RunDir}
    {:ok, dir} = ApplicationCleanup.make_run_dir()
    {:ok, spawner} = Snakepit.Spawner.start_link(heir: RunDir.heir(dir))
    """
    @said "true = File.dir?(dir); say.({dir, Snakepit.Spawner.info(spawner).os_pid})"

    defp start(parent, code) do
      beam = OtherVM.start(parent, @with_spawner <> code, before: "export TMPDIR='#{parent}';")
      {dir, spawner} = OtherVM.hear(beam)
      assert Path.dirname(dir) == parent
      {beam, dir, spawner}
    end

    test "that is killed: the spawner removes it", %{parent: parent} do
      {beam, dir, _spawner} = start(parent, "RunDir.make_open(dir)\n" <> @said)
      File.write!(Path.join(dir, "snakepit_ready_1"), "1234")
      target = make(parent, "target")
      File.ln_s!(target, Path.join(dir, "link"))
      OtherVM.kill_and_wait(beam)
      eventually(fn -> not File.exists?(dir) and not File.exists?(RunDir.open(dir)) end)
      assert File.dir?(target)
    end

    test "that halts: the spawner removes it", %{parent: parent} do
      code = "true = File.dir?(dir);" <> @said <> "; System.halt(0)"
      {_beam, dir, _spawner} = start(parent, code)
      eventually(fn -> not File.exists?(dir) end)
    end

    test "that is killed with it: the next BEAM removes it", %{parent: parent} do
      {beam, dir, spawner} = start(parent, @said)
      time = OSProcess.start_time(spawner)
      # So that it does not notice.
      kill(beam.pid, "STOP")
      kill(spawner)
      eventually(fn -> not OSProcess.alive?(spawner, time) end)
      OtherVM.kill_and_wait(beam)
      assert File.dir?(dir)
      {_second, other, _spawner} = start(parent, @said)
      eventually(fn -> not File.exists?(dir) end)
      assert File.dir?(other)
    end

    test "that lives: a spawner that ends leaves it alone", %{parent: parent} do
      code = @said <> "; GenServer.stop(spawner); say.(:stopped)"
      {beam, dir, _spawner} = start(parent, code)
      assert OtherVM.hear(beam) == :stopped
      assert File.dir?(dir)
    end
  end
end
