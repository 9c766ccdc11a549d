defmodule Snakepit.Test.Beam do
  @moduledoc false
  # A BEAM of its own that has children, for tests of its death: what it runs,
  # and all processes that hang on it.

  import ExUnit.Assertions
  import ExUnit.Callbacks, only: [on_exit: 1]
  import Snakepit.Test.Spawning

  alias Snakepit.Spawner

  @patience 60_000

  # Starts a child for each script, waits for what they have to say, and says
  # who it is itself. A process of its own, as the one that evaluates may end.
  @program """
  [containment, lines | scripts] = System.argv()
  say = fn text -> IO.puts("\\r\\n" <> text <> "\\r") end
  wait = fn wait, left ->
    receive do
      {:snakepit_os, _id, {:output, :stdout, bytes}} ->
        left = left - length(String.split(bytes))
        if left > 0, do: wait.(wait, left)
    end
  end
  spawn(fn ->
    {:ok, spawner} = Snakepit.Spawner.start_link([])
    settings = ["containment=" <> containment]
    for script <- scripts do
      spec = %{program: "sh", args: ["-c", script], settings: settings}
      with {:error, failure} <- Snakepit.Spawner.spawn(spawner, spec) do
        say.("refused \#{failure.message}")
        System.halt(1)
      end
    end
    wait.(wait, String.to_integer(lines))
    say.("beam \#{System.pid()} spawner \#{Snakepit.Spawner.info().os_pid}")
    Process.sleep(:infinity)
  end)
  """

  # Who reads the orders: nobody in a terminal, where the keys are for the shell.
  @orders """
  case IO.gets("") do
    order when is_binary(order) -> Code.eval_string(order)
    _ -> :ok
  end
  Process.sleep(:infinity)
  """

  @doc """
  Of each four children two have nobody, one has a daemon with a child of its own,
  and one such a family that ignores SIGTERM, as it does itself.
  """
  def scripts(count) do
    for n <- 1..count do
      case rem(n, 4) do
        0 ->
          ~S"""
          trap "" TERM HUP INT
          (setsid sh -c 'sleep 1000 & echo ready; while :; do wait; done' &)
          echo ready; while :; do wait; done
          """

        2 ->
          "(setsid sh -c 'sleep 1000 & echo ready; wait' &); echo ready; exec sleep 1000"

        _ ->
          "echo ready; exec sleep 1000"
      end
    end
  end

  defp lines(scripts),
    do: scripts |> Enum.join() |> String.split("echo ready") |> length() |> Kernel.-(1)

  @doc "Starts it; `{:refused, message}` when its children cannot be contained so."
  def start(scripts, containment \\ :auto) do
    port = open(elixir(), arguments(["-noshell"], @program <> @orders, scripts, containment))
    said(port, "")
  end

  @doc "The same with IEx in a terminal, that test/fault/terminal.py plays."
  def start_iex(scripts) do
    iex = System.find_executable("iex")
    terminal = Path.expand("../../fault/terminal.py", __DIR__)
    arguments = arguments([], @program, scripts, :auto)
    port = open(System.find_executable("python3"), [terminal, iex | arguments])
    said(port, "")
  end

  defp elixir, do: System.find_executable("elixir")

  defp arguments(flags, program, scripts, containment) do
    ebin = to_string(:code.which(Spawner)) |> Path.dirname()
    flags = Enum.join(flags ++ ["-pa", ebin], " ")

    ["--erl", flags, "-e", program, "--", to_string(containment), "#{lines(scripts)}"] ++
      scripts
  end

  defp open(program, args) do
    # Some of the deaths would write a core. Who runs the tests by nohup has SIGHUP
    # ignored, and what it starts as well.
    args = ["-c", ~S(ulimit -c 0; exec env --default-signal=HUP "$0" "$@"), program | args]
    port = Port.open({:spawn_executable, "/bin/sh"}, [:binary, :exit_status, args: args])
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    on_exit(fn -> System.cmd("kill", ["-KILL", "#{os_pid}"], stderr_to_stdout: true) end)
    port
  end

  defp said(port, text) do
    case Regex.run(~r/(?:beam (\d+) spawner (\d+)|refused (.*))\r/, text) do
      [_, beam, spawner] ->
        [beam, spawner] = Enum.map([beam, spawner], &String.to_integer/1)
        children = descendants(spawner)
        guards = children_of(spawner)
        %{port: port, beam: beam, spawner: spawner, guards: guards, family: children}

      [_, "", "", message] ->
        {:refused, message}

      nil ->
        receive do
          {^port, {:data, bytes}} -> said(port, text <> bytes)
          {^port, {:exit_status, status}} -> flunk("it ended with #{status}: #{text}")
        after
          @patience -> flunk("it says no more than #{inspect(text)}")
        end
    end
  end

  def order(beam, elixir), do: Port.command(beam.port, elixir <> "\n")

  @doc """
  Does what kills, and waits until nobody of the family and no spawner is left.
  Prints how many they were and how long the last one lived: the figures.
  """
  def assert_nobody_left(beam, what, kill) do
    all = [{beam.spawner, start_time!(beam.spawner)} | beam.family]
    assert length(alive(all)) == length(all)
    begin = System.monotonic_time(:millisecond)
    kill.()
    eventually(fn -> alive(all) == [] end)
    took = System.monotonic_time(:millisecond) - begin
    IO.puts("fault: #{what}: of #{length(all)} processes 0 left after #{took} ms")
  end
end
