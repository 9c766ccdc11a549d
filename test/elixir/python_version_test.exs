defmodule Snakepit.PythonVersionTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv
  import Snakepit.Test.Pools, only: [signal_path: 0]

  alias Snakepit.{PythonRuntime, PythonVersion}

  doctest PythonVersion

  defp answering(text, status \\ 0) do
    path = signal_path() <> "_python"
    File.write!(path, "#!/bin/sh\ncat <<'END'\n#{text}\nEND\nexit #{status}\n")
    File.chmod!(path, 0o755)
    path
  end

  test "the interpreter says its version" do
    python = PythonRuntime.executable_path()
    assert {:ok, {3, minor, patch} = version} = PythonVersion.detect()
    assert minor >= 9
    assert PythonVersion.detect(python) == {:ok, version}

    assert {text, 0} =
             System.cmd(python, ["-c", "import platform; print(platform.python_version())"])

    assert String.trim(text) == "3.#{minor}.#{patch}"
    assert PythonVersion.validate() == :ok
    assert PythonVersion.recommend_profile() == PythonVersion.recommend_profile(version)
  end

  test "versions are read in every form" do
    for {text, version} <- [
          {"Python 3.9.0", {3, 9, 0}},
          {"Python 3.13.0rc1+", {3, 13, 0}},
          {"Python 3.14", {3, 14, 0}},
          {"Python 2.7.18 :: Anaconda, Inc.", {2, 7, 18}}
        ] do
      assert PythonVersion.detect(answering(text)) == {:ok, version}
    end
  end

  test "what is no Python is an error that says what it is" do
    assert PythonVersion.detect("/no/such/python") ==
             {:error, {:python_not_found, "/no/such/python"}}

    assert {:error, {:no_python_version, "hello\n"}} = PythonVersion.detect(answering("hello"))

    assert {:error, {:exit_status, 3, "Python 3.9.0\n"}} =
             PythonVersion.detect(answering("Python 3.9.0", 3))

    broken = signal_path() <> "_broken"
    File.write!(broken, "\x7fELF nonsense")
    File.chmod!(broken, 0o755)
    assert {:error, reason} = PythonVersion.detect(broken)
    assert elem(reason, 0) in [:not_runnable, :exit_status]
  end

  test "an old Python does not do, and no Python is told" do
    put_env(python_executable: answering("Python 3.8.10"))

    assert PythonVersion.validate() ==
             {:error, {:unsupported_python_version, {3, 8, 10}, {3, 9, 0}}}

    put_env(python_executable: "/no/such/python")
    assert {:error, {:invalid_python_executable, "/no/such/python", _}} = PythonVersion.validate()
    assert PythonVersion.recommend_profile() == :process
  end

  test "threads without the lock exist from 3.13 on" do
    for {version, free?} <- [
          {{2, 99, 0}, false},
          {{3, 9, 1}, false},
          {{3, 12, 99}, false},
          {{3, 13, 0}, true},
          {{3, 14, 2}, true},
          {{4, 0, 0}, true}
        ] do
      assert PythonVersion.supports_free_threading?(version) == free?
      profile = if free?, do: :thread, else: :process
      assert PythonVersion.recommend_profile(version) == profile
    end
  end
end
