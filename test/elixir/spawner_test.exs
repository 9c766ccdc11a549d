defmodule Snakepit.SpawnerTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Spawning

  alias Snakepit.Spawner

  # Far more than anything here takes; only what hangs comes near it.
  @patience 60_000

  setup :start_spawner

  # ---- starting and ending -----------------------------------------------------
  test "a child's output, status and usage come to its owner", %{spawner: spawner} do
    done = run!(spawner, "echo out; echo err >&2; exit 7")
    assert done.stdout == "out\n"
    assert done.stderr == "err\n"
    assert done.exit == {:status, 7}
    assert %{utime_us: utime, stime_us: stime, max_rss_kb: rss} = done.usage
    assert utime >= 0 and stime >= 0 and rss > 0
    assert Spawner.info(spawner).children == []
  end

  @tag :not_under_asan
  test "a child that a signal ends", %{spawner: spawner} do
    assert run!(spawner, "kill -KILL $$").exit == {:signal, 9}
    assert run!(spawner, "kill -SEGV $$").exit == {:signal, 11}
  end

  test "signals sent to the child, and to its group", %{spawner: spawner} do
    script = "trap 'exit 5' USR1; echo $$; while :; do sleep 1000 & wait; done"
    {id, pid} = sh!(spawner, script)
    assert [{^pid, _}] = read_pids(id, 1)
    :ok = Spawner.signal(spawner, id, 10)
    assert finish(spawner, id).exit == {:status, 5}

    {id, _pid} = sh!(spawner, "sleep 1000 & echo $!; wait $!; echo $?; sleep 1000")
    [sleeper] = read_pids(id, 1)
    :ok = Spawner.signal(spawner, id, 15, :group)
    assert finish(spawner, id).exit == {:signal, 15}
    refute alive?(sleeper)
  end

  test "the child has a session of its own, and no stdin", %{spawner: spawner} do
    {id, pid} = sh!(spawner, "read x || echo end; cut -d' ' -f5,6 /proc/$$/stat")
    assert finish(spawner, id).stdout == "end\n#{pid} #{pid}\n"
  end

  test "the child gets no descriptors besides its output", %{spawner: spawner} do
    others = for _ <- 1..3, do: sh!(spawner, "sleep 1000")
    {:ok, id, _} = Spawner.spawn(spawner, %{program: "ls", args: ["/proc/self/fd"]})
    # 3 is the directory that ls reads.
    assert finish(spawner, id).stdout == "0\n1\n2\n3\n"
    for {other, _pid} <- others, do: Spawner.stop(spawner, other, 0)
  end

  test "the child starts with default signals, all of them let through", %{spawner: spawner} do
    masks = run!(spawner, "grep -E '^Sig(Blk|Ign):' /proc/self/status").stdout
    assert Regex.scan(~r/\t(\w+)/, masks, capture: :all_but_first) == [[zeros()], [zeros()]]
  end

  defp zeros, do: String.duplicate("0", 16)

  test "working directory", %{spawner: spawner} do
    dir = tmp_dir!()
    File.write!(Path.join(dir, "here"), "#!/bin/sh\npwd -P\n")
    File.chmod!(Path.join(dir, "here"), 0o755)
    {:ok, id, _} = Spawner.spawn(spawner, %{program: "./here", cd: dir})
    {real, 0} = System.cmd("pwd", ["-P"], cd: dir)
    assert finish(spawner, id).stdout == real
    {:ok, id, _} = Spawner.spawn(spawner, %{program: "pwd"})
    assert finish(spawner, id).stdout == File.cwd!() <> "\n"
  end

  # ---- environment -------------------------------------------------------------
  test "the environment is the BEAM's of now, with changes", %{spawner: spawner} do
    name = "SNAKEPIT_TEST_#{System.unique_integer([:positive])}"
    on_exit(fn -> System.delete_env(name) end)
    System.put_env(name, "later ü")
    assert run!(spawner, "printf %s \"$#{name}\"").stdout == "later ü"
    assert run!(spawner, "printf %s \"$#{name}\"", %{env: [{name, "x=y"}]}).stdout == "x=y"
    assert run!(spawner, "echo ${#{name}-none}", %{env: %{name => nil}}).stdout == "none\n"
    System.delete_env(name)
    assert run!(spawner, "echo ${#{name}-none}").stdout == "none\n"
    {:ok, id, _} = Spawner.spawn(spawner, %{program: "env", env: [{name, ""}, {name, "last"}]})
    lines = String.split(finish(spawner, id).stdout, "\n")
    assert Enum.filter(lines, &String.starts_with?(&1, name)) == ["#{name}=last"]
    assert "HOME=#{System.get_env("HOME")}" in lines
  end

  test "arguments and environment are raw bytes", %{spawner: spawner} do
    bytes = :binary.list_to_bin(Enum.to_list(1..255))
    {:ok, id, _} = Spawner.spawn(spawner, %{program: "printf", args: ["%s", bytes]})
    assert finish(spawner, id).stdout == bytes
    env = [{~c"ZÄHL", <<255, 254>>}, {:SNAKEPIT_B, ~c"ü"}]
    {:ok, id, _} = Spawner.spawn(spawner, %{program: "env", env: env})
    lines = String.split(finish(spawner, id).stdout, "\n")
    assert ("ZÄHL=" <> <<255, 254>>) in lines
    assert "SNAKEPIT_B=ü" in lines
  end

  test "names are looked up in the PATH of the given environment", %{spawner: spawner} do
    dir = tmp_dir!()
    File.write!(Path.join(dir, "a program"), "#!/bin/sh\necho found $1\n")
    spec = %{program: "a program", args: ["x"], env: [{"PATH", "/nowhere:#{dir}:/usr/bin"}]}
    assert {:error, %{stage: :exec, errno: :eacces}} = Spawner.spawn(spawner, spec)
    File.chmod!(Path.join(dir, "a program"), 0o755)
    assert {:ok, id, _} = Spawner.spawn(spawner, spec)
    assert finish(spawner, id).stdout == "found x\n"
    assert {:error, %{errno: :enoent}} = Spawner.spawn(spawner, %{spec | env: []})
  end

  # ---- what cannot be started --------------------------------------------------
  test "a program that is missing or cannot be executed", %{spawner: spawner} do
    dir = tmp_dir!()
    file = Path.join(dir, "file")
    File.write!(file, "no program\n")

    cases = [
      {%{program: "snakepit-no-such"}, :exec, :enoent, "PATH"},
      {%{program: "/no/such"}, :exec, :enoent, "check the path"},
      {%{program: file}, :exec, :eacces, "chmod +x"},
      {%{program: dir}, :exec, :eacces, "chmod +x"},
      {%{program: "#{file}/x"}, :exec, :enotdir, "execve"},
      {%{program: "true", cd: "/no/such"}, :chdir, :enoent, "create it"},
      {%{program: "true", cd: file}, :chdir, :enotdir, "create it"}
    ]

    for {spec, stage, errno, hint} <- cases do
      assert {:error, failure} = Spawner.spawn(spawner, spec)
      assert {failure.stage, failure.errno} == {stage, errno}
      assert failure.message =~ hint
      assert failure.message =~ Map.get(spec, :cd, spec.program)
    end

    File.chmod!(file, 0o755)
    assert {:error, %{errno: :enoexec} = failure} = Spawner.spawn(spawner, %{program: file})
    assert failure.message =~ "#!/bin/sh"
    File.write!(file, "#!/no/such/interpreter\n")
    assert {:error, %{errno: :enoent} = failure} = Spawner.spawn(spawner, %{program: file})
    assert failure.message =~ "interpreter"
    assert Spawner.info(spawner).children == []
    refute_received {:snakepit_os, _, _}
  end

  test "a specification that makes no sense is refused with the reason", %{spawner: spawner} do
    long = String.duplicate("x", 5000)

    cases = [
      {%{}, ":program"},
      {%{program: ""}, ":program is empty"},
      {%{program: long}, "longer than 4096"},
      {%{program: "a\0b"}, "NUL"},
      {%{program: "true", args: "x"}, ":args is not a list"},
      {%{program: "true", args: [:x]}, ":args has :x"},
      {%{program: "true", args: [[-1]]}, "not text"},
      {%{program: "true", args: ["\0"]}, "NUL"},
      {%{program: "true", env: [{"A=B", "c"}]}, "name"},
      {%{program: "true", env: [{"", "c"}]}, "name"},
      {%{program: "true", env: ["A"]}, "{name, value}"},
      {%{program: "true", env: :x}, ":env"},
      {%{program: "true", cd: 1}, ":cd"},
      {%{program: "true", grace_ms: -1}, ":grace_ms"},
      {%{program: "true", window: 0}, ":window"},
      {%{program: "true", dir: "/"}, "[:dir]"},
      {[program: "true"], "expected a map"}
    ]

    for {spec, word} <- cases do
      assert {:error, %{stage: :request, errno: :einval, message: text}} =
               Spawner.spawn(spawner, spec)

      assert text =~ word
    end
  end

  test "too many arguments for the kernel", %{spawner: spawner} do
    args = List.duplicate(String.duplicate("x", 100_000), 100)
    assert {:error, failure} = Spawner.spawn(spawner, %{program: "true", args: args})
    assert {failure.stage, failure.errno} == {:exec, :e2big}
    assert failure.message =~ "fewer"
  end

  test "a server that is not there", %{spawner: spawner} do
    :ok = GenServer.stop(spawner)
    assert {:error, %{stage: :fork, message: text}} = Spawner.spawn(spawner, %{program: "true"})
    assert text =~ "not running"
  end

  @tag :no_spawner
  test "when descriptors run out children cannot be started, until they can again" do
    file = Path.join(tmp_dir!(), "spawner")
    File.write!(file, "#!/bin/sh\nulimit -n 40; exec '#{Spawner.default_path()}' \"$@\"\n")
    File.chmod!(file, 0o755)
    spawner = start_supervised!({Spawner, name: nil, path: file})
    start = fn -> Spawner.spawn(spawner, %{program: "sleep", args: ["1000"]}) end
    {ids, failure} = start_until_failure(start, [])
    assert {failure.stage, failure.errno} == {:pipe, :emfile}
    assert failure.message =~ "ulimit -n"
    :ok = Spawner.stop(spawner, hd(ids), 0)
    finish(spawner, hd(ids))
    assert {:ok, _id, _pid} = start.()
  end

  defp start_until_failure(start, ids) do
    case start.() do
      {:ok, id, _pid} when length(ids) < 40 -> start_until_failure(start, [id | ids])
      {:error, failure} -> {ids, failure}
    end
  end

  # ---- stopping ----------------------------------------------------------------
  test "stop lets the child end by itself", %{spawner: spawner} do
    script = "trap 'echo bye; exit 3' TERM; echo $$; while :; do sleep 1000 & wait; done"
    {id, _pid} = sh!(spawner, script)
    read_pids(id, 1)
    :ok = Spawner.stop(spawner, id, @patience)
    assert %{exit: {:status, 3}, stdout: "bye\n"} = finish(spawner, id)
  end

  test "stop kills a child that ignores SIGTERM when its grace is over", %{spawner: spawner} do
    {id, _pid} = sh!(spawner, "trap '' TERM; echo $$; while :; do sleep 1000; done")
    read_pids(id, 1)
    :ok = Spawner.stop(spawner, id, 50)
    assert finish(spawner, id).exit == {:signal, 9}
  end

  test "a second stop shortens the grace but never lengthens it", %{spawner: spawner} do
    for graces <- [[3_600_000, 50], [50, 3_600_000], [3_600_000, 0]] do
      {id, _pid} = sh!(spawner, "trap '' TERM; echo $$; while :; do sleep 1000; done")
      read_pids(id, 1)
      for grace <- graces, do: :ok = Spawner.stop(spawner, id, grace)
      assert finish(spawner, id).exit == {:signal, 9}
    end
  end

  test "a child that was halted gets its SIGTERM", %{spawner: spawner} do
    {id, pid} = sh!(spawner, "echo $$; exec sleep 1000")
    read_pids(id, 1)
    :ok = Spawner.signal(spawner, id, 19, :group)
    eventually(fn -> elem(stat(pid), 0) == "T" end)
    :ok = Spawner.stop(spawner, id, 3_600_000)
    assert finish(spawner, id).exit == {:signal, 15}
  end

  test "orders for a child that is gone are ignored", %{spawner: spawner} do
    {id, _pid} = sh!(spawner, "true")
    finish(spawner, id)
    :ok = Spawner.stop(spawner, id, 0)
    :ok = Spawner.signal(spawner, id, 9)
    :ok = Spawner.ack(spawner, id, 1)
    assert run!(spawner, "echo on").stdout == "on\n"
  end

  # ---- owners ------------------------------------------------------------------
  test "when the owner dies the child is stopped, however much it writes", %{spawner: spawner} do
    test = self()

    script = """
    trap 'head -c 1000000 /dev/zero; echo done > "$DONE"; exit' TERM
    #{family()}
    while :; do wait; done
    """

    done = Path.join(tmp_dir!(), "done")

    {owner, ref} =
      Process.spawn(
        fn ->
          {id, pid} = sh!(spawner, script, %{env: [{"DONE", done}], grace_ms: @patience})
          family = read_pids(id, family_size())
          send(test, {:family, [{pid, start_time!(pid)} | family]})
          receive do: (:never -> :ok)
        end,
        [:monitor]
      )

    assert_receive {:family, family}, @patience
    Process.exit(owner, :kill)
    assert_receive {:DOWN, ^ref, :process, ^owner, :killed}
    eventually(fn -> alive(family) == [] and Spawner.info(spawner).children == [] end)
    assert File.read!(done) == "done\n"
  end

  test "owners that die while their children start", %{spawner: spawner} do
    spec = %{program: "sleep", args: ["1000"], grace_ms: 0}
    owners = for _ <- 1..20, do: spawn(fn -> Spawner.spawn(spawner, spec) end)
    # Half of them have called by now or will never; the others just return.
    for {owner, n} <- Enum.with_index(owners), rem(n, 2) == 0, do: Process.exit(owner, :kill)
    for owner <- owners, do: await_end(owner)
    eventually(fn -> Spawner.info(spawner).children == [] end)
    assert run!(spawner, "echo on").stdout == "on\n"
  end

  defp await_end(pid) do
    ref = Process.monitor(pid)
    assert_receive {:DOWN, ^ref, :process, ^pid, _}, @patience
  end

  test "children of a spawner that is stopped are gone when it is", %{spawner: spawner} do
    {id, _pid} = sh!(spawner, family() <> "wait")
    family = read_pids(id, family_size())
    :ok = GenServer.stop(spawner)
    assert alive(family) == []
    assert_received {:snakepit_os, ^id, {:exit, :spawner_lost, %{}}}
  end

  # ---- a spawner that dies -----------------------------------------------------
  test "when the spawner is killed all families die and all owners are told", context do
    spawner = context.spawner
    {id, pid} = sh!(spawner, family() <> "wait")
    family = [{pid, start_time!(pid)} | read_pids(id, family_size())]
    ref = Process.monitor(spawner)
    kill!(Spawner.info(spawner).os_pid)
    assert_receive {:DOWN, ^ref, :process, ^spawner, {:spawner_lost, _}}, @patience
    assert_received {:snakepit_os, ^id, {:exit, :spawner_lost, %{}}}
    refute alive?(hd(family))
    eventually(fn -> alive(family) == [] end)
  end

  test "spawner and guard killed in one go", %{spawner: spawner} do
    {id, pid} = sh!(spawner, "sleep 1000 & echo $!; wait")
    family = [{pid, start_time!(pid)} | read_pids(id, 1)]
    ref = Process.monitor(spawner)
    kill_at_once!([Spawner.info(spawner).os_pid, parent!(pid)])
    assert_receive {:DOWN, ^ref, :process, ^spawner, {:spawner_lost, _}}, @patience
    refute alive?(hd(family))
    eventually(fn -> alive(family) == [] end)
  end

  @tag :no_spawner
  test "its supervisor gets a new one" do
    spawner = start_supervised!({Spawner, name: nil}, id: :again)
    supervisor = spawner |> Process.info(:dictionary) |> elem(1) |> Keyword.fetch!(:"$ancestors")
    ref = Process.monitor(spawner)
    kill!(Spawner.info(spawner).os_pid)
    assert_receive {:DOWN, ^ref, :process, ^spawner, _}, @patience

    find = fn -> List.keyfind(Supervisor.which_children(hd(supervisor)), :again, 0) end
    eventually(fn -> match?({:again, pid, _, _} when is_pid(pid), find.()) end)
    {:again, again, _, _} = find.()
    assert run!(again, "echo on").stdout == "on\n"
  end
end
