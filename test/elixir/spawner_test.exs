defmodule Snakepit.SpawnerTest do
  use ExUnit.Case, async: true

  alias Snakepit.Spawner

  # Far more than anything here takes; only what hangs comes near it.
  @patience 30_000
  @window 256 * 1024

  # A family of six besides its head: one child in its group, one in a session
  # of its own, one there with an empty environment, a daemon, and a child that
  # ignores SIGTERM with its own child. Prints their numbers.
  @family """
  setsid=$(command -v setsid) sleep=$(command -v sleep)
  sleep 1000 & echo $!
  setsid sleep 1000 & echo $!
  env -i "$setsid" "$sleep" 1000 & echo $!
  (setsid sh -c 'sleep 1000 & echo $!' &)
  setsid sh -c 'trap "" TERM HUP INT; sleep 1000 & echo $$; echo $!; while :; do wait; done' &
  """
  @family_size 6

  setup context do
    spec = Supervisor.child_spec({Spawner, name: nil}, restart: :temporary)
    if context[:no_spawner], do: :ok, else: {:ok, spawner: start_supervised!(spec)}
  end

  # ---- helpers ------------------------------------------------------------

  defp sh!(spawner, script, more \\ %{}) do
    spec = Map.merge(%{program: "sh", args: ["-c", script]}, more)
    {:ok, id, os_pid} = Spawner.spawn(spawner, spec)
    {id, os_pid}
  end

  # Acknowledges all output up to the end.
  defp finish(spawner, id, out \\ %{stdout: "", stderr: ""}) do
    receive do
      {:snakepit_os, ^id, {:output, stream, bytes}} ->
        Spawner.ack(spawner, id, byte_size(bytes))
        finish(spawner, id, Map.update!(out, stream, &(&1 <> bytes)))

      {:snakepit_os, ^id, {:exit, how, usage}} ->
        Map.merge(out, %{exit: how, usage: usage})
    after
      @patience -> flunk("no end of child #{id}; it wrote #{inspect(out)}")
    end
  end

  defp run!(spawner, script, more \\ %{}) do
    {id, _pid} = sh!(spawner, script, more)
    finish(spawner, id)
  end

  # The numbers a child prints, each with the start time that makes it unique.
  defp read_pids(id, count, text \\ "") do
    pids = text |> String.split(~r/\s+/, trim: true) |> Enum.map(&String.to_integer/1)

    if length(pids) >= count and String.ends_with?(text, "\n") do
      Enum.map(pids, &{&1, start_time!(&1)})
    else
      receive do
        {:snakepit_os, ^id, {:output, :stdout, bytes}} -> read_pids(id, count, text <> bytes)
      after
        @patience -> flunk("child #{id} printed no more than #{inspect(text)}")
      end
    end
  end

  defp stat(pid) do
    with {:ok, text} <- File.read("/proc/#{pid}/stat") do
      [state | fields] = text |> String.split(") ") |> List.last() |> String.split()
      {state, fields |> Enum.at(0) |> String.to_integer(), Enum.at(fields, 18)}
    end
  end

  defp start_time!(pid) do
    {_state, _parent, start} = stat(pid)
    start
  end

  defp parent!(pid) do
    {_state, parent, _start} = stat(pid)
    parent
  end

  defp alive?({pid, start}) do
    case stat(pid) do
      {state, _parent, ^start} -> state not in ["Z", "X"]
      _ -> false
    end
  end

  defp alive(processes), do: Enum.filter(processes, &alive?/1)

  # For the ends of processes that nobody reports.
  defp eventually(fun, left \\ 3_000) do
    cond do
      fun.() ->
        :ok

      left == 0 ->
        flunk("it did not happen")

      true ->
        receive do
        after
          10 -> eventually(fun, left - 1)
        end
    end
  end

  defp kill!(pids, signal \\ "KILL") do
    {_, 0} = System.cmd("kill", ["-#{signal}" | Enum.map(List.wrap(pids), &to_string/1)])
  end

  defp tmp_dir! do
    name = "snakepit_spawner_#{System.pid()}_#{System.unique_integer([:positive])}"
    dir = Path.join(System.tmp_dir!(), name)
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    dir
  end

  # ---- starting and ending ------------------------------------------------

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

  # ---- environment --------------------------------------------------------

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

  # ---- what cannot be started ---------------------------------------------

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

  # ---- stopping -----------------------------------------------------------

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

  # ---- families -----------------------------------------------------------

  test "stop leaves nobody of the family", %{spawner: spawner} do
    {id, _pid} = sh!(spawner, @family <> "wait")
    family = read_pids(id, @family_size)
    assert length(alive(family)) == @family_size
    :ok = Spawner.stop(spawner, id, 50)
    finish(spawner, id)
    assert alive(family) == []
  end

  test "nobody of the family outlives a child that exits", %{spawner: spawner} do
    {id, _pid} =
      sh!(spawner, @family <> "while ! test -e \"$GO\"; do sleep 0.01; done; exit 4", %{
        env: [{"GO", go = Path.join(tmp_dir!(), "go")}]
      })

    family = read_pids(id, @family_size)
    File.write!(go, "")
    assert finish(spawner, id).exit == {:status, 4}
    assert alive(family) == []
  end

  test "nobody of the family outlives a child that is killed", %{spawner: spawner} do
    {id, pid} = sh!(spawner, @family <> "wait")
    family = read_pids(id, @family_size)
    kill!(pid)
    assert finish(spawner, id).exit == {:signal, 9}
    assert alive(family) == []
  end

  test "one family's end does not touch another", %{spawner: spawner} do
    {one, pid} = sh!(spawner, @family <> "wait")
    {two, _pid} = sh!(spawner, @family <> "wait")
    first = read_pids(one, @family_size)
    second = read_pids(two, @family_size)
    kill!(pid)
    finish(spawner, one)
    assert alive(first) == []
    assert alive(second) == second
    :ok = Spawner.stop(spawner, two, 0)
    finish(spawner, two)
    assert alive(second) == []
  end

  test "when a guard is killed, its family is killed and its owner told", %{spawner: spawner} do
    {id, pid} = sh!(spawner, @family <> "wait")
    family = read_pids(id, @family_size)
    {other, _pid} = sh!(spawner, @family <> "wait")
    second = read_pids(other, @family_size)
    kill!(parent!(pid))
    assert finish(spawner, id).exit == {:signal, 9}
    assert alive(family) == []
    assert alive(second) == second
  end

  test "a guard that is stopped goes on", %{spawner: spawner} do
    assert run!(spawner, "kill -STOP $PPID; exit 3").exit == {:status, 3}
  end

  test "daemons that end leave no zombies", %{spawner: spawner} do
    {id, pid} = sh!(spawner, "for i in $(seq 20); do (true &); done; echo $$; exec sleep 1000")
    [child] = read_pids(id, 1)
    guard = parent!(pid)
    eventually(fn -> children_of(guard) == [pid] end)
    assert alive?(child)
  end

  defp children_of(parent) do
    for name <- File.ls!("/proc"),
        {pid, ""} <- [Integer.parse(name)],
        match?({_, ^parent, _}, stat(pid)),
        do: pid
  end

  test "a child that forks without an end", %{spawner: spawner} do
    script = """
    for i in $(seq 50); do (setsid sh -c 'echo $$; while :; do sleep 0.01; done' &); done
    wait; sleep 1000
    """

    {id, _pid} = sh!(spawner, script)
    family = read_pids(id, 50)
    :ok = Spawner.stop(spawner, id, 0)
    assert finish(spawner, id).exit == {:signal, 9}
    assert alive(family) == []
  end

  test "a child that closes its output is still watched", %{spawner: spawner} do
    {id, _pid} = sh!(spawner, "echo $$; exec <&- >&- 2>&-; while :; do sleep 1000; done")
    read_pids(id, 1)
    :ok = Spawner.stop(spawner, id, @patience)
    assert finish(spawner, id).exit == {:signal, 15}
  end

  test "fifty at once", %{spawner: spawner} do
    script = "trap 'exit $N' TERM; echo $$ $N; while :; do sleep 1000 & wait; done"

    children =
      1..50
      |> Enum.map(fn n ->
        Task.async(fn ->
          {id, pid} = sh!(spawner, script, %{env: [{"N", "#{n}"}]})
          assert_receive {:snakepit_os, ^id, {:output, :stdout, line}}, @patience
          assert line == "#{pid} #{n}\n"
          process = {pid, start_time!(pid)}
          :ok = Spawner.stop(spawner, id, @patience)
          {n, process, finish(spawner, id).exit}
        end)
      end)
      |> Task.await_many(@patience)

    for {n, _process, how} <- children, do: assert(how == {:status, n})
    assert alive(for {_n, process, _how} <- children, do: process) == []
  end

  # ---- output -------------------------------------------------------------

  test "output flows against the window", %{spawner: spawner} do
    {:ok, id, _} = Spawner.spawn(spawner, %{program: "cat", args: ["/dev/zero"]})
    assert receive_bytes(id, @window) == @window
    # Everything the spawner does comes after what it has sent before.
    run!(spawner, "true")
    refute_received {:snakepit_os, ^id, _}
    :ok = Spawner.ack(spawner, id, 1000)
    assert receive_bytes(id, 1000) == 1000
    run!(spawner, "true")
    refute_received {:snakepit_os, ^id, _}
    :ok = Spawner.stop(spawner, id, 0)
    assert_receive {:snakepit_os, ^id, {:exit, {:signal, 9}, _}}, @patience
  end

  defp receive_bytes(id, count, sum \\ 0)
  defp receive_bytes(_id, count, sum) when sum >= count, do: sum

  defp receive_bytes(id, count, sum) do
    assert_receive {:snakepit_os, ^id, {:output, _stream, bytes}}, @patience
    receive_bytes(id, count, sum + byte_size(bytes))
  end

  @tag :not_under_asan
  test "a flood of 100 MB passes with bounded memory", %{spawner: spawner} do
    {:ok, id, _} =
      Spawner.spawn(spawner, %{program: "head", args: ["-c", "100000000", "/dev/zero"]})

    assert drink(spawner, id, 0, 0) == 100_000_000
    rss = File.read!("/proc/#{Spawner.info(spawner).os_pid}/status")
    [kb] = Regex.run(~r/VmHWM:\s+(\d+)/, rss, capture: :all_but_first)
    assert String.to_integer(kb) < 50_000
  end

  # Acknowledges only when the window is used up, which is never exceeded.
  defp drink(spawner, id, sum, unacked) do
    receive do
      {:snakepit_os, ^id, {:output, :stdout, bytes}} ->
        unacked = unacked + byte_size(bytes)
        assert unacked <= @window
        if unacked == @window, do: Spawner.ack(spawner, id, unacked)
        drink(spawner, id, sum + byte_size(bytes), rem(unacked, @window))

      {:snakepit_os, ^id, {:exit, how, _usage}} ->
        assert how == {:status, 0}
        sum
    after
      @patience -> flunk("the flood stopped after #{sum} bytes")
    end
  end

  test "what a dead child has left in its pipe is sent without credit", %{spawner: spawner} do
    script = "head -c 40000 /dev/zero; head -c 30000 /dev/zero >&2"
    {id, _pid} = sh!(spawner, script, %{window: 10})
    assert receive_bytes(id, 70_000) == 70_000
    assert_receive {:snakepit_os, ^id, {:exit, {:status, 0}, _}}, @patience
  end

  # ---- owners -------------------------------------------------------------

  test "when the owner dies the child is stopped, however much it writes", %{spawner: spawner} do
    test = self()

    script = """
    trap 'head -c 1000000 /dev/zero; echo done > "$DONE"; exit' TERM
    #{@family}
    while :; do wait; done
    """

    done = Path.join(tmp_dir!(), "done")

    {owner, ref} =
      Process.spawn(
        fn ->
          {id, pid} = sh!(spawner, script, %{env: [{"DONE", done}], grace_ms: @patience})
          family = read_pids(id, @family_size)
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
    {id, _pid} = sh!(spawner, @family <> "wait")
    family = read_pids(id, @family_size)
    :ok = GenServer.stop(spawner)
    assert alive(family) == []
    assert_received {:snakepit_os, ^id, {:exit, :spawner_lost, %{}}}
  end

  # ---- a spawner that dies ------------------------------------------------

  test "when the spawner is killed all families die and all owners are told", context do
    spawner = context.spawner
    {id, pid} = sh!(spawner, @family <> "wait")
    family = [{pid, start_time!(pid)} | read_pids(id, @family_size)]
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
    kill!([Spawner.info(spawner).os_pid, parent!(pid)])
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

  # ---- a BEAM that dies ---------------------------------------------------

  # What a BEAM of its own does: five families, told to us on stdout.
  @beam """
  {:ok, spawner} = Snakepit.Spawner.start_link(path: hd(System.argv()))
  script = List.last(System.argv())
  IO.puts("pid \#{System.pid()} \#{Snakepit.Spawner.info().os_pid}")
  for _ <- 1..5 do
    {:ok, _id, _pid} = Snakepit.Spawner.spawn(spawner, %{program: "sh", args: ["-c", script]})
  end
  loop = fn loop ->
    receive do
      {:snakepit_os, _id, {:output, :stdout, bytes}} -> IO.write(bytes)
    end
    loop.(loop)
  end
  loop.(loop)
  """

  defp start_beam! do
    ebin = to_string(:code.which(Spawner)) |> Path.dirname()
    script = @family <> "echo $$; while :; do wait; done"
    args = ["--erl", "-noshell", "-pa", ebin, "-e", @beam, Spawner.default_path(), script]
    elixir = System.find_executable("elixir")
    port = Port.open({:spawn_executable, elixir}, [:binary, :exit_status, args: args, line: 4096])
    assert_receive {^port, {:data, {:eol, "pid " <> numbers}}}, @patience
    [beam, spawner] = numbers |> String.split() |> Enum.map(&String.to_integer/1)
    on_exit(fn -> System.cmd("kill", ["-KILL", "#{beam}"], stderr_to_stdout: true) end)

    family =
      for _ <- 1..(5 * (@family_size + 1)) do
        assert_receive {^port, {:data, {:eol, pid}}}, @patience
        {String.to_integer(pid), start_time!(String.to_integer(pid))}
      end

    %{beam: beam, spawner: spawner, family: family, port: port}
  end

  @tag :no_spawner
  test "nobody outlives a BEAM that is killed" do
    %{beam: beam, spawner: spawner, family: family, port: port} = start_beam!()
    program = {spawner, start_time!(spawner)}
    assert length(alive(family)) == 5 * (@family_size + 1)
    kill!(beam)
    assert_receive {^port, {:exit_status, _}}, @patience
    eventually(fn -> alive([program | family]) == [] end)
  end

  @tag :no_spawner
  test "nobody outlives a BEAM that is killed together with its spawner" do
    %{beam: beam, spawner: spawner, family: family, port: port} = start_beam!()
    kill!([beam, spawner])
    assert_receive {^port, {:exit_status, _}}, @patience
    eventually(fn -> alive(family) == [] end)
  end

  # ---- frames -------------------------------------------------------------

  defp raw_port(options \\ [packet: 4]) do
    options = [:binary, :nouse_stdio, :exit_status, args: ["--port"]] ++ options
    Port.open({:spawn_executable, Spawner.default_path()}, options)
  end

  defp string(text), do: <<byte_size(text)::32, text::binary>>

  @tag :no_spawner
  test "a message that is not understood is answered, and the spawner goes on" do
    port = raw_port()
    assert_receive {^port, {:data, <<65, 2::32, _::32>>}}, @patience

    for {message, word} <- [
          {"", "too early"},
          {"garbage", "type"},
          {<<2, 1::64>>, "too early"},
          {<<3, 1::64, 99::32, 0>>, "signal"},
          {<<5, 0>>, "more bytes"}
        ] do
      Port.command(port, message)
      assert_receive {^port, {:data, <<70, len::32, text::binary-size(len)>>}}, @patience
      assert text =~ word
    end

    Port.command(port, <<1, 77::64, 1::32, 0::32, 0::32, string("a\0b")::binary>>)
    assert_receive {^port, {:data, <<67, 77::64, 1, _::32, rest::binary>>}}, @patience
    assert rest =~ "NUL"

    spawn = <<1, 78::64, 1::32, 0::32, 0::32, string("cat")::binary>>
    spawn = spawn <> <<1::32, string("/dev/zero")::binary, 0::32, 0::32, 0::32>>
    Port.command(port, spawn)
    assert_receive {^port, {:data, <<66, 78::64, pid::32, start::64, 0::32>>}}, @patience
    assert start_time!(pid) == "#{start}"
    Port.command(port, spawn)
    assert_receive {^port, {:data, <<67, 78::64, 1, _::32, rest::binary>>}}, @patience
    assert rest =~ "EEXIST"

    Port.command(port, <<5>>)
    assert_receive {^port, {:exit_status, 0}}, @patience
    refute alive?({pid, "#{start}"})
  end

  @tag :no_spawner
  test "a broken frame ends the spawner and its children" do
    port = raw_port([])
    spawn = <<1, 1::64, 1::32, 0::32, 0::32, string("sleep")::binary>>
    spawn = spawn <> <<1::32, string("1000")::binary, 0::32, 0::32, 0::32>>
    # In pieces, as the frames of a stream may come.
    frame = string(spawn)
    for <<piece::binary-size(7) <- frame>>, do: Port.command(port, piece)
    left = rem(byte_size(frame), 7)
    Port.command(port, binary_part(frame, byte_size(frame) - left, left))
    assert_receive {^port, {:data, <<_::32, 65, 2::32, _::32>> <> rest}}, @patience

    started =
      if rest == "" do
        assert_receive {^port, {:data, bytes}}, @patience
        bytes
      else
        rest
      end

    assert <<_::32, 66, 1::64, pid::32, start::64, 0::32>> = started
    Port.command(port, <<0xFFFFFFFF::32>>)
    assert_receive {^port, {:data, <<_::32, 70, _::32, text::binary>>}}, @patience
    assert text =~ "64 MiB"
    assert_receive {^port, {:exit_status, 3}}, @patience
    refute alive?({pid, "#{start}"})
  end

  # ---- a program that cannot be used --------------------------------------

  @tag :no_spawner
  test "start_link says what is wrong with the program" do
    Process.flag(:trap_exit, true)
    dir = tmp_dir!()
    file = Path.join(dir, "snakepit_spawner")
    File.write!(file, "#!/bin/sh\nexit 9\n")

    cases = [
      {Path.join(dir, "missing"), "build it with mix compile"},
      {file, "chmod +x"},
      {dir, "directory"},
      {"/dev/null", "not a file"}
    ]

    for {path, hint} <- cases do
      assert {:error, {:spawner_unavailable, text}} = Spawner.start_link(name: nil, path: path)
      assert text =~ path
      assert text =~ hint
    end

    File.chmod!(file, 0o755)
    assert {:error, {:spawner_unavailable, text}} = Spawner.start_link(name: nil, path: file)
    assert text =~ "ended with status 9"
    File.write!(file, "#!/bin/sh\nprintf '\\0\\0\\0\\1x' >&4\nread x\n")
    assert {:error, {:spawner_unavailable, text}} = Spawner.start_link(name: nil, path: file)
    assert text =~ "another protocol"
  end

  # ---- on its own command line --------------------------------------------

  defp alone(args, options \\ []) do
    System.cmd(Spawner.default_path(), args, [stderr_to_stdout: true] ++ options)
  end

  @tag :no_spawner
  test "alone: statuses" do
    assert alone(["--", "sh", "-c", "echo hi; exit 3"]) == {"hi\n", 3}
    assert alone(["sh", "-c", "kill -9 $$"]) == {"", 137}
    assert {text, 127} = alone(["snakepit-no-such"])
    assert text =~ "cannot execute \"snakepit-no-such\""
    assert {text, 126} = alone(["--cwd", "/no/such", "true"])
    assert text =~ "/no/such"
    args = ~w(--env A=1 --env B --env A=2 --cwd / sh -c) ++ ["echo $A $B; pwd"]
    assert alone(args, env: [{"B", "b"}]) == {"2\n/\n", 0}
  end

  @tag :no_spawner
  test "alone: a command line that makes no sense" do
    assert {help, 0} = alone(["--help"])
    assert help =~ "--until-eof"
    assert {^help, 2} = alone([])

    for {args, word} <- [
          {["--nonsense", "true"], "--nonsense"},
          {["--grace", "x", "true"], "milliseconds"},
          {["--grace", "-1", "true"], "milliseconds"},
          {["--env", "=x", "true"], "K=V"},
          {["--cwd"], "needs a value"},
          {["--grace", "1"], "program"},
          {["--"], "program"},
          {["--port", "x"], "no more"},
          {["--kill", "1:2"], "PID:START"},
          {["--kill", "12"], "PID:START"},
          {["--kill", "12:"], "PID:START"},
          {["--kill", ":5"], "PID:START"},
          {["--kill", "99999999999999999999999999:5"], "PID:START"}
        ] do
      assert {text, 2} = alone(args)
      assert text =~ word
      assert text =~ "--help"
    end

    assert {text, 2} = alone(["--until-eof", "true"], into: "", env: [], cd: "/") |> stdin_file()
    assert text =~ "pipe"
  end

  # System.cmd gives a pipe for stdin; a file cannot be watched.
  defp stdin_file({_text, 0}) do
    System.cmd("sh", ["-c", "\"$0\" --until-eof true <\"$0\" 2>&1", Spawner.default_path()])
  end

  # A stand-alone spawner whose program prints a family.
  defp start_alone(options) do
    args = options ++ ["sh", "-c", @family <> "wait"]

    port =
      Port.open({:spawn_executable, Spawner.default_path()}, [
        :binary,
        :exit_status,
        args: args
      ])

    {:os_pid, os_pid} = Port.info(port, :os_pid)
    on_exit(fn -> System.cmd("kill", ["-KILL", "#{os_pid}"], stderr_to_stdout: true) end)
    {port, os_pid, read_family(port, "")}
  end

  defp read_family(port, text) do
    pids = String.split(text)

    if length(pids) >= @family_size and String.ends_with?(text, "\n") do
      for pid <- pids, do: {String.to_integer(pid), start_time!(pid)}
    else
      assert_receive {^port, {:data, bytes}}, @patience
      read_family(port, text <> bytes)
    end
  end

  @tag :no_spawner
  test "alone: signals stop the program and its family" do
    for signal <- ["TERM", "INT", "HUP"] do
      {port, os_pid, family} = start_alone(["--grace", "#{@patience}"])
      kill!(os_pid, signal)
      assert_receive {^port, {:exit_status, 143}}, @patience
      assert alive(family) == []
    end
  end

  @tag :no_spawner
  test "alone: killed, it leaves nobody" do
    {port, os_pid, family} = start_alone([])
    kill!(os_pid)
    assert_receive {^port, {:exit_status, _}}, @patience
    eventually(fn -> alive(family) == [] end)
  end

  @tag :no_spawner
  test "alone: the end of stdin stops it with --until-eof" do
    {port, os_pid, family} = start_alone(["--until-eof", "--grace", "50"])
    process = {os_pid, start_time!(os_pid)}
    Port.close(port)
    eventually(fn -> alive([process | family]) == [] end)
  end

  test "kill_processes kills what is meant and nothing else", %{spawner: spawner} do
    {id, pid} = sh!(spawner, @family <> "wait")
    family = read_pids(id, @family_size)
    start = String.to_integer(start_time!(pid))
    assert :ok = Spawner.kill_processes([])
    assert :ok = Spawner.kill_processes([{pid, start + 1}, {4_194_305, 1}])
    assert alive(family) == family
    assert :ok = Spawner.kill_processes([{pid, start}])
    assert finish(spawner, id).exit == {:signal, 9}
    assert alive(family) == []
    assert {:error, text} = Spawner.kill_processes([{1, 1}])
    assert text =~ "PID:START"
    assert {:error, text} = Spawner.kill_processes([{pid, start}], "/no/such")
    assert text =~ "mix compile"
  end
end
