defmodule Snakepit.BeamDeathTest do
  # Whoever dies, in whatever order and by whatever signal: nobody of a worker's
  # family outlives its BEAM.
  use ExUnit.Case, async: false

  import Snakepit.Test.Spawning,
    only: [kill!: 1, kill!: 2, kill_at_once!: 1, stat: 1, eventually: 1]

  alias Snakepit.Test.Beam

  @children 50
  @patience 60_000

  # What this machine cannot contain so, it has to say.
  defp start(containment) do
    case Beam.start(Beam.scripts(@children), containment) do
      {:refused, message} ->
        assert message =~ "another containment"
        refute containment in [:auto, :none]
        nil

      beam ->
        # 50 guards, 50 children, and 25 daemons with a child each; in a PID
        # namespace number 1.
        more = if containment == :pid_namespace, do: 50, else: 0
        assert length(beam.family) == 150 + more
        beam
    end
  end

  for containment <- [:none, :cgroup, :pid_namespace] do
    test "BEAM by SIGKILL, #{containment}" do
      if beam = start(unquote(containment)) do
        Beam.assert_nobody_left(beam, "BEAM killed (#{unquote(containment)})", fn ->
          kill!(beam.beam)
        end)
      end
    end

    test "BEAM and spawner by SIGKILL at once, #{containment}" do
      if beam = start(unquote(containment)) do
        what = "BEAM and spawner killed (#{unquote(containment)})"
        Beam.assert_nobody_left(beam, what, fn -> kill_at_once!([beam.beam, beam.spawner]) end)
      end
    end

    test "spawner by SIGKILL, #{containment}" do
      if beam = start(unquote(containment)) do
        what = "spawner killed (#{unquote(containment)})"
        Beam.assert_nobody_left(beam, what, fn -> kill!(beam.spawner) end)
      end
    end
  end

  test "BEAM, spawner and all guards by SIGKILL at once, in PID namespaces" do
    if beam = start(:pid_namespace) do
      what = "BEAM, spawner and guards killed (pid_namespace)"

      Beam.assert_nobody_left(beam, what, fn ->
        kill_at_once!([beam.beam, beam.spawner | beam.guards])
      end)
    end
  end

  test "spawner by SIGKILL while the BEAM stands still: the guards see to it" do
    beam = start(:auto)
    kill!(beam.beam, "STOP")
    eventually(fn -> match?({"T", _, _}, stat(beam.beam)) end)

    what = "spawner killed, BEAM stopped"
    # The dead spawner itself is the stopped BEAM's to reap.
    Beam.assert_nobody_left(beam, what, fn -> kill!(beam.spawner) end)
    kill!(beam.beam)
  end

  for {name, order} <- [
        {"System.halt", "System.halt(0)"},
        {"System.halt with a status", "System.halt(3)"},
        {"System.halt with a crash dump",
         ~s{System.put_env("ERL_CRASH_DUMP_BYTES", "0"); System.halt("x")}},
        {"erlang:halt(abort)",
         ~s{System.put_env("ERL_CRASH_DUMP_BYTES", "0"); :erlang.halt(:abort)}},
        {"System.stop", "System.stop(0)"},
        {"init:stop", ":init.stop()"},
        {"init:restart", ":init.restart()"}
      ] do
    test "#{name}" do
      beam = Beam.start(Beam.scripts(8))

      Beam.assert_nobody_left(beam, unquote(name), fn ->
        Beam.order(beam, unquote(order))
      end)
    end
  end

  for signal <- ["TERM", "HUP", "INT", "QUIT", "SEGV", "ABRT"] do
    test "BEAM by SIG#{signal}" do
      beam = Beam.start(Beam.scripts(8))

      Beam.assert_nobody_left(beam, "BEAM by SIG#{unquote(signal)}", fn ->
        kill!(beam.beam, unquote(signal))

        # It is Ctrl-C, and asks what to do.
        if unquote(signal) == "INT" do
          await(beam.port, "BREAK", "")
          Beam.order(beam, "a")
        end
      end)
    end
  end

  test "Ctrl-C twice in IEx" do
    beam = Beam.start_iex(Beam.scripts(8))

    Beam.assert_nobody_left(beam, "Ctrl-C twice", fn ->
      Port.command(beam.port, <<3>>)
      await(beam.port, "BREAK", "")
      Port.command(beam.port, <<3>>)
    end)
  end

  test "IEx whose terminal is closed" do
    beam = Beam.start_iex(Beam.scripts(8))
    Beam.assert_nobody_left(beam, "terminal closed", fn -> Port.close(beam.port) end)
  end

  defp await(port, word, text) do
    unless text =~ word do
      assert_receive {^port, {:data, bytes}}, @patience
      await(port, word, text <> bytes)
    end
  end
end
