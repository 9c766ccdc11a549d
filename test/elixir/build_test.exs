defmodule Snakepit.BuildTest do
  # Compiling takes all processors for a while: not beside tests that wait.
  use ExUnit.Case, async: false

  # The build as its users meet it: missing libraries, a fresh application, a
  # release. Other builds than this one's get folders of their own.

  @project Path.expand("../..", __DIR__)
  @native ["snakepit_nif.so", "snakepit_spawner"]
  @python ["snakepit_bridge_pb2.py", "snakepit_bridge_pb2_grpc.py"]

  setup do
    id = "#{System.pid()}-#{System.unique_integer([:positive])}"
    tmp = Path.join(System.tmp_dir!(), "snakepit-build-test-#{id}")
    File.mkdir_p!(tmp)
    on_exit(fn -> File.rm_rf!(tmp) end)
    %{tmp: tmp}
  end

  defp script(path, text) do
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, "#!/bin/sh\n" <> text)
    File.chmod!(path, 0o755)
    path
  end

  # Not with what `make test` and `mix test` set for this VM.
  defp run(program, args, opts) do
    names = ["MIX_ENV", "MIX_BUILD_PATH", "MIX_APP_PATH", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"]
    names = names ++ ["CI", "V", "SNAKEPIT_PYTHON", "ERL_FLAGS"]
    env = Map.merge(Map.new(names, &{&1, nil}), Map.new(opts[:env] || []))
    opts = Keyword.merge(opts, env: env, stderr_to_stdout: true)
    System.cmd(program, args, opts)
  end

  defp make(args, opts \\ []) do
    run("make", ["--no-print-directory", "-C", Path.join(@project, "c_src") | args], opts)
  end

  describe "what is built" do
    test "lies in ebin, programs executable" do
      ebin = Application.app_dir(:snakepit, "ebin")
      for name <- @native ++ @python, do: assert(File.exists?(Path.join(ebin, name)))
      assert Bitwise.band(File.stat!(Path.join(ebin, "snakepit_spawner")).mode, 0o111) == 0o111
    end

    test "is up to date after a build, so that the next one does nothing" do
      app = Path.expand(Mix.Project.app_path())
      include = "#{:code.root_dir()}/erts-#{:erlang.system_info(:version)}/include"
      assert {_, 0} = make(["-q", "build", "MIX_APP_PATH=#{app}", "ERTS_INCLUDE_DIR=#{include}"])
    end

    test "can be imported by Python", %{tmp: tmp} do
      # protobuf alone: grpcio is not needed to read the messages.
      File.cp!(Application.app_dir(:snakepit, "ebin/#{hd(@python)}"), Path.join(tmp, hd(@python)))
      python = System.get_env("SNAKEPIT_PYTHON") || Path.join(@project, ".venv/bin/python3")
      program = "import snakepit_bridge_pb2 as m; print(m.ExecuteToolRequest(tool_name='x'))"
      assert {"tool_name: \"x\"" <> _, 0} = run(python, ["-c", program], cd: tmp)
    end
  end

  describe "a missing library" do
    # {what is made to be missing, variables, Debian's package, Homebrew's}
    @cases [
      {"libuv", [], "libuv1-dev", "brew install libuv"},
      {"grpc", [], "libgrpc-dev", "brew install grpc"},
      {"protoc", ["PROTOC=/nowhere"], "protobuf-compiler", "brew install protobuf"},
      {"protoc-gen-nanopb", ["NANOPB_PLUGIN=/nowhere"], "nanopb", "brew install nanopb"},
      {"grpc_python_plugin", ["GRPC_PYTHON_PLUGIN=/nowhere"], "protobuf-compiler-grpc",
       "brew install grpc"},
      {"Erlang", ["ERTS_INCLUDE_DIR=/nowhere"], "erlang-dev", "brew install erlang"},
      {"pkg-config", ["PKG_CONFIG=/nowhere"], "pkg-config", "brew install pkg-config"},
      {"C compiler", ["CC=/nowhere"], "gcc", "xcode-select --install"}
    ]

    for {what, variables, debian, brew} <- @cases do
      test "#{what}: one line that names the package", %{tmp: tmp} do
        pkg_config =
          script(Path.join(tmp, "pkg-config"), """
          for arg; do [ "$arg" != "#{unquote(what)}" ] || exit 1; done
          exec pkg-config "$@"
          """)

        variables = ["PKG_CONFIG=#{pkg_config}"] ++ unquote(variables)
        {output, status} = make(["all", "MIX_APP_PATH=#{tmp}/app" | variables])

        assert status != 0
        lines = output |> String.split("\n", trim: true) |> Enum.reject(&(&1 =~ ~r/^g?make/))
        assert [line] = lines
        assert line =~ unquote(what)
        assert line =~ "is missing. Debian/Ubuntu: apt-get install #{unquote(debian)} · macOS: "
        assert line =~ unquote(brew)
        refute File.exists?(Path.join(tmp, "app"))
      end
    end

    test "stops mix with that line and nothing of the compiler's", %{tmp: tmp} do
      pkg_config =
        script(Path.join(tmp, "pkg-config"), """
        for arg; do [ "$arg" != libuv ] || exit 1; done
        exec pkg-config "$@"
        """)

      env = [
        {"PKG_CONFIG", pkg_config},
        {"MIX_ENV", "prod"},
        {"MIX_BUILD_PATH", Path.join(tmp, "_build")}
      ]

      assert {output, status} = run("mix", ["compile"], cd: @project, env: env)
      assert status != 0

      assert output ==
               "Compiling the native part of snakepit\nsnakepit: libuv is missing. " <>
                 "Debian/Ubuntu: apt-get install libuv1-dev · macOS: brew install libuv\n"
    end
  end

  describe "scripts/system_deps.sh" do
    # A machine that has only these; everything else is looked up in `bin`.
    defp machine(tmp, user) do
      bin = Path.join(tmp, "bin")
      for name <- ["sed", "head", "tr", "sort", "cat", "mktemp", "rm"], do: link(bin, name)
      script(Path.join(bin, "id"), "echo #{user}\n")
      script(Path.join(bin, "uname"), "echo Linux\n")
      script(Path.join(bin, "apt-cache"), "echo '  Depends: clang-14'\n")
      script(Path.join(bin, "apt-get"), "echo \"$*\" >>#{tmp}/apt\n")
      bin
    end

    defp link(bin, name) do
      File.mkdir_p!(bin)
      File.ln_s!(System.find_executable(name), Path.join(bin, name))
    end

    defp system_deps(what, bin) do
      script = Path.join(@project, "scripts/system_deps.sh")
      run("/bin/sh", [script | what], env: [{"PATH", bin}])
    end

    test "root gets what is missing installed, and is told", %{tmp: tmp} do
      assert {output, 0} = system_deps(["run"], machine(tmp, 0))
      assert output =~ "installing with apt-get what is missing:"
      assert output =~ "elixir (Elixir and Erlang)"
      assert ["update" <> _, install] = String.split(File.read!("#{tmp}/apt"), "\n", trim: true)
      assert install =~ ~r/^install -y --no-install-recommends elixir .*protobuf-compiler /
      refute install =~ "clang"
    end

    test "an ordinary user is told the command, and nothing is done", %{tmp: tmp} do
      assert {output, 1} = system_deps(["test"], machine(tmp, 1000))
      assert output =~ ~r/^Run: sudo apt-get install .*elixir.* clang/m
      refute File.exists?("#{tmp}/apt")
    end

    test "says nothing when nothing is missing" do
      # What is run here has been built here, so everything for it is there.
      assert {"", 0} = system_deps(["run"], System.get_env("PATH"))
    end

    test "names its arguments when it gets another", %{tmp: tmp} do
      assert {"usage: " <> _, 2} = system_deps(["install"], machine(tmp, 0))
    end
  end

  describe "core" do
    test "may not include what belongs to a carrier or the VM", %{tmp: tmp} do
      copy_project(tmp)
      c_src = Path.join(tmp, "snakepit/c_src")
      args = ["--no-print-directory", "-C", c_src, "purity", "MIX_APP_PATH=#{tmp}/app"]
      assert {_, 0} = run("make", args, [])

      # Not directly, so that reading the source would not find it.
      File.write!(Path.join(c_src, "core/sp_sly.h"), "#include \"../carrier/sly.h\"\n")
      File.write!(Path.join(c_src, "carrier/sly.h"), "#include <uv.h>\n")
      assert {output, status} = run("make", args, [])
      assert status != 0
      assert output =~ "core/sp_sly.h includes"
      assert output =~ "uv.h"
    end
  end

  describe "in a fresh application" do
    @tag timeout: 600_000
    test "it compiles and runs: mix, iex, a release, Mix.install; sources stay as they are",
         ctx do
      copy_project(ctx.tmp)
      before = tree(Path.join(ctx.tmp, "snakepit"))

      # Blanks in the path, which make by itself cannot bear.
      parent = Path.join(ctx.tmp, "my apps")
      File.mkdir_p!(parent)
      assert {_, 0} = run("mix", ["new", "scratch"], cd: parent)
      app = Path.join(parent, "scratch")
      mix_exs = File.read!(Path.join(app, "mix.exs"))
      dep = "{:snakepit, path: #{inspect(Path.join(ctx.tmp, "snakepit"))}}"

      mix_exs =
        Regex.replace(~r/defp deps do\n    \[.*?\]\n/s, mix_exs, "defp deps do\n[#{dep}]\n")

      assert mix_exs =~ dep
      File.write!(Path.join(app, "mix.exs"), mix_exs)

      # The native part is loaded from where the code is.
      program = "IO.inspect(Snakepit.Native.json_decode(\"[1]\"), label: \"native\")"
      # How fast the code is does not matter here, how fast it is compiled does.
      env = [{"MIX_ENV", "prod"}, {"CFLAGS", "-O0 -g0"}]

      assert {output, 0} = run("mix", ["run", "--no-start", "-e", program], cd: app, env: env)
      assert output =~ "Compiling the native part of snakepit"
      assert output =~ "native: {:ok, [1]}"

      File.write!(Path.join(app, "input"), program <> "\n:erlang.halt(0)\n")
      iex = "iex --dot-iex '' -S mix run --no-start <input"
      assert {output, 0} = run("sh", ["-c", iex], cd: app, env: [{"TERM", "dumb"} | env])
      assert output =~ "native: {:ok, [1]}"
      refute output =~ "Compiling"

      assert {_, 0} = run("mix", ["release", "--quiet"], cd: app, env: env)
      # Not where it was built.
      release = Path.join(ctx.tmp, "elsewhere")
      File.rename!(Path.join(app, "_build/prod/rel/scratch"), release)
      File.rm_rf!(Path.join(app, "_build"))
      assert {output, 0} = run("#{release}/bin/scratch", ["eval", program], cd: ctx.tmp)
      assert output =~ "native: {:ok, [1]}"
      [lib] = Path.wildcard("#{release}/lib/snakepit-*")
      for name <- @native ++ @python, do: assert(File.exists?("#{lib}/ebin/#{name}"))
      assert Bitwise.band(File.stat!("#{lib}/ebin/snakepit_spawner").mode, 0o111) == 0o111

      install = "Mix.install([{:snakepit, path: #{inspect(Path.join(ctx.tmp, "snakepit"))}}]);"
      env = [{"MIX_INSTALL_DIR", Path.join(ctx.tmp, "install")} | env]
      assert {output, 0} = run("elixir", ["-e", install <> program], cd: ctx.tmp, env: env)
      assert output =~ "native: {:ok, [1]}"

      assert tree(Path.join(ctx.tmp, "snakepit")) == before
    end
  end

  # As a checkout is: without what was built.
  defp copy_project(tmp) do
    to = Path.join(tmp, "snakepit")
    File.mkdir_p!(to)

    for name <- ~w(lib priv proto c_src config mix.exs mix_native.exs .formatter.exs) do
      File.cp_r!(Path.join(@project, name), Path.join(to, name))
    end
  end

  defp tree(root) do
    for path <- Path.wildcard("#{root}/**", match_dot: true), into: %{} do
      {Path.relative_to(path, root), File.lstat!(path).size}
    end
  end
end
