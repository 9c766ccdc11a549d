defmodule Snakepit.PythonRuntime do
  @moduledoc """
  Which Python the workers run on.

  The first of these that is there:

    1. `config :snakepit, python_executable: path`, or `SNAKEPIT_PYTHON`
    2. the package environment, `config :snakepit, python_packages: [env_dir: dir]`
    3. `.venv` here or one folder up, then `VIRTUAL_ENV`
    4. `python3`, then `python` on the `PATH`
  """

  @type source :: :override | :package_env | :venv | :system
  @type reason ::
          {:invalid_python_executable, String.t(), String.t()} | :python_not_found

  @doc "The effective `config :snakepit, :python`."
  @spec config() :: map
  def config do
    Map.merge(
      %{
        strategy: :system,
        managed: false,
        python_version: nil,
        runtime_dir: Path.join(Snakepit.Config.data_dir(), "python"),
        extra_env: %{"PYTHONNOUSERSITE" => "1"}
      },
      map(Application.get_env(:snakepit, :python))
    )
  end

  @doc "The interpreter's path and where it was found."
  @spec resolve_executable() :: {:ok, String.t(), %{source: source}} | {:error, reason}
  def resolve_executable do
    case override() do
      nil -> search()
      path -> overridden(path)
    end
  end

  @doc "The interpreter's path, or nil."
  @spec executable_path() :: String.t() | nil
  def executable_path do
    case resolve_executable() do
      {:ok, path, _meta} -> path
      {:error, _} -> nil
    end
  end

  @doc "Environment that goes with the interpreter."
  @spec runtime_env() :: [{String.t(), String.t()}]
  def runtime_env do
    extra = for {name, value} <- map(config().extra_env), do: {to_string(name), to_string(value)}

    case executable_path() do
      nil -> extra
      path -> [{"SNAKEPIT_PYTHON", path} | extra]
    end
  end

  @doc "In words for people, what `resolve_executable/0` failed with."
  @spec explain(reason) :: String.t()
  def explain(:python_not_found) do
    "no Python was found: there is no .venv here and no python3 on the PATH. " <>
      "Install Python 3.9 or newer, run mix snakepit.setup, or set SNAKEPIT_PYTHON"
  end

  def explain({:invalid_python_executable, path, why}) do
    "#{path}, which config :snakepit, :python_executable or SNAKEPIT_PYTHON names, #{why}. " <>
      "Set it to the path of a Python interpreter, or unset it"
  end

  defp override do
    Enum.find(
      [Application.get_env(:snakepit, :python_executable), System.get_env("SNAKEPIT_PYTHON")],
      &(is_binary(&1) and &1 != "")
    )
  end

  # A bare name is looked up on the PATH.
  defp overridden(path) do
    full =
      if String.contains?(path, "/"), do: Path.expand(path), else: System.find_executable(path)

    cond do
      full == nil -> {:error, {:invalid_python_executable, path, "is not on the PATH"}}
      not File.exists?(full) -> {:error, {:invalid_python_executable, path, "does not exist"}}
      not executable?(full) -> {:error, {:invalid_python_executable, path, "is not executable"}}
      true -> {:ok, full, %{source: :override}}
    end
  end

  defp search do
    candidates =
      [{:package_env, package_env()}] ++
        for(dir <- [".venv", "../.venv", System.get_env("VIRTUAL_ENV")], do: {:venv, dir})

    in_env =
      for {source, dir} <- candidates,
          is_binary(dir) and dir != "",
          path = Path.join(Path.expand(dir), "bin/python3"),
          executable?(path),
          do: {:ok, path, %{source: source}}

    List.first(in_env) || on_path()
  end

  defp on_path do
    case System.find_executable("python3") || System.find_executable("python") do
      nil -> {:error, :python_not_found}
      path -> {:ok, path, %{source: :system}}
    end
  end

  defp package_env do
    packages = map(Application.get_env(:snakepit, :python_packages))
    packages[:env_dir] || Path.join(config().runtime_dir, "venv")
  end

  defp executable?(path) do
    case File.stat(path) do
      {:ok, %File.Stat{type: :regular, mode: mode}} -> Bitwise.band(mode, 0o111) != 0
      _ -> false
    end
  end

  defp map(nil), do: %{}
  defp map(map) when is_map(map), do: map
  defp map(list) when is_list(list), do: Map.new(list)
end
