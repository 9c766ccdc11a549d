defmodule Snakepit.DownstreamTest do
  # A build and VMs of their own: not beside tests that wait.
  use ExUnit.Case, async: false

  # A library that was written for the published 0.13 compiles without a warning
  # and passes its own tests: test/downstream.

  @project Path.expand("../downstream", __DIR__)
  @patience 300_000

  setup_all do
    id = "#{System.pid()}-#{System.unique_integer([:positive])}"
    build = Path.join(System.tmp_dir!(), "snakepit-downstream-test-#{id}")
    on_exit(fn -> File.rm_rf!(build) end)
    File.mkdir_p!(Path.join(build, "lib"))
    # The snakepit that these tests run with, as the one that mix would build.
    :ok = File.ln_s(Path.expand(Mix.Project.app_path()), Path.join(build, "lib/snakepit"))
    {:ok, build: build}
  end

  defp mix(args, build) do
    env = [
      {"MIX_ENV", "test"},
      {"MIX_BUILD_PATH", build},
      {"DOWNSTREAM_SNAKEPIT_IS_BUILT", "1"},
      {"SNAKEPIT_PYTHON", Snakepit.PythonRuntime.executable_path()}
    ]

    task =
      Task.async(fn -> System.cmd("mix", args, cd: @project, env: env, stderr_to_stdout: true) end)

    Task.await(task, @patience)
  end

  test "it compiles without a warning, and its tests pass", %{build: build} do
    assert {output, 0} = mix(["compile", "--warnings-as-errors"], build)
    refute output =~ "warning"
    {output, status} = mix(["test"], build)
    assert status == 0, output
    assert output =~ ", 0 failures"
  end

  test "a script of it runs and ends", %{build: build} do
    {output, status} = mix(["run", "--no-start", "scripts/script.exs"], build)
    assert status == 0, output
    for line <- ["root 4.0", "result :done"], do: assert(output =~ line, output)
    for what <- ~w(start stop cleanup exit), do: assert(output =~ "\ntold #{what}\n", output)
  end

  test "without pools its base is there", %{build: build} do
    {output, status} = mix(["run", "--no-start", "scripts/without_pools.exs"], build)
    assert status == 0, output
    assert output =~ "listens on 127.0.0.1:"
    assert output =~ "done without pools"
  end
end
