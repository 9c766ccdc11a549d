defmodule Snakepit.SpawnerSettingsTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Spawning

  alias Snakepit.Spawner

  # Far more than anything here takes; only what hangs comes near it.
  @patience 60_000

  setup :start_spawner

  defp with_settings(spawner, settings, script, more \\ %{}),
    do: run!(spawner, script, Map.put(more, :settings, settings))

  defp refused(spawner, settings) do
    spec = %{program: "true", settings: List.wrap(settings)}
    assert {:error, failure} = Spawner.spawn(spawner, spec)
    failure
  end

  defp root?, do: System.cmd("id", ["-u"]) == {"0\n", 0}

  # ---- limits -------------------------------------------------------------

  test "limits are those of the child, soft and hard", %{spawner: spawner} do
    settings = ["limit=nofile=100:200", "limit=core=0", "limit=stack=1M"]
    done = with_settings(spawner, settings, "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hs")
    assert done.stdout == "100\n200\n0\n1024\n"
  end

  test "without settings the child's limits are the BEAM's", %{spawner: spawner} do
    script = "ulimit -a; ulimit -Ha; nice; umask"
    {ours, 0} = System.cmd("sh", ["-c", script])
    assert run!(spawner, script).stdout == ours
  end

  test "more than the hard limit takes root", %{spawner: spawner} do
    failure = refused(spawner, "limit=nofile=1000000000000")
    assert {failure.stage, failure.errno} == {:limit, :eperm}
    assert failure.message =~ "nofile"
    assert failure.message =~ "lower it"
  end

  test "processor time that is used up", %{spawner: spawner} do
    done = with_settings(spawner, ["limit=cpu=1:2"], "while :; do :; done")
    assert done.exit == {:signal, 24}
    assert done.usage.utime_us + done.usage.stime_us > 500_000
  end

  test "a file that is too large", %{spawner: spawner} do
    file = Path.join(tmp_dir!(), "large")
    script = "exec head -c 5000 /dev/zero >'#{file}'"
    assert with_settings(spawner, ["limit=fsize=1000"], script).exit == {:signal, 25}
    assert File.stat!(file).size <= 1000
  end

  test "memory that is not to be had", %{spawner: spawner} do
    go = Path.join(tmp_dir!(), "go")
    wait = "while ! test -e \"$GO\"; do sleep 0.01; done; "
    script = wait <> "exec python3 -c 'bytearray(1 << 30)'"
    {id, _pid} = sh!(spawner, script, %{settings: ["memory=200M"], env: [{"GO", go}]})
    held = held(spawner, id)
    File.write!(go, "")
    done = finish(spawner, id)

    if :memory in held do
      assert %{exit: {:signal, 9}, usage: %{oom: :cgroup}} = done
    else
      assert done.exit == {:status, 1}
      assert done.stderr =~ "MemoryError"
      assert done.usage.oom == nil
    end
  end

  test "niceness and umask", %{spawner: spawner} do
    {before, 0} = System.cmd("nice", [])
    nice = min(String.trim(before) |> String.to_integer() |> Kernel.+(3), 19)
    done = with_settings(spawner, ["nice=#{nice}", "umask=027"], "nice; umask")
    assert done.stdout == "#{nice}\n0027\n"
  end

  test "limits that only a cgroup has", %{spawner: spawner} do
    for setting <- ["cpus=0.5", "processes=20"] do
      case Spawner.spawn(spawner, %{program: "true", settings: [setting]}) do
        {:ok, id, _pid} ->
          assert %{exit: {:status, 0}} = finish(spawner, id)

        {:error, failure} ->
          assert {failure.stage, failure.errno} == {:limit, :eopnotsupp}
          assert failure.message =~ "cgroup.subtree_control"
      end
    end
  end

  # ---- user and group -----------------------------------------------------

  test "another user, with its groups and no way back", %{spawner: spawner} do
    script = "id -u; id -g; id -G; cat /proc/self/status | grep CapEff"
    spec = %{program: "sh", args: ["-c", script], settings: ["user=nobody"]}

    if root?() do
      {:ok, id, _pid} = Spawner.spawn(spawner, spec)
      {uid, 0} = System.cmd("id", ["-u", "nobody"])
      {gid, 0} = System.cmd("id", ["-g", "nobody"])
      {groups, 0} = System.cmd("id", ["-G", "nobody"])
      assert finish(spawner, id).stdout == uid <> gid <> groups <> "CapEff:\t" <> zeros() <> "\n"
      done = with_settings(spawner, ["user=12345", "group=nogroup"], "id -u; id -gn; id -G")
      assert done.stdout == "12345\nnogroup\n" <> gid
    else
      assert {:error, failure} = Spawner.spawn(spawner, spec)
      assert {failure.stage, failure.errno} == {:user, :eperm}
    end
  end

  defp zeros, do: String.duplicate("0", 16)

  test "a child of another user dies with its guard and is stopped as any", %{spawner: spawner} do
    settings = if root?(), do: ["user=nobody"], else: []
    {id, pid} = sh!(spawner, family() <> "wait", %{settings: settings})
    family = [{pid, start_time!(pid)} | read_pids(id, family_size())]
    kill!(parent!(pid))
    assert finish(spawner, id).exit == {:signal, 9}
    assert alive(family) == []

    {id, _pid} = sh!(spawner, family() <> "wait", %{settings: settings})
    family = read_pids(id, family_size())
    :ok = Spawner.stop(spawner, id, 0)
    finish(spawner, id)
    assert alive(family) == []
  end

  test "a user or group that is not there", %{spawner: spawner} do
    for setting <- ["user=no-such-user", "group=no-such-group"] do
      failure = refused(spawner, setting)
      assert {failure.stage, failure.errno} == {:user, :enoent}
      assert failure.message =~ "no-such"
      assert failure.message =~ "getent"
    end
  end

  # ---- processors ---------------------------------------------------------

  @allowed "grep Cpus_allowed_list /proc/self/status | cut -f2"

  defp cpus(text) do
    for part <- text |> String.trim() |> String.split(","),
        cpu <- span(String.split(part, "-")) do
      cpu
    end
  end

  defp span([one]), do: [String.to_integer(one)]
  defp span([from, to]), do: Enum.to_list(String.to_integer(from)..String.to_integer(to))

  test "a list of processors", %{spawner: spawner} do
    all = cpus(run!(spawner, @allowed).stdout)

    for cpu <- [hd(all), List.last(all)] do
      assert cpus(with_settings(spawner, ["affinity=#{cpu}"], @allowed).stdout) == [cpu]
    end

    failure = refused(spawner, "affinity=1023")
    assert {failure.stage, failure.errno} == {:affinity, :einval}
  end

  test "shares of the machine", %{spawner: spawner} do
    all = cpus(run!(spawner, @allowed).stdout)
    count = length(all)
    share = fn text -> cpus(with_settings(spawner, ["affinity=" <> text], @allowed).stdout) end
    assert share.("spread:0/1") == all
    spread = for n <- 0..(count - 1), do: share.("spread:#{n}/#{count}")
    assert spread |> List.flatten() |> Enum.sort() == all
    compact = for n <- 0..(count - 1), do: share.("compact:#{n}/1")
    assert Enum.all?(compact, &match?([_], &1))
    assert compact |> List.flatten() |> Enum.sort() == all
    assert share.("compact:7/#{count + 5}") == all
    # More children than processors.
    many = for n <- 0..(2 * count), do: share.("spread:#{n}/#{2 * count}")
    assert Enum.all?(many, &(&1 != [] and &1 -- all == []))
  end

  test "children of one key get different shares, which are given out again", context do
    spawner = context.spawner
    spec = %{program: "sleep", args: ["1000"]}
    start = fn key -> Spawner.spawn(spawner, Map.put(spec, :placement, {:spread, key, 3})) end
    ids = for key <- [:a, :a, :b, :a], do: start.(key) |> elem(1)
    shares = fn -> for child <- Spawner.info(spawner).children, do: {child.id, child.share} end
    assert shares.() == Enum.zip(ids, [0, 1, 0, 2])
    second = Enum.at(ids, 1)
    :ok = Spawner.stop(spawner, second, 0)
    finish(spawner, second)
    {:ok, again, _pid} = start.(:a)
    assert {again, 1} in shares.()
    for {id, _} <- shares.(), do: Spawner.stop(spawner, id, 0)
  end

  # ---- what makes no sense ------------------------------------------------

  test "settings that make no sense are refused with the reason", %{spawner: spawner} do
    for {setting, word} <- [
          {"nice", "="},
          {"nice=99", "-20 to 19"},
          {"limit=nofile=x", "number"},
          {"affinity=5-1", "list"},
          {"colour=red", "no setting"}
        ] do
      failure = refused(spawner, setting)
      assert {failure.stage, failure.errno} == {:request, :einval}
      assert failure.message =~ word
    end

    for {key, value, word} <- [
          {:settings, "nice=1", "list"},
          {:settings, ["a\0"], "NUL"},
          {:settings, List.duplicate("nice=1", 257), "256"},
          {:placement, {:near, 1, 2}, ":placement"},
          {:placement, {:spread, 1, 0}, ":placement"}
        ] do
      assert {:error, %{message: text}} =
               Spawner.spawn(spawner, Map.put(%{program: "true"}, key, value))

      assert text =~ word
    end
  end

  # ---- the report of the end ----------------------------------------------

  test "an exit without anything special", %{spawner: spawner} do
    usage = with_settings(spawner, ["limit=core=0"], "kill -SEGV $$").usage
    assert %{core_dumped: false, oom: nil, process_limit: false} = usage
    assert %{oom: nil} = run!(spawner, "kill -KILL $$").usage
  end

  # Whether there is a core depends on the machine: so does what Python sees.
  test "a core is told as wait(2) tells it", %{spawner: spawner} do
    dir = tmp_dir!()

    ask = """
    import os, resource
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), 11)
    _, status = os.waitpid(pid, 0)
    print(os.WCOREDUMP(status), pid)
    """

    more = %{cd: dir}
    settings = core_settings()
    done = with_settings(spawner, settings, "exec python3 -c '#{ask}'", more)
    [told, pid] = String.split(done.stdout)
    {id, segv} = sh!(spawner, "kill -SEGV $$", Map.put(more, :settings, settings))
    done = finish(spawner, id)
    remove_cores([pid, segv])
    assert done.exit == {:signal, 11}
    assert done.usage.core_dumped == (told == "True")
  end

  # As far as it may be raised.
  defp core_settings do
    {hard, 0} = System.cmd("sh", ["-c", "ulimit -Hc"])
    blocks = String.trim(hard)
    if blocks == "unlimited" or root?(), do: ["limit=core=unlimited"], else: []
  end

  defp remove_cores(pids) do
    with {:ok, pattern} <- File.read("/proc/sys/kernel/core_pattern"),
         "/" <> _ <- pattern do
      for pid <- pids, file <- Path.wildcard(Path.dirname(pattern) <> "/*.#{pid}") do
        File.rm(file)
      end
    end
  end

  # ---- containment --------------------------------------------------------

  # Runs `fun` with a contained child, or sees that the machine's refusal is told.
  defp contained(spawner, how, script, fun) do
    spec = %{program: "sh", args: ["-c", script], settings: ["containment=#{how}"]}
    stage = if how == :cgroup, do: :cgroup, else: :namespace

    case Spawner.spawn(spawner, spec) do
      {:ok, id, pid} ->
        fun.(id, pid)

      {:error, failure} ->
        assert failure.stage == stage
        assert failure.message =~ "another containment"
    end
  end

  defp held(spawner, id), do: Enum.find(Spawner.info(spawner).children, &(&1.id == id)).held

  for how <- [:cgroup, :pid_namespace] do
    test "#{how}: a family is killed with its child", %{spawner: spawner} do
      how = unquote(how)

      contained(spawner, how, family() <> "wait", fn id, pid ->
        assert held(spawner, id) == [how]
        family = await_family(id, parent!(pid))
        :ok = Spawner.stop(spawner, id, 0)
        assert finish(spawner, id).exit == {:signal, 9}
        assert alive(family) == []
      end)
    end

    test "#{how}: a family is killed with its guard", %{spawner: spawner} do
      contained(spawner, unquote(how), family() <> "wait", fn id, pid ->
        guard = parent!(pid)
        family = await_family(id, guard)
        kill!(guard)
        assert finish(spawner, id).exit == {:signal, 9}
        assert alive(family) == []
        assert cgroups_of(spawner) == []
      end)
    end

    test "#{how}: status, signals and groups are as without", %{spawner: spawner} do
      contained(spawner, unquote(how), "exit 7", fn id, _pid ->
        assert finish(spawner, id).exit == {:status, 7}
      end)

      script = "trap 'exit 5' TERM; echo $$; while :; do sleep 1000 & wait; done"

      contained(spawner, unquote(how), script, fn id, _pid ->
        assert_receive {:snakepit_os, ^id, {:output, :stdout, _}}, @patience
        :ok = Spawner.stop(spawner, id, @patience)
        assert finish(spawner, id).exit == {:status, 5}
      end)
    end
  end

  defp await_family(id, guard) do
    count = fn text -> text |> String.split() |> length() end

    read = fn read, text ->
      if count.(text) < family_size() do
        assert_receive {:snakepit_os, ^id, {:output, :stdout, bytes}}, @patience
        read.(read, text <> bytes)
      end
    end

    read.(read, "")
    # In a PID namespace the numbers that it prints are others.
    family = descendants(guard)
    assert length(family) > family_size()
    family
  end

  defp cgroups_of(spawner) do
    prefix = "snakepit-#{Spawner.info(spawner).os_pid}-"
    {text, 0} = System.cmd("sh", ["-c", "grep cgroup2 /proc/self/mounts | cut -d' ' -f2"])

    for mount <- String.split(text), path <- Path.wildcard("#{mount}/**/#{prefix}*"), do: path
  end

  test "a cgroup has the child and its family in it, and goes with them", %{spawner: spawner} do
    script = "sleep 1000 & cat /proc/$!/cgroup; read x < /dev/null; sleep 1000"

    contained(spawner, :cgroup, script, fn id, _pid ->
      assert_receive {:snakepit_os, ^id, {:output, :stdout, text}}, @patience
      assert [path] = cgroups_of(spawner)
      assert text =~ "/" <> Path.basename(path)
      :ok = Spawner.stop(spawner, id, 0)
      finish(spawner, id)
      assert cgroups_of(spawner) == []
    end)
  end

  @tag :no_spawner
  test "a cgroup that spawner and guard left, killed in one go, is cleared by the next" do
    spec = Supervisor.child_spec({Spawner, name: nil}, restart: :temporary)
    first = start_supervised!(spec, id: :first)

    contained(first, :cgroup, "setsid sleep 1000 & echo $!; wait", fn id, pid ->
      [{daemon, start}] = read_pids(id, 1)
      [path] = cgroups_of(first)
      ref = Process.monitor(first)
      kill_at_once!([Spawner.info(first).os_pid, parent!(pid)])
      assert_receive {:DOWN, ^ref, :process, ^first, _}, @patience

      second = start_supervised!(spec, id: :second)
      contained(second, :cgroup, "true", fn id, _pid -> finish(second, id) end)
      refute File.exists?(path)
      eventually(fn -> not alive?({daemon, start}) end)
    end)
  end

  test "in a PID namespace the child is number 2, and sees its own /proc", %{spawner: spawner} do
    script = "echo $$; ls /proc | grep -c '^[0-9]*$'; read x </proc/self/stat; echo ${x%% *}"

    contained(spawner, :pid_namespace, script, fn id, pid ->
      assert pid > 2
      lines = String.split(finish(spawner, id).stdout)
      assert hd(lines) == "2"
    end)
  end

  test "containment is not taken silently for another", %{spawner: spawner} do
    failure = refused(spawner, ["containment=cgroup", "cgroup=#{System.tmp_dir!()}"])
    assert failure.stage == :cgroup
    assert failure.message =~ "cgroup v2"
    failure = refused(spawner, "cgroup=/no/such")
    assert {failure.stage, failure.errno} == {:cgroup, :enoent}
  end
end
