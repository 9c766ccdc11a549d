defmodule Snakepit.PythonEnv do
  @moduledoc false
  # Makes and refreshes `.venv`, the Python environment of a project. Its
  # interpreter is the first that works of those that the run time would look
  # at; see candidates/2.

  @min_version {3, 9}
  @stamp "snakepit-setup"

  @typedoc """
    * `:root` - where `.venv` is, the current directory by default
    * `:requirements` - the files to install from
    * `:force` - install again though nothing changed
    * `:env` - in place of the system's environment variables
    * `:say` - called with each line of progress
  """
  @type option ::
          {:root, Path.t()}
          | {:requirements, [Path.t()]}
          | {:force, boolean}
          | {:env, %{String.t() => String.t()}}
          | {:say, (String.t() -> any)}

  @type result :: %{python: Path.t(), changed: boolean}

  @doc "Does nothing when everything is as it left it. An error is one line for people."
  @spec setup([option]) :: {:ok, result} | {:error, String.t()}
  def setup(opts) do
    root = Path.expand(opts[:root] || File.cwd!())

    ctx = %{
      venv: Path.join(root, ".venv"),
      requirements: Map.new(opts[:requirements] || [], &{Path.basename(&1), &1}),
      env: opts[:env] || System.get_env(),
      force: opts[:force] || false,
      say: opts[:say] || fn _line -> :ok end
    }

    ctx = Map.merge(ctx, %{root: root, override: override(ctx), stamp: read_stamp(ctx.venv)})

    if fresh?(ctx) do
      ctx.say.("Python: #{ctx.stamp["python"]} (#{python(ctx.venv)})")
      {:ok, %{python: python(ctx.venv), changed: false}}
    else
      renew(ctx)
    end
  end

  @doc """
  The interpreters that an environment may be made from, in the order of
  preference: what `:python_executable` or `SNAKEPIT_PYTHON` names (and then
  nothing else), environments nearby, then `python3` and `python` on the PATH.
  """
  @spec candidates(Path.t(), %{String.t() => String.t()}) :: [Path.t()]
  def candidates(root, env) do
    case override(%{env: env, venv: Path.join(root, ".venv")}) do
      nil -> nearby(root, env) ++ on_path(env)
      path -> [path]
    end
  end

  # ---- what there is ------------------------------------------------------

  # The environment's own interpreter is no choice of another one.
  defp override(%{env: env, venv: venv}) do
    configured = Application.get_env(:snakepit, :python_executable)

    case Enum.find([configured, env["SNAKEPIT_PYTHON"]], &(is_binary(&1) and &1 != "")) do
      nil -> nil
      path -> if Path.dirname(Path.expand(path)) == Path.join(venv, "bin"), do: nil, else: path
    end
  end

  defp nearby(root, env) do
    package_env =
      case Application.get_env(:snakepit, :python_packages, []) do
        config when is_list(config) or is_map(config) -> config[:env_dir]
        _ -> nil
      end

    [package_env, Path.join(root, ".venv"), Path.join(root, "../.venv"), env["VIRTUAL_ENV"]]
    |> Enum.filter(&(is_binary(&1) and &1 != ""))
    |> Enum.map(&python(Path.expand(&1, root)))
    |> Enum.filter(&File.exists?/1)
  end

  defp on_path(env) do
    for name <- ["python3", "python"],
        dir <- String.split(env["PATH"] || "", ":", trim: true),
        path = Path.join(dir, name),
        executable?(path),
        uniq: true,
        do: path
  end

  defp executable?(path) do
    case File.stat(path) do
      {:ok, %File.Stat{type: :regular, mode: mode}} -> Bitwise.band(mode, 0o111) != 0
      _ -> false
    end
  end

  defp python(venv), do: Path.join(venv, "bin/python3")

  # ---- the stamp ----------------------------------------------------------

  # "key value" lines: the interpreter and each requirements file's hash.
  defp read_stamp(venv) do
    case File.read(Path.join(venv, @stamp)) do
      {:ok, text} ->
        for line <- String.split(text, "\n", trim: true),
            [key, value] <- [String.split(line, " ", parts: 2)],
            into: %{},
            do: {key, value}

      {:error, _} ->
        nil
    end
  end

  defp write_stamp(ctx, base) do
    lines =
      ctx
      |> hashes()
      |> Enum.into(kept_hashes(ctx))
      |> Map.merge(%{"python" => base.version, "base" => base.path, "asked" => ctx.override || ""})
      |> Enum.map(fn {key, value} -> "#{key} #{value}\n" end)

    File.write(Path.join(ctx.venv, @stamp), lines)
  end

  # What was installed besides stays installed.
  defp kept_hashes(%{stamp: nil}), do: %{}
  defp kept_hashes(%{stamp: stamp}), do: Map.drop(stamp, ["python", "base", "asked"])

  defp hashes(ctx) do
    Map.new(ctx.requirements, fn {name, path} ->
      {name, Base.encode16(:crypto.hash(:sha256, File.read!(path)), case: :lower)}
    end)
  end

  defp fresh?(%{force: true}), do: false
  defp fresh?(%{stamp: nil}), do: false

  defp fresh?(ctx) do
    File.exists?(python(ctx.venv)) and ctx.override in [nil, ctx.stamp["asked"]] and
      Enum.all?(hashes(ctx), fn {name, hash} -> ctx.stamp[name] == hash end)
  end

  # ---- making it ----------------------------------------------------------

  defp renew(ctx) do
    uv = find(ctx.env, "uv")

    with {:ok, base} <- choose(ctx),
         :ok <- announce(ctx, base),
         {:ok, ctx} <- ensure_venv(ctx, base, uv),
         :ok <- install(ctx, uv),
         :ok <- verify(ctx),
         :ok <- stamped(ctx, base) do
      {:ok, %{python: python(ctx.venv), changed: true}}
    end
  end

  defp announce(ctx, base) do
    ctx.say.("Python: #{base.version} (#{base.path})")
    :ok
  end

  defp choose(ctx) do
    case candidates(ctx.root, ctx.env) do
      [] ->
        {:error,
         "no Python was found. Debian/Ubuntu: apt-get install python3 python3-venv · " <>
           "macOS: brew install python · or set SNAKEPIT_PYTHON"}

      paths ->
        first_usable(ctx, paths, [])
    end
  end

  defp first_usable(_ctx, [], refused) do
    {:error,
     "no Python can be used: #{refused |> Enum.reverse() |> Enum.join("; ")}. " <>
       "Set SNAKEPIT_PYTHON to Python 3.9 or newer"}
  end

  defp first_usable(ctx, [path | rest], refused) do
    case inspect_python(path, ctx.env) do
      {:ok, info} ->
        if refused != [], do: ctx.say.("Passed over: #{Enum.join(Enum.reverse(refused), "; ")}")
        {:ok, info}

      {:error, why} ->
        first_usable(ctx, rest, ["#{path} #{why}" | refused])
    end
  end

  # The real interpreter behind a version manager's shim or an environment.
  @probe """
  import sys
  base = getattr(sys, "_base_executable", None) or sys.executable
  if sys.version_info >= (3, 9):
      try:
          import ensurepip, venv
          ready = "venv"
      except ImportError:
          ready = "-"
  else:
      ready = "-"
  version = "%d.%d.%d" % sys.version_info[:3]
  print("snakepit-probe %s %s %s" % (version, ready, base))
  """

  defp inspect_python(path, env) do
    with {:ok, output} <- probe(path, env),
         [_, version, ready, base] <-
           Regex.run(~r/^snakepit-probe (\d+\.\d+\.\d+) (\S+) (.+)$/m, output) do
      [major, minor, _] = version |> String.split(".") |> Enum.map(&String.to_integer/1)

      if {major, minor} >= @min_version do
        {:ok, %{path: base, version: version, venv?: ready == "venv", via: path}}
      else
        {:error, "is Python #{version}, older than 3.9"}
      end
    else
      {:error, output} -> {:error, "does not run (#{output})"}
      nil -> {:error, "does not behave like a Python"}
    end
  end

  defp probe(path, env) do
    case cmd(path, ["-c", @probe], env) do
      {output, 0} -> {:ok, output}
      {output, status} -> {:error, first_line(output, "exit status #{status}")}
    end
  end

  # ctx.stamp tells whether an existing one is ours to replace.
  defp ensure_venv(ctx, base, uv) do
    cond do
      not File.exists?(ctx.venv) ->
        make_venv(ctx, base, uv)

      base.via == python(ctx.venv) or same_base?(ctx, base) ->
        {:ok, ctx}

      ctx.stamp != nil ->
        _ = File.rm_rf(ctx.venv)
        make_venv(%{ctx | stamp: nil}, base, uv)

      true ->
        {:error, "#{ctx.venv} is there but not made from #{base.path}: remove it and try again"}
    end
  end

  defp same_base?(ctx, base) do
    match?({:ok, %{path: path}} when path == base.path, inspect_python(python(ctx.venv), ctx.env))
  end

  defp make_venv(_ctx, %{venv?: false} = base, nil) do
    {:error,
     "Python #{base.version} (#{base.path}) has no venv module. Debian/Ubuntu: " <>
       "apt-get install python3-venv · or install uv"}
  end

  defp make_venv(ctx, base, uv) do
    ctx.say.("Making #{ctx.venv} with #{if uv, do: "uv", else: "python -m venv"}")

    {output, status} =
      if uv,
        do: cmd(uv, ["venv", "--quiet", "--python", base.path, ctx.venv], ctx.env),
        else: cmd(base.path, ["-m", "venv", ctx.venv], ctx.env)

    if status == 0 do
      {:ok, ctx}
    else
      _ = File.rm_rf(ctx.venv)
      {:error, "cannot make #{ctx.venv}: #{reason(output)}"}
    end
  end

  defp install(ctx, uv) do
    files = Enum.sort(Map.values(ctx.requirements))
    names = files |> Enum.flat_map(&package_names/1) |> Enum.join(", ")
    ctx.say.("Installing #{names} with #{if uv, do: "uv", else: "pip"} (takes a minute)")
    args = Enum.flat_map(files, &["-r", &1])
    python = python(ctx.venv)

    {output, status} =
      if uv,
        do: cmd(uv, ["pip", "install", "--quiet", "--python", python | args], ctx.env),
        else:
          cmd(
            python,
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check" | args],
            ctx.env
          )

    if status == 0 do
      :ok
    else
      {:error,
       "the Python packages could not be installed: #{reason(output)}. When that is mended, " <>
         "run mix snakepit.setup again: what is done is kept"}
    end
  end

  defp package_names(file) do
    for [_, name] <- Regex.scan(~r/^([A-Za-z0-9][\w.-]*)/m, File.read!(file)), do: name
  end

  defp verify(ctx) do
    case cmd(python(ctx.venv), ["-c", "import grpc, google.protobuf, numpy"], ctx.env) do
      {_output, 0} -> :ok
      {output, _} -> {:error, "the installed packages cannot be imported: #{reason(output)}"}
    end
  end

  defp stamped(ctx, base) do
    case write_stamp(ctx, base) do
      :ok -> :ok
      {:error, why} -> {:error, "cannot write into #{ctx.venv}: #{:file.format_error(why)}"}
    end
  end

  # ---- programs -----------------------------------------------------------

  defp find(env, name) do
    (env["PATH"] || "")
    |> String.split(":", trim: true)
    |> Enum.map(&Path.join(&1, name))
    |> Enum.find(&executable?/1)
  end

  # Exactly the variables of `env`, without what would bend an interpreter.
  defp cmd(program, args, env) do
    unset = for {key, _} <- System.get_env(), not is_map_key(env, key), do: {key, nil}
    bends = for key <- ["PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"], do: {key, nil}

    System.cmd(program, args,
      env: unset ++ Map.to_list(env) ++ bends,
      stderr_to_stdout: true
    )
  rescue
    error in ErlangError -> {"#{program}: #{inspect(error.original)}", 127}
  end

  # The line that says why, of what uv or pip or Python wrote.
  defp reason(output) do
    signs = ["Retrying", "Request failed", "refused", "name resolution", "dns error", "SSL"]

    if String.contains?(output, signs),
      do: "the package index cannot be reached (#{told(output)})",
      else: told(output)
  end

  defp told(output) do
    lines = output |> String.split("\n") |> Enum.map(&String.trim/1) |> Enum.reject(&(&1 == ""))
    told = Enum.filter(lines, &(&1 =~ ~r/^(ERROR|error|Caused by|.*Error):|^(×|╰)/))

    case {told, lines} do
      {[], []} -> "it said nothing"
      {[], lines} -> List.last(lines)
      {told, _} -> told |> Enum.uniq() |> Enum.take(3) |> Enum.join(" ")
    end
  end

  defp first_line(output, default) do
    case String.split(String.trim(output), "\n", parts: 2) do
      ["" | _] -> default
      [line | _] -> line
    end
  end
end
