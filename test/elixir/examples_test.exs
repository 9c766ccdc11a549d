defmodule Snakepit.ExamplesTest do
  # Every script in examples/ runs to its end, in a BEAM of its own. They check
  # by themselves that the answers are right.
  use ExUnit.Case, async: true

  @dir Path.expand("../../examples", __DIR__)

  for path <- Path.wildcard(Path.join(@dir, "*.exs")) do
    @tag timeout: 300_000
    test Path.basename(path) do
      ebin = Application.app_dir(:snakepit, "ebin")
      args = ["-pa", ebin, unquote(path)]
      env = [{"SNAKEPIT_PYTHON", Snakepit.PythonRuntime.executable_path()}]
      {said, status} = System.cmd("elixir", args, env: env, stderr_to_stdout: true)
      assert status == 0, said
      refute said =~ ~r/\[error\]|\*\* \(|Traceback/
    end
  end
end
