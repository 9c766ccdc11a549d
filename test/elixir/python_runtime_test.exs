defmodule Snakepit.PythonRuntimeTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv
  import Snakepit.Test.Pools, only: [signal_path: 0]

  alias Snakepit.PythonRuntime

  setup do
    dir = Path.dirname(signal_path())
    put_env(python_executable: nil, python: nil, python_packages: nil, data_dir: dir)
    put_system_env(%{"SNAKEPIT_PYTHON" => nil, "VIRTUAL_ENV" => nil, "PATH" => dir})
    # A folder in a folder: the search looks one up.
    here = Path.join(dir, "project")
    File.mkdir_p!(here)
    %{dir: dir, here: here}
  end

  defp program(path) do
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, "#!/bin/sh\n")
    File.chmod!(path, 0o755)
    path
  end

  test "the order is override, package environment, venvs, PATH", %{dir: dir, here: here} do
    resolve = fn -> File.cd!(here, &PythonRuntime.resolve_executable/0) end
    assert resolve.() == {:error, :python_not_found}
    assert PythonRuntime.explain(:python_not_found) =~ "SNAKEPIT_PYTHON"

    found = [
      {program(Path.join(dir, "python")), :system},
      {program(Path.join(dir, "python3")), :system},
      {program(Path.join(dir, "other/bin/python3")), :venv},
      {program(Path.join(dir, ".venv/bin/python3")), :venv},
      {program(Path.join(here, ".venv/bin/python3")), :venv},
      {program(Path.join(dir, "packages/bin/python3")), :package_env}
    ]

    for {path, _} <- found, do: File.rm!(path)

    for {path, source} <- found do
      program(path)
      if path =~ "other", do: System.put_env("VIRTUAL_ENV", Path.join(dir, "other"))
      if path =~ "packages", do: put_env(python_packages: [env_dir: Path.join(dir, "packages")])
      assert {:ok, resolved, %{source: ^source}} = resolve.()
      assert same?(resolved, path)
    end

    override = program(Path.join(dir, "mine"))
    System.put_env("SNAKEPIT_PYTHON", override)
    assert resolve.() == {:ok, override, %{source: :override}}
    assert PythonRuntime.executable_path() == override
    assert {"SNAKEPIT_PYTHON", override} in PythonRuntime.runtime_env()
  end

  defp same?(a, b), do: File.stat!(a).inode == File.stat!(b).inode

  test "an override that cannot be used is said, not passed over", %{dir: dir} do
    program(Path.join(dir, "python3"))
    put_env(python_executable: "/no/such")

    assert {:error, {:invalid_python_executable, "/no/such", why} = reason} =
             PythonRuntime.resolve_executable()

    assert why =~ "not exist"
    assert PythonRuntime.explain(reason) =~ "/no/such"
    assert PythonRuntime.executable_path() == nil

    plain = Path.join(dir, "plain")
    File.write!(plain, "")
    put_env(python_executable: plain)

    assert {:error, {:invalid_python_executable, ^plain, "is not executable"}} =
             PythonRuntime.resolve_executable()

    put_env(python_executable: "no-such-name")
    assert {:error, {_, _, "is not on the PATH"}} = PythonRuntime.resolve_executable()
  end

  test "an override may be a name on the PATH", %{dir: dir} do
    path = program(Path.join(dir, "special"))
    put_env(python_executable: "special")
    assert {:ok, ^path, %{source: :override}} = PythonRuntime.resolve_executable()
  end
end
