defmodule Snakepit.PythonEnvTest do
  use ExUnit.Case, async: true

  alias Snakepit.PythonEnv

  # Interpreters, uv and networks are played by shell scripts that write down
  # how they were called; one test uses what this machine has.

  setup do
    root =
      Path.join(System.tmp_dir!(), "snakepit-python-env-#{System.unique_integer([:positive])}")

    root = root <> "-#{System.pid()}"
    File.mkdir_p!(Path.join(root, "bin"))
    File.mkdir_p!(Path.join(root, "project"))
    on_exit(fn -> File.rm_rf!(root) end)

    File.write!(Path.join(root, "requirements.txt"), "# needed\ngrpcio>=1.60,<2\nnumpy>=1.24\n")
    %{root: root, bin: Path.join(root, "bin"), log: Path.join(root, "log")}
  end

  defp script(path, text) do
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, "#!/bin/sh\n" <> text)
    File.chmod!(path, 0o755)
    path
  end

  # Answers what setup asks of a Python. `real` is the interpreter behind it.
  defp fake_python(path, log, opts \\ []) do
    version = opts[:version] || "3.11.4"
    real = opts[:real] || path
    pip = opts[:pip] || "exit 0"

    script(path, """
    case "$1 $2" in
    "-c import grpc"*) exit 0 ;;
    "-c "*) echo "noise"; echo "snakepit-probe #{version} #{opts[:ready] || "venv"} #{real}" ;;
    "-m venv")
      echo "venv #{real}" >>#{log}
      mkdir -p "$3/bin" && cp "$0" "$3/bin/python3" ;;
    "-m pip") echo "pip $*" >>#{log}; #{pip} ;;
    esac
    """)
  end

  defp setup_env(ctx, opts \\ []) do
    test = self()

    opts =
      Keyword.merge(
        [
          root: Path.join(ctx.root, "project"),
          requirements: [Path.join(ctx.root, "requirements.txt")],
          env: Map.merge(%{"PATH" => ctx.bin <> ":/usr/bin:/bin"}, opts[:vars] || %{}),
          say: &send(test, {:said, &1})
        ],
        Keyword.delete(opts, :vars)
      )

    PythonEnv.setup(opts)
  end

  defp calls(ctx) do
    case File.read(ctx.log) do
      {:ok, text} -> String.split(text, "\n", trim: true)
      {:error, :enoent} -> []
    end
  end

  test "makes the environment, installs, and has nothing to do the second time", ctx do
    python = fake_python(Path.join(ctx.bin, "python3"), ctx.log)
    env_python = Path.join(ctx.root, "project/.venv/bin/python3")

    assert {:ok, %{python: ^env_python, changed: true}} = setup_env(ctx)
    assert_received {:said, said}
    assert said == "Python: 3.11.4 (#{python})"
    assert_received {:said, "Installing grpcio, numpy with pip" <> _}
    assert ["venv " <> ^python, "pip " <> pip] = calls(ctx)
    assert pip =~ "-r #{ctx.root}/requirements.txt"

    assert {:ok, %{changed: false}} = setup_env(ctx)
    assert length(calls(ctx)) == 2
  end

  test "installs again when the requirements changed, or when told to", ctx do
    fake_python(Path.join(ctx.bin, "python3"), ctx.log)
    assert {:ok, %{changed: true}} = setup_env(ctx)

    File.write!(Path.join(ctx.root, "requirements.txt"), "grpcio>=1.61\n")
    assert {:ok, %{changed: true}} = setup_env(ctx)
    assert {:ok, %{changed: true}} = setup_env(ctx, force: true)
    assert ["venv " <> _, "pip " <> _, "pip " <> _, "pip " <> _] = calls(ctx)
  end

  test "a second set of requirements is added, and the first stays known", ctx do
    fake_python(Path.join(ctx.bin, "python3"), ctx.log)
    dev = Path.join(ctx.root, "requirements-dev.txt")
    File.write!(dev, "pytest\n")
    both = [Path.join(ctx.root, "requirements.txt"), dev]

    assert {:ok, %{changed: true}} = setup_env(ctx)
    assert {:ok, %{changed: true}} = setup_env(ctx, requirements: both)
    assert {:ok, %{changed: false}} = setup_env(ctx)
    assert {:ok, %{changed: false}} = setup_env(ctx, requirements: both)
  end

  test "what SNAKEPIT_PYTHON names goes before everything else", ctx do
    fake_python(Path.join(ctx.bin, "python3"), ctx.log)
    other = fake_python(Path.join(ctx.root, "other/python3"), ctx.log, version: "3.12.1")

    assert {:ok, %{changed: true}} = setup_env(ctx)
    # Another interpreter than the one that .venv was made from: made anew.
    vars = %{"SNAKEPIT_PYTHON" => other}
    assert {:ok, %{changed: true}} = setup_env(ctx, vars: vars)
    assert {:ok, %{changed: false}} = setup_env(ctx, vars: vars)
    assert Enum.count(calls(ctx), &(&1 =~ "venv #{other}")) == 1

    missing = %{"SNAKEPIT_PYTHON" => "/nowhere/python3"}
    assert {:error, message} = setup_env(ctx, vars: missing)
    assert message =~ "/nowhere/python3 does not run"
  end

  test "environments nearby go before the PATH", ctx do
    path = fake_python(Path.join(ctx.bin, "python3"), ctx.log)
    active = fake_python(Path.join(ctx.root, "active/bin/python3"), ctx.log)
    root = Path.join(ctx.root, "project")
    env = %{"PATH" => ctx.bin, "VIRTUAL_ENV" => Path.join(ctx.root, "active")}
    assert PythonEnv.candidates(root, env) == [active, path]

    parent = fake_python(Path.join(ctx.root, ".venv/bin/python3"), ctx.log)
    own = fake_python(Path.join(root, ".venv/bin/python3"), ctx.log)
    assert PythonEnv.candidates(root, env) == [own, parent, active, path]
  end

  test "passes over a shim that does not run and a Python that is too old", ctx do
    script(Path.join(ctx.root, "shims/python3"), "echo 'no version is set' >&2; exit 127\n")
    fake_python(Path.join(ctx.root, "old/python3"), ctx.log, version: "3.8.18")
    good = fake_python(Path.join(ctx.bin, "python3"), ctx.log)
    dirs = Enum.map(["shims", "old"], &Path.join(ctx.root, &1)) ++ [ctx.bin, "/usr/bin", "/bin"]

    assert {:ok, _} = setup_env(ctx, vars: %{"PATH" => Enum.join(dirs, ":")})
    assert_received {:said, "Passed over: " <> why}
    assert why =~ "shims/python3 does not run (no version is set)"
    assert why =~ "old/python3 is Python 3.8.18, older than 3.9"
    assert hd(calls(ctx)) == "venv #{good}"
  end

  test "with uv on the PATH, uv does it", ctx do
    python = fake_python(Path.join(ctx.bin, "python3"), ctx.log)

    script(Path.join(ctx.bin, "uv"), """
    echo "uv $*" >>#{ctx.log}
    if [ "$1" = venv ]; then
      for dir; do :; done
      mkdir -p "$dir/bin" && cp #{python} "$dir/bin/python3"
    fi
    """)

    assert {:ok, %{changed: true}} = setup_env(ctx)
    assert ["uv venv" <> venv, "uv pip install" <> install] = calls(ctx)
    assert venv =~ "--python #{python}"
    assert install =~ "--python #{ctx.root}/project/.venv/bin/python3"
  end

  test "says what is wrong and what to do", ctx do
    assert {:error, message} = setup_env(ctx, vars: %{"PATH" => ctx.bin})
    assert message =~ "no Python was found"
    assert message =~ "apt-get install python3"

    fake_python(Path.join(ctx.bin, "python3"), ctx.log, version: "3.8.2")
    assert {:error, message} = setup_env(ctx, vars: %{"PATH" => ctx.bin})
    assert message =~ "older than 3.9"
    assert message =~ "SNAKEPIT_PYTHON"

    fake_python(Path.join(ctx.bin, "python3"), ctx.log, ready: "-")
    assert {:error, message} = setup_env(ctx)
    assert message =~ "no venv module"
    assert message =~ "apt-get install python3-venv"
  end

  test "hands on pip's reason, and goes on from there the next time", ctx do
    pip = """
    echo 'WARNING: Retrying (4 left): Connection refused' >&2
    echo 'ERROR: No matching distribution found for grpcio' >&2
    exit 1
    """

    python = fake_python(Path.join(ctx.bin, "python3"), ctx.log, pip: pip)
    assert {:error, message} = setup_env(ctx)
    assert message =~ "ERROR: No matching distribution found for grpcio"
    assert message =~ "the package index cannot be reached"
    assert message =~ "run mix snakepit.setup again"
    refute message =~ "Retrying"
    refute message =~ "\n"

    fake_python(Path.join(ctx.root, "project/.venv/bin/python3"), ctx.log, real: python)
    assert {:ok, %{changed: true}} = setup_env(ctx)
    assert ["venv " <> _, "pip " <> _, "pip " <> _] = calls(ctx)
  end

  test "leaves an environment alone that somebody else made", ctx do
    fake_python(Path.join(ctx.bin, "python3"), ctx.log)
    own = Path.join(ctx.root, "project/.venv/bin/python3")
    fake_python(own, ctx.log, version: "3.8.1")
    before = File.read!(own)

    assert {:error, message} = setup_env(ctx)
    assert message =~ "remove it and try again"
    assert File.read!(own) == before
  end

  test "finds the interpreter behind an environment of this machine", ctx do
    python = System.find_executable("python3")
    {_, 0} = System.cmd(python, ["-m", "venv", "--without-pip", Path.join(ctx.root, "active")])

    # The network is not needed to see what it was made from.
    vars = %{"VIRTUAL_ENV" => Path.join(ctx.root, "active"), "PATH" => "/usr/bin:/bin"}
    script(Path.join(ctx.bin, "uv"), "echo 'error: no network' >&2; exit 2\n")
    vars = %{vars | "PATH" => ctx.bin <> ":" <> vars["PATH"]}

    assert {:error, message} = setup_env(ctx, vars: vars)
    assert message =~ "error: no network"
    assert_received {:said, "Python: 3." <> rest}
    refute rest =~ ctx.root
  end
end
