defmodule Snakepit.GRPCWorker.Launch do
  @moduledoc false
  # Command line and environment of a worker process.

  alias Snakepit.{Config, Defaults, Native, PythonRuntime, PythonThreadLimits}
  alias Snakepit.Adapters.GRPCPython
  alias Snakepit.GRPC.{Listener, Token}
  alias Snakepit.GRPCWorker.ReadyBell
  alias Snakepit.Pool.{ApplicationCleanup, ProcessRegistry}
  alias Snakepit.Python.Wire
  alias Snakepit.Spawner.Settings
  alias Snakepit.ZeroCopy.Config, as: ZeroCopy

  @threaded_adapter "snakepit_bridge.adapters.threaded_showcase.ThreadedShowcaseAdapter"
  @address_variable "SNAKEPIT_GRPC_ADDRESS"
  @thread_variables ~w(OPENBLAS_NUM_THREADS OMP_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS)

  @type spec :: %{
          program: String.t(),
          args: [String.t()],
          env: [{String.t(), String.t() | nil}],
          cd: String.t() | nil,
          grace_ms: non_neg_integer,
          settings: [String.t()],
          placement: term
        }

  @doc "What to start, and the file in which the worker will say its port."
  @spec build(String.t(), module, map) ::
          {:ok, spec, ready_file :: String.t()} | {:error, String.t()}
  def build(worker_id, adapter, config) do
    with {:ok, program} <- program(adapter),
         {:ok, script} <- script(adapter, config) do
      ready_file = ready_file(worker_id, config)

      {:ok,
       Map.merge(Settings.build(config), %{
         program: program,
         args: List.wrap(script) ++ arguments(adapter, config),
         env: environment(worker_id, program, ready_file, config),
         cd: script && Path.dirname(script),
         grace_ms: Defaults.graceful_shutdown_timeout_ms()
       }), ready_file}
    end
  end

  # ---- program and arguments ----------------------------------------------

  defp program(adapter) do
    case adapter.executable_path() do
      path when is_binary(path) and path != "" -> {:ok, path}
      _ -> {:error, no_program(adapter)}
    end
  end

  defp no_program(GRPCPython) do
    case PythonRuntime.resolve_executable() do
      {:error, reason} -> PythonRuntime.explain(reason)
      {:ok, _path, _meta} -> "the Python interpreter was not found"
    end
  end

  defp no_program(adapter),
    do: "#{inspect(adapter)}.executable_path/0 names no program: is the runtime installed?"

  defp script(adapter, config) do
    case adapter.script_path() do
      path when path in [nil, ""] ->
        {:ok, nil}

      path ->
        path = threaded(Path.expand(path), raw_args(adapter, config))

        if File.regular?(path),
          do: {:ok, path},
          else: {:error, "#{path}, the script of #{inspect(adapter)}, does not exist"}
    end
  end

  defp threaded(path, args) do
    if Path.basename(path) == "grpc_server.py" and has_flag?(args, "--max-workers"),
      do: Path.join(Path.dirname(path), "grpc_server_threaded.py"),
      else: path
  end

  @doc false
  @spec arguments(module, map) :: [String.t()]
  def arguments(adapter, config) do
    args = raw_args(adapter, config)

    args
    |> add(args, "--port", Integer.to_string(port(adapter)))
    |> add(args, "--elixir-address", elixir_address())
    |> add([], "--snakepit-run-id", ProcessRegistry.get_beam_run_id())
    |> add(args, "--snakepit-instance-name", Config.instance_name_identifier())
    |> add(args, "--snakepit-instance-token", Config.instance_token_identifier())
  end

  defp raw_args(adapter, config) do
    args = if config[:adapter_args] in [nil, []], do: [], else: config.adapter_args

    cond do
      Config.thread_profile?(config) -> thread_args(args, config)
      args == [] -> adapter.script_args()
      true -> args
    end
  end

  defp thread_args(args, config) do
    adapter = config[:adapter_spec] || @threaded_adapter
    threads = Integer.to_string(config[:threads_per_worker] || 1)
    checked = if config[:thread_safety_checks], do: ["--thread-safety-check"], else: []

    args
    |> add(args, "--adapter", adapter)
    |> add(args, "--max-workers", threads)
    |> Kernel.++(if has_flag?(args, "--thread-safety-check"), do: [], else: checked)
  end

  defp add(list, _present, _flag, nil), do: list

  defp add(list, present, flag, value) do
    if has_flag?(present, flag), do: list, else: list ++ [flag, value]
  end

  defp has_flag?(args, flag), do: Enum.any?(args, &String.contains?(&1, flag))

  defp port(adapter) do
    if function_exported?(adapter, :get_port, 0), do: adapter.get_port(), else: 0
  end

  defp elixir_address do
    with %{address: address} <- Listener.for_workers(), do: address
  end

  @doc "What a worker wants to be shown, as options of its channel."
  @spec shown() :: %{optional(:authorization) => String.t()}
  def shown do
    case Listener.for_workers() do
      %{token: token} when token != nil -> %{authorization: Token.header(token)}
      _ -> %{}
    end
  end

  # For clients that the worker, or what it starts, makes by itself.
  defp bridge do
    case Listener.for_workers() do
      nil ->
        %{}

      %{address: address, token: token} ->
        shown = if token, do: %{Token.variable() => token}, else: %{}
        Map.put(shown, @address_variable, address)
    end
  end

  # ---- environment --------------------------------------------------------

  defp environment(worker_id, program, ready_file, config) do
    %{
      "SNAKEPIT_WORKER_ID" => worker_id,
      "SNAKEPIT_READY_FILE" => ready_file,
      "SNAKEPIT_HEARTBEAT_CONFIG" => heartbeat(config),
      "SNAKEPIT_LOG_LEVEL" => to_string(Application.get_env(:snakepit, :log_level, :error)),
      "SNAKEPIT_LOG_RECORDS" => "1",
      "SNAKEPIT_PROTO_PATH" => to_string(Native.ebin()),
      "SNAKEPIT_PYTHON" => program,
      "PYTHONPATH" => python_path(),
      "PYTHONUNBUFFERED" => "1",
      "GRPC_VERBOSITY" => System.get_env("GRPC_VERBOSITY") || "ERROR"
    }
    |> Map.merge(Map.new([ProcessRegistry.owner_variable()]))
    |> Map.merge(bridge())
    |> Map.merge(if Settings.other_user?(config), do: %{}, else: ReadyBell.environment())
    |> Map.merge(group())
    |> Map.merge(concurrency(config))
    |> Map.merge(threads(config))
    |> Map.merge(identity(program))
    |> Map.merge(Wire.environment(config))
    |> Map.merge(ZeroCopy.environment(config))
    |> Map.merge(Map.new(PythonRuntime.config().extra_env, fn {k, v} -> {"#{k}", "#{v}"} end))
    |> override(config[:adapter_env] || [])
    |> Enum.to_list()
  end

  defp group do
    if Application.get_env(:snakepit, :process_group_kill, true),
      do: %{"SNAKEPIT_PROCESS_GROUP" => "1"},
      else: %{}
  end

  # Not on the command line, which may be another program's.
  defp concurrency(config) do
    count = config[:concurrency] || 1

    if count > 1 and not Config.thread_profile?(config),
      do: %{"SNAKEPIT_CONCURRENCY" => Integer.to_string(count)},
      else: %{}
  end

  defp threads(config) do
    if Config.thread_profile?(config) do
      Map.new(@thread_variables, &{&1, to_string(config[:threads_per_worker] || 1)})
    else
      (@thread_variables ++ ["VECLIB_MAXIMUM_THREADS"])
      |> Map.new(&{&1, System.get_env(&1) || "1"})
      |> Map.merge(PythonThreadLimits.environment())
      |> Map.put("GRPC_POLL_STRATEGY", System.get_env("GRPC_POLL_STRATEGY") || "poll")
    end
  end

  # Only of an interpreter: it is asked for its version.
  defp identity(program) do
    if program == PythonRuntime.executable_path(),
      do: PythonRuntime.Identity.environment(program),
      else: %{}
  end

  # The names are compared without regard to case.
  defp override(env, additions) do
    Enum.reduce(additions, env, fn {name, value}, env ->
      same = Enum.filter(Map.keys(env), &(String.downcase(&1) == String.downcase(name)))
      env |> Map.drop(same) |> Map.put(name, value)
    end)
  end

  defp python_path do
    inherited = String.split(System.get_env("PYTHONPATH") || "", ":", trim: true)

    own = [
      Application.app_dir(:snakepit, "priv/python"),
      Path.join(File.cwd!(), "priv/python")
    ]

    (inherited ++ own ++ dependents_path() ++ bridge_path())
    |> Enum.uniq_by(&place/1)
    |> Enum.join(":")
  end

  # In a release the current folder is no project, and in an umbrella that of
  # another one. Only of applications that use this one: what lies here is found
  # before the packages of the interpreter's environment.
  defp dependents_path do
    loaded = for {app, _, _} <- Application.loaded_applications(), do: app

    for app <- Enum.sort(dependents([:snakepit], loaded)),
        lib = :code.lib_dir(app),
        is_list(lib),
        dir = Path.join(to_string(lib), "priv/python"),
        File.dir?(dir),
        do: dir
  end

  defp dependents(found, loaded) do
    more =
      for app <- loaded -- found,
          kind <- [:applications, :included_applications],
          Enum.any?(Application.spec(app, kind) || [], &(&1 in found)),
          uniq: true,
          do: app

    if more == [], do: found -- [:snakepit], else: dependents(found ++ more, loaded)
  end

  # Mix's build folder has links to the sources.
  defp place(dir) do
    case File.stat(dir) do
      {:ok, stat} -> {stat.major_device, stat.inode}
      {:error, _} -> dir
    end
  end

  defp bridge_path do
    case :code.priv_dir(:snakebridge) do
      {:error, :bad_name} -> []
      dir -> [Path.join(to_string(dir), "python")]
    end
  end

  defp heartbeat(config) do
    heartbeat = Map.merge(Config.heartbeat_defaults(), config[:heartbeat] || %{})

    {:ok, json} =
      Native.json_encode(%{
        enabled: heartbeat.enabled,
        interval_ms: heartbeat.ping_interval_ms,
        timeout_ms: heartbeat.timeout_ms,
        max_missed_heartbeats: heartbeat.max_missed_heartbeats,
        initial_delay_ms: heartbeat.initial_delay_ms,
        dependent: heartbeat.dependent
      })

    json
  end

  defp ready_file(worker_id, config) do
    name = String.replace(worker_id, ~r/[^A-Za-z0-9_.-]/, "_")
    unique = System.unique_integer([:positive])

    # Another user cannot enter this run's directory, but may write to the other
    # one, a file with a name that nobody guesses.
    if Settings.other_user?(config) do
      secret = Base.url_encode64(:crypto.strong_rand_bytes(18))
      Path.join(ApplicationCleanup.open_dir(), "#{secret}_#{name}_#{unique}")
    else
      Path.join(ApplicationCleanup.run_dir(), "snakepit_ready_#{name}_#{unique}")
    end
  end
end
