defmodule Snakepit.ErlangTest do
  # A VM of its own, which waits for nobody's.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools, only: [signal_path: 0]

  # An Erlang program with the configuration and the calls of guides/building.md,
  # in a VM that knows nothing of mix.

  @guide Path.expand("../../guides/building.md", __DIR__)
  @fence ~r/^```erlang\n(.*?)^```$/ms

  defp erl(program, args, dir) do
    libraries = [Path.dirname(to_string(:code.lib_dir(:elixir))), Path.dirname(app_path())]

    env = [
      {"ERL_LIBS", Enum.join(libraries, ":")},
      {"SNAKEPIT_PYTHON", Snakepit.PythonRuntime.executable_path()},
      {"SNAKEPIT_DATA_DIR", Path.join(dir, "data")}
    ]

    task = fn -> System.cmd(program, args, cd: dir, env: env, stderr_to_stdout: true) end
    task |> Task.async() |> Task.await(60_000)
  end

  defp app_path, do: Path.expand(Mix.Project.app_path())

  test "the calls of the guide, from Erlang" do
    dir = Path.dirname(signal_path())
    assert [[_, config], [_, calls]] = Regex.scan(@fence, File.read!(@guide))
    assert "%% config/" <> _ = config
    File.write!(Path.join(dir, "sys.config"), config)

    File.write!(Path.join(dir, "calls.erl"), """
    -module(calls).
    -export([run/0]).
    run() ->
        {ok, _} = application:ensure_all_started(snakepit),
        #{calls}
    """)

    assert {"", 0} = erl("erlc", ["calls.erl"], dir)
    run = "calls:run(), ok = application:stop(snakepit), io:format(\"all done~n\"), init:stop()."
    assert {output, 0} = erl("erl", ["-noinput", "-config", "sys", "-eval", run], dir)
    assert output =~ ~r/^all done$/m
    assert output =~ "step 3 of 3"
  end
end
