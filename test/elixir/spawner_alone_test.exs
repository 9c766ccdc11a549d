defmodule Snakepit.SpawnerAloneTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Spawning

  alias Snakepit.Spawner

  # Far more than anything here takes; only what hangs comes near it.
  @patience 60_000

  setup :start_spawner

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
    args = options ++ ["sh", "-c", family() <> "wait"]

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

    if length(pids) >= family_size() and String.ends_with?(text, "\n") do
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
    {id, pid} = sh!(spawner, family() <> "wait")
    family = read_pids(id, family_size())
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

  @tag :no_spawner
  test "alone: settings are options" do
    options = ~w(--limit nofile=77:99 --nice 19 --umask 0026 --containment none --affinity none)
    script = "ulimit -n; ulimit -Hn; nice; umask"
    assert alone(options ++ ["sh", "-c", script]) == {"77\n99\n19\n0026\n", 0}

    for {args, word} <- [
          {["--limit", "nofile", "true"], "RESOURCE"},
          {["--nice", "x", "true"], "-20 to 19"},
          {["--memory", "much", "true"], "bytes"},
          {["--containment", "jail", "true"], "pid_namespace"},
          {["--affinity"], "needs a value"}
        ] do
      assert {text, 2} = alone(args)
      assert text =~ word
      assert text =~ hd(args) |> String.trim("-")
    end

    assert {text, 126} = alone(["--user", "no-such-user", "true"])
    assert text =~ "no-such-user"
  end

  # Its parent is a shell that we kill; `exec` would make it ours.
  defp start_under_shell(options) do
    command = Enum.join([Spawner.default_path() | options], " ")
    script = "echo $$; #{command} sh -c '#{String.replace(family(), "'", "'\\''")} wait'; true"

    port =
      Port.open({:spawn_executable, "/bin/sh"}, [:binary, :exit_status, args: ["-c", script]])

    {:os_pid, shell} = Port.info(port, :os_pid)
    on_exit(fn -> System.cmd("kill", ["-KILL", "#{shell}"], stderr_to_stdout: true) end)
    [_shell | family] = read_lines(port, family_size() + 1, "")
    [spawner] = children_of(shell)
    {shell, {spawner, start_time!(spawner)}, for(pid <- family, do: {pid, start_time!(pid)})}
  end

  defp read_lines(port, count, text) do
    numbers = text |> String.split() |> Enum.map(&String.to_integer/1)

    if length(numbers) >= count and String.ends_with?(text, "\n") do
      numbers
    else
      assert_receive {^port, {:data, bytes}}, @patience
      read_lines(port, count, text <> bytes)
    end
  end

  @tag :no_spawner
  test "alone: it ends with its parent" do
    {shell, spawner, family} = start_under_shell(["--grace", "50"])
    kill!(shell)
    eventually(fn -> alive([spawner | family]) == [] end)
  end

  @tag :no_spawner
  test "alone: with --stay it does not" do
    {shell, {pid, _} = spawner, family} = start_under_shell(["--grace", "50", "--stay"])
    on_exit(fn -> System.cmd("kill", ["-KILL", "#{pid}"], stderr_to_stdout: true) end)
    kill!(shell)
    # The kernel has handed it to another parent, and it knows by now.
    eventually(fn -> parent!(pid) != shell end)
    assert alive([spawner | family]) == [spawner | family]
    kill!(pid, "TERM")
    eventually(fn -> alive([spawner | family]) == [] end)
  end
end
