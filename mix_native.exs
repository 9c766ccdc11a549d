# The Mix compiler of the native part. It is a file of its own, and not in lib,
# because it must exist before lib is compiled.
defmodule Mix.Tasks.Compile.SnakepitNative do
  @moduledoc false
  # Runs c_src/Makefile. All that it makes is under Mix.Project.app_path(): what is
  # used at run time in ebin, the rest in obj. But for Python's own bytecode.
  use Mix.Task.Compiler

  @c_src Path.join(__DIR__, "c_src")

  @impl true
  def run(_args) do
    app_path = app_path()
    drop_foreign(app_path)

    case make(app_path, ["-q", "build"]) do
      {_output, 0} -> {:noop, []}
      {:error, message} -> failed(message)
      _stale -> build(app_path)
    end
  end

  @impl true
  def manifests, do: [manifest()]

  @impl true
  def clean do
    _ = make(app_path(), ["clean"])
    _ = File.rm(manifest())
    :ok
  end

  defp build(app_path) do
    Mix.shell().info("Compiling the native part of snakepit")

    case make(app_path, ["-j#{System.schedulers_online()}", "all"]) do
      {output, 0} ->
        if verbose?(), do: IO.write(output)
        File.mkdir_p!(Path.dirname(manifest()))
        File.write!(manifest(), platform())
        {:ok, []}

      {:error, message} ->
        failed(message)

      {output, _status} ->
        # Without make's own "*** Error 1".
        lines = output |> String.split("\n") |> Enum.reject(&(&1 =~ ~r/^g?make(\[\d+\])?: /))
        failed(lines |> Enum.join("\n") |> String.trim())
    end
  end

  defp failed(message) do
    Mix.shell().error(message)

    diagnostic = %Mix.Task.Compiler.Diagnostic{
      compiler_name: "snakepit_native",
      file: Path.join(@c_src, "Makefile"),
      message: message,
      position: nil,
      severity: :error
    }

    {:error, [diagnostic]}
  end

  # Objects of another machine or OTP release (a build path shared with a
  # container, an upgrade) look up to date to make.
  defp drop_foreign(app_path) do
    case File.read(manifest()) do
      {:ok, text} -> if text != platform(), do: make(app_path, ["clean"])
      {:error, _} -> :ok
    end
  end

  # MIX_BUILD_PATH may be relative, and make runs in another folder.
  defp app_path, do: Path.expand(Mix.Project.app_path())

  defp platform do
    "#{:erlang.system_info(:system_architecture)} OTP #{System.otp_release()}"
  end

  defp manifest, do: Path.join(Mix.Project.manifest_path(), "compile.snakepit_native")

  defp verbose?, do: System.get_env("V") == "1"

  defp make(app_path, args) do
    case System.find_executable("gmake") || System.find_executable("make") do
      nil ->
        {:error,
         "snakepit: make is missing. Debian/Ubuntu: apt-get install make · " <>
           "macOS: xcode-select --install"}

      make ->
        with_plain_path(app_path, fn path ->
          env = [
            {"MIX_APP_PATH", path},
            {"ERTS_INCLUDE_DIR", erts_include_dir()},
            # Of a make that runs mix, and not meant for this one.
            {"MAKEFLAGS", nil},
            {"MFLAGS", nil},
            {"MAKELEVEL", nil}
          ]

          opts = [env: env, stderr_to_stdout: true]
          System.cmd(make, ["--no-print-directory", "-C", @c_src | args], opts)
        end)
    end
  end

  # make cannot work with blanks and the like in the names of targets: such a
  # build path gets a plain second name while make runs.
  defp with_plain_path(path, fun) do
    if path =~ ~r{^[\w/.+@,=-]+$} do
      fun.(path)
    else
      id = path |> :erlang.md5() |> Base.encode16(case: :lower)
      link = Path.join(System.tmp_dir!(), "snakepit-build-#{id}")
      File.mkdir_p!(path)

      with {:error, reason} <- File.ln_s(path, link),
           false <- File.read_link(link) == {:ok, path} do
        {:error, "snakepit: cannot make the link #{link}: #{:file.format_error(reason)}"}
      else
        _linked ->
          try do
            fun.(link)
          after
            File.rm(link)
          end
      end
    end
  end

  defp erts_include_dir do
    root = :code.root_dir()

    Enum.find(
      ["#{root}/erts-#{:erlang.system_info(:version)}/include", "#{root}/usr/include"],
      "#{root}/usr/include",
      &File.exists?(Path.join(&1, "erl_nif.h"))
    )
  end
end
