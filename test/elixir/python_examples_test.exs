defmodule Snakepit.PythonExamplesTest do
  # The scripts of examples/ about Python, as somebody runs them.
  use ExUnit.Case, async: false

  @examples Path.expand("../../examples", __DIR__)

  defp run(name) do
    # Not of this suite's settings, which others may have changed.
    env = [{"SNAKEPIT_PYTHON", Snakepit.PythonRuntime.executable_path()}]
    args = ["-pa", Application.app_dir(:snakepit, "ebin"), Path.join(@examples, name)]
    {output, status} = System.cmd("elixir", args, env: env, stderr_to_stdout: true)
    assert status == 0, output
    output
  end

  test "examples/python_calls.exs" do
    output = run("python_calls.exs")

    for line <- [
          "the root of 16 is 4.0",
          "sqlite3.Connection stays in its worker",
          "the highest tide is 3.0 m, at 3:00",
          "OperationalError: no such table: nowhere",
          "between high and low there are 2.0 m",
          "the Python object was released, or its session has ended"
        ],
        do: assert(output =~ line)
  end

  test "examples/python_logging.exs" do
    output = run("python_logging.exs")

    for line <- [
          ~r/^debug of shop.prices at shop_log.py:\d+ in call first: asked for tea$/m,
          ~r/^warning of shop.prices at shop_log.py:\d+ in call second: no price for milk$/m,
          ~r/^warning of py.warnings at shop_log.py:\d+ in call third: FutureWarning: cost is/m
        ],
        do: assert(output =~ line)
  end
end
