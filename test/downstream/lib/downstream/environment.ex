defmodule Downstream.Environment do
  @moduledoc """
  The interpreter and the machine, for a lock file.
  """

  alias Snakepit.PythonRuntime

  @spec lock() :: map
  def lock do
    %{
      "python" => python(),
      "hardware" => optional(Snakepit.Hardware, :identity, []),
      "capabilities" => optional(Snakepit.Hardware, :capabilities, []),
      "packages" => optional(Snakepit.PythonPackages, :lock_metadata, [["pip"], []])
    }
  end

  @spec python() :: map
  def python do
    case PythonRuntime.runtime_identity() do
      {:ok, identity} ->
        %{"version" => identity.version, "platform" => identity.platform, "hash" => identity.hash}

      {:error, reason} ->
        %{"error" => inspect(reason)}
    end
  end

  @spec run(String.t()) :: {String.t(), non_neg_integer}
  def run(code) do
    {:ok, python, _meta} = PythonRuntime.resolve_executable()
    System.cmd(python, ["-c", code], env: PythonRuntime.runtime_env(), stderr_to_stdout: true)
  end

  @spec managed?() :: boolean
  def managed?, do: PythonRuntime.config()[:managed] == true

  @doc "Only asked where the user wants it."
  @spec install((list, keyword -> term)) :: term
  def install(runner), do: PythonRuntime.install_managed(runner, [])

  # Parts that an older or newer snakepit may be without.
  defp optional(module, function, args) do
    if Code.ensure_loaded?(module) and function_exported?(module, function, length(args)),
      do: apply(module, function, args)
  end
end
