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

  describe "the managed interpreter" do
    defmodule Runner do
      # Does what uv would do, as the test says.
      def cmd(program, args, opts) do
        send(self(), {:cmd, program, args, opts})
        Process.get(:runner, fn _args -> :ok end).(args)
      end
    end

    defp managed(dir, more \\ []) do
      python =
        Keyword.merge(
          [strategy: :uv, managed: true, python_version: "3.12.3", uv_path: "/opt/uv"] ++
            [runtime_dir: Path.join(dir, "managed")],
          more
        )

      put_env(python: python)
      python
    end

    defp install(dir, name), do: program(Path.join([dir, "managed", name, "bin", "python3"]))

    test "is one only with strategy uv and managed", %{dir: dir} do
      refute PythonRuntime.managed?()
      refute PythonRuntime.managed?(%{managed: true})
      refute PythonRuntime.managed?(strategy: :uv)
      refute PythonRuntime.managed?(%{strategy: :system, managed: true})
      assert PythonRuntime.managed?(strategy: "uv", managed: true)
      managed(dir)
      assert PythonRuntime.managed?()
    end

    test "comes after the package environment and before those nearby", %{dir: dir, here: here} do
      managed(dir)
      resolve = fn -> File.cd!(here, &PythonRuntime.resolve_executable/0) end
      program(Path.join(here, ".venv/bin/python3"))
      assert {:ok, _, %{source: :venv}} = resolve.()

      install(dir, "cpython-3.12.30-linux-x86_64-gnu")
      assert {:ok, _, %{source: :venv}} = resolve.()

      path = install(dir, "cpython-3.12.3-linux-x86_64-gnu")
      assert {:ok, ^path, %{source: :managed}} = resolve.()

      packages = program(Path.join(dir, "managed/venv/bin/python3"))
      assert {:ok, ^packages, %{source: :package_env}} = resolve.()
    end

    test "is said to be missing, and where", %{dir: dir} do
      assert PythonRuntime.missing_reason() == nil
      managed(dir)
      assert PythonRuntime.missing_reason() =~ "Python 3.12.3"
      assert PythonRuntime.missing_reason() =~ Path.join(dir, "managed")
      assert PythonRuntime.missing_reason(managed: false) == nil

      install(dir, "cpython-3.12.3-linux-x86_64-gnu")
      assert PythonRuntime.missing_reason() == nil
    end

    test "is installed by uv once", %{dir: dir} do
      managed(dir, cache_dir: Path.join(dir, "cache"))

      Process.put(:runner, fn ["python", "install", "--install-dir", to, "3.12.3"] ->
        assert to == Path.join(dir, "managed")
        install(dir, "cpython-3.12.3-linux-x86_64-gnu")
        :ok
      end)

      assert PythonRuntime.install_managed(Runner) == :ok
      assert_received {:cmd, "/opt/uv", _args, env: [{"UV_CACHE_DIR", _}]}
      assert PythonRuntime.install_managed(Runner) == :ok
      refute_received {:cmd, _, _, _}
    end

    test "is not installed when nobody wants it" do
      assert PythonRuntime.install_managed(Runner) == :ok
      refute_received {:cmd, _, _, _}
    end

    test "that cannot be installed is an error", %{dir: dir} do
      managed(dir)
      Process.put(:runner, fn _args -> {:error, :enetunreach} end)
      assert PythonRuntime.install_managed(Runner) == {:error, :enetunreach}

      Process.put(:runner, fn _args -> :ok end)
      assert {:error, "there is no Python 3.12.3" <> _} = PythonRuntime.install_managed(Runner)

      assert PythonRuntime.install_managed(Runner, uv_path: nil) == {:error, :uv_not_found}

      for version <- [nil, "latest", "../3.12", "--help", 3.12] do
        assert PythonRuntime.install_managed(Runner, python_version: version) ==
                 {:error, {:invalid_python_version, version}}
      end
    end
  end

  describe "the identity" do
    test "is path, version, platform and hash of what is there", %{dir: dir} do
      path = program(Path.join(dir, "mine"))
      File.write!(path, "#!/bin/sh\necho Python 3.10.2\n")
      put_env(python_executable: path)

      assert {:ok, identity} = PythonRuntime.runtime_identity()
      assert %{path: ^path, version: "3.10.2", platform: platform, hash: hash} = identity
      assert platform =~ ~r/^\w+-\w+$/
      assert hash == :sha256 |> :crypto.hash(File.read!(path)) |> Base.encode16(case: :lower)

      assert PythonRuntime.runtime_metadata() ==
               {:ok, Map.merge(identity, %{source: :override, managed: false})}

      env = Map.new(PythonRuntime.runtime_env())
      assert env["SNAKEPIT_PYTHON"] == path
      assert env["SNAKEPIT_PYTHON_RUNTIME_VERSION"] == "3.10.2"
      assert env["SNAKEPIT_PYTHON_RUNTIME_HASH"] == hash
      assert env["SNAKEPIT_PYTHON_RUNTIME_PLATFORM"] == platform
      assert env["PYTHONNOUSERSITE"] == "1"
    end

    test "is found out once, and again when the file is another", %{dir: dir} do
      path = Path.join(dir, "mine")
      asked = path <> ".asked"
      write = fn version -> "#!/bin/sh\necho >> #{asked}\necho Python #{version}\n" end
      program(path)
      File.write!(path, write.("3.10.2"))
      put_env(python_executable: path)

      for _ <- 1..3, do: assert({:ok, %{version: "3.10.2"}} = PythonRuntime.runtime_identity())
      assert File.stat!(asked).size == 1

      File.write!(path, write.("3.10.10"))
      assert {:ok, %{version: "3.10.10"}} = PythonRuntime.runtime_identity()
    end

    test "of what is no Python is an error, and not told to workers", %{dir: dir} do
      put_env(python_executable: program(Path.join(dir, "mine")))
      assert {:error, {:no_python_version, ""}} = PythonRuntime.runtime_identity()
      assert {:error, {:no_python_version, ""}} = PythonRuntime.runtime_metadata()
      assert [_, {"PYTHONNOUSERSITE", "1"}] = PythonRuntime.runtime_env()

      put_env(python_executable: "/no/such")
      assert {:error, {:invalid_python_executable, _, _}} = PythonRuntime.runtime_identity()
    end
  end
end
