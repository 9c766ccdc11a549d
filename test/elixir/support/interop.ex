defmodule Snakepit.Test.Interop do
  @moduledoc false
  # Runs the programs of test/interop: plain grpcio and generated code.

  @dir Path.expand("../../interop", __DIR__)

  @doc "What the program wrote, and its exit status."
  def python(script, args, more \\ []) do
    System.cmd(interpreter(), command(script, args), env: env() ++ more, stderr_to_stdout: true)
  end

  @doc "What a client shows to a listener of this VM."
  def token, do: {"SNAKEPIT_GRPC_TOKEN", Snakepit.GRPC.Token.run()}

  @doc "The program as a port, whose OS process the caller may kill."
  def open(script, args) do
    options = [:binary, :exit_status, :stderr_to_stdout, line: 65_536]
    env = for {key, value} <- env(), do: {String.to_charlist(key), String.to_charlist(value)}

    Port.open(
      {:spawn_executable, interpreter()},
      options ++ [args: command(script, args), env: env]
    )
  end

  defp command(script, args), do: [Path.join(@dir, script) | Enum.map(args, &to_string/1)]

  defp interpreter do
    with nil <- System.get_env("SNAKEPIT_PYTHON") do
      {:ok, path, _source} = Snakepit.PythonRuntime.resolve_executable()
      path
    end
  end

  defp env do
    [
      {"PYTHONPATH", to_string(Snakepit.Native.ebin())},
      {"PYTHONDONTWRITEBYTECODE", "1"},
      {"GRPC_VERBOSITY", "ERROR"},
      token()
    ]
  end
end
