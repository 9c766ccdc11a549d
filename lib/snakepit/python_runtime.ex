defmodule Snakepit.PythonRuntime do
  @moduledoc """
  Which Python the workers run on.

  The first of these that is there:

    1. `config :snakepit, python_executable: path`, or `SNAKEPIT_PYTHON`
    2. the package environment, `config :snakepit, python_packages: [env_dir: dir]`
    3. the managed interpreter, when `managed?/1`
    4. `.venv` here or one folder up, then `VIRTUAL_ENV`
    5. `python3`, then `python` on the `PATH`

  A managed interpreter is one that `install_managed/2` had uv put under
  `:runtime_dir`:

      config :snakepit, :python,
        strategy: :uv,
        managed: true,
        python_version: "3.12.3",
        runtime_dir: "priv/snakepit/python"
  """

  alias Snakepit.PythonRuntime.Identity

  @type source :: :override | :package_env | :managed | :venv | :system
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
        cache_dir: nil,
        uv_path: nil,
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

  @doc "Environment that goes with the interpreter, and says which it is."
  @spec runtime_env() :: [{String.t(), String.t()}]
  def runtime_env do
    extra = for {name, value} <- map(config().extra_env), do: {to_string(name), to_string(value)}

    case executable_path() do
      nil -> extra
      path -> [{"SNAKEPIT_PYTHON", path} | Map.to_list(Identity.environment(path))] ++ extra
    end
  end

  @doc """
  What the interpreter is: its path, version, platform, and the SHA-256 of its
  binary.
  """
  @spec runtime_identity() :: {:ok, Identity.t()} | {:error, term}
  def runtime_identity do
    with {:ok, path, _meta} <- resolve_executable(), do: Identity.of(path)
  end

  @doc "The same, with `:source`, where it was found, and whether it is `:managed`."
  @spec runtime_metadata() :: {:ok, map} | {:error, term}
  def runtime_metadata do
    with {:ok, path, %{source: source}} <- resolve_executable(),
         {:ok, identity} <- Identity.of(path) do
      {:ok, Map.merge(identity, %{source: source, managed: source == :managed})}
    end
  end

  # ---- the managed interpreter --------------------------------------------

  @doc "Whether the interpreter is to be installed by Snakepit, with uv."
  @spec managed?(map | keyword) :: boolean
  def managed?(config \\ config()) do
    config = map(config)
    config[:managed] == true and config[:strategy] in [:uv, "uv"]
  end

  @doc "Why there is no managed interpreter, in words; nil when there is one or none is wanted."
  @spec missing_reason(map | keyword) :: String.t() | nil
  def missing_reason(config \\ config()) do
    config = Map.merge(config(), map(config))

    if managed?(config) and managed_executable(config) == nil do
      "there is no Python #{config.python_version || "interpreter"} under " <>
        "#{Path.expand(config.runtime_dir)}, which config :snakepit, :python says is managed: " <>
        "Snakepit.PythonRuntime.install_managed/2 installs it"
    end
  end

  @doc """
  Installs the managed interpreter with `uv python install`, run by `runner`: a
  module with `cmd(program, args, options) :: :ok | {:error, term}`. Does nothing
  when it is not wanted, or there already. `opts` are merged over `config/0`.
  """
  @spec install_managed(module, keyword) :: :ok | {:error, term}
  def install_managed(runner, opts \\ []) do
    config = Map.merge(config(), map(opts))

    cond do
      not managed?(config) or managed_executable(config) != nil ->
        :ok

      not valid_version?(config.python_version) ->
        {:error, {:invalid_python_version, config.python_version}}

      uv = config.uv_path || System.find_executable("uv") ->
        with :ok <- runner.cmd(uv, install_arguments(config), env: uv_env(config)) do
          if managed_executable(config), do: :ok, else: {:error, missing_reason(config)}
        end

      true ->
        {:error, :uv_not_found}
    end
  end

  # It becomes an argument, and part of a path.
  defp valid_version?(version),
    do: is_binary(version) and version =~ ~r/\A\d+\.\d+(\.\d+)?[a-z0-9+]*\z/

  defp install_arguments(config) do
    dir = Path.expand(config.runtime_dir)
    ["python", "install", "--install-dir", dir, config.python_version]
  end

  defp uv_env(%{cache_dir: nil}), do: []
  defp uv_env(%{cache_dir: dir}), do: [{"UV_CACHE_DIR", Path.expand(dir)}]

  # uv names folders like cpython-3.12.3-linux-x86_64-gnu.
  defp managed_executable(config) do
    dir = Path.expand(config.runtime_dir)

    case File.ls(dir) do
      {:ok, names} ->
        names
        |> Enum.filter(&of_version?(&1, config.python_version))
        |> Enum.sort(:desc)
        |> Enum.map(&Path.join([dir, &1, "bin", "python3"]))
        |> Enum.find(&executable?/1)

      {:error, _} ->
        nil
    end
  end

  defp of_version?("cpython-" <> _, nil), do: true

  defp of_version?("cpython-" <> rest, version),
    do: String.starts_with?(rest, [version <> "-", version <> ".", version <> "+"])

  defp of_version?(_name, _version), do: false

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
    nearby = for dir <- [".venv", "../.venv", System.get_env("VIRTUAL_ENV")], do: {:venv, dir}
    in_env([{:package_env, package_env()}]) || managed() || in_env(nearby) || on_path()
  end

  defp in_env(candidates) do
    Enum.find_value(candidates, fn {source, dir} ->
      path = is_binary(dir) and dir != "" and Path.join(Path.expand(dir), "bin/python3")
      if path && executable?(path), do: {:ok, path, %{source: source}}
    end)
  end

  defp managed do
    config = config()
    path = managed?(config) && managed_executable(config)
    if path, do: {:ok, path, %{source: :managed}}
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
