defmodule Snakepit.Config do
  @moduledoc """
  Reads `config :snakepit` and says clearly what is wrong with it.

  Pools are either a list, `pools: [%{name: :a, ...}, ...]`, or (older) the
  flat keys `adapter_module`, `adapter_args`, `pool_size` and `pool_config`,
  which make one pool named `:default`. Maps and keyword lists do the same.
  """

  alias Snakepit.Config.{Explain, Listener}
  alias Snakepit.Defaults
  alias Snakepit.Spawner.Settings
  alias Snakepit.ZeroCopy.Config, as: ZeroCopy

  @type pool_config :: map
  @type normalized_pool_config :: map
  @type validation_result :: {:ok, [pool_config]} | {:error, term}
  @type grpc_listener_mode :: :internal | :external | :external_pool
  @type grpc_listener_config :: %{
          required(:mode) => grpc_listener_mode,
          required(:host) => String.t(),
          required(:bind_host) => String.t(),
          required(:port) => :inet.port_number() | nil,
          required(:base_port) => :inet.port_number() | nil,
          required(:pool_size) => pos_integer | nil,
          optional(:auth) => :token | :none,
          optional(:token) => String.t(),
          optional(:tls) => keyword | map
        }

  @default_adapter Snakepit.Adapters.GRPCPython
  @profiles [:process, :thread]
  @strategies [:pool, :profile, :hybrid]
  @affinities [:hint, :strict_queue, :strict_fail_fast]
  @transports [:auto, :local, :grpc]

  # ---- pools --------------------------------------------------------------

  @doc "The pools that are configured, complete and valid."
  @spec get_pool_configs() :: validation_result
  def get_pool_configs do
    case Application.get_env(:snakepit, :pools) do
      nil -> validate_all([legacy_pool()])
      [] -> {:error, {:invalid_pools_config, []}}
      pools when is_list(pools) -> if one_pool?(pools), do: one(pools), else: validate_all(pools)
      other -> {:error, {:invalid_pools_config, other}}
    end
  end

  @doc "One of them."
  @spec get_pool_config(atom) :: {:ok, pool_config} | {:error, :pool_not_found | term}
  def get_pool_config(name) do
    with {:ok, pools} <- get_pool_configs() do
      case Enum.find(pools, &(&1.name == name)) do
        nil -> {:error, :pool_not_found}
        pool -> {:ok, pool}
      end
    end
  end

  @doc "Fills in what is missing, without judging what is there."
  @spec normalize_pool_config(map | keyword) :: normalized_pool_config
  def normalize_pool_config(config) do
    config = config |> Map.new() |> rename(:env, :adapter_env)
    explicit = Map.has_key?(config, :startup_batch_size)
    sized? = Map.get(config, :pool_size) != nil

    %{
      worker_profile: Defaults.default_worker_profile(),
      pool_size: Defaults.default_pool_size(),
      adapter_module: Application.get_env(:snakepit, :adapter_module) || @default_adapter,
      adapter_args: [],
      adapter_env: [],
      capacity_strategy: Defaults.default_capacity_strategy(),
      affinity: Defaults.default_affinity_mode(),
      transport: Application.get_env(:snakepit, :transport, :auto),
      prefork: Application.get_env(:snakepit, :prefork, true),
      python_calls: Application.get_env(:snakepit, :python_calls, false),
      pool_identifier: nil,
      worker_ttl: :infinity,
      worker_max_requests: :infinity,
      memory_threshold_mb: nil,
      startup_batch_size: Defaults.config_default_batch_size(),
      startup_batch_delay_ms: Defaults.config_default_batch_delay(),
      startup_batches?: explicit,
      threads_per_worker: Defaults.config_default_threads_per_worker(),
      thread_safety_checks: false,
      concurrency: 1,
      cpu_affinity: :none,
      containment: Application.get_env(:snakepit, :containment, :auto),
      cgroup: Application.get_env(:snakepit, :cgroup),
      zero_copy: nil
    }
    |> Map.merge(drop_nil(config))
    |> Map.update!(:affinity, &known_atom(&1, @affinities))
    |> Map.update!(:worker_profile, &known_atom(&1, @profiles))
    |> Map.update!(:transport, &known_atom(&1, @transports))
    |> own_transport()
    |> Map.update!(:cpu_affinity, &known_atom(&1, [:none, :spread, :compact]))
    |> Map.update!(:containment, &known_atom(&1, [:auto, :pid_namespace, :cgroup, :none]))
    |> Map.update!(:adapter_env, &env_list/1)
    |> sizes(sized?)
    |> Map.put(:heartbeat, Map.merge(heartbeat_defaults(), heartbeat(config[:heartbeat])))
  end

  # A pool whose size is not fixed starts with as few workers as it may have,
  # unless it says with how many.
  defp sizes(config, sized?) do
    size = config.pool_size

    case {config[:min_size], config[:max_size]} do
      {nil, nil} -> Map.merge(config, %{min_size: size, max_size: size})
      {nil, _max} -> Map.put(config, :min_size, if(sized?, do: size, else: 1))
      {min, nil} -> Map.put(config, :max_size, max_of(size, min))
      {_min, _max} -> config
    end
    |> start_size(sized?)
    |> Map.put_new(:idle_timeout, Defaults.pool_idle_timeout_ms())
  end

  defp start_size(%{min_size: min} = config, false) when is_integer(min) and min > 0,
    do: %{config | pool_size: min}

  defp start_size(config, _sized?), do: config

  # What is no number is for the check to say.
  defp max_of(size, min) when is_integer(size) and is_integer(min), do: max(size, min)
  defp max_of(size, _min), do: size

  # The shared memory's socket is open to our own user only.
  defp own_transport(%{transport: :auto, user: _} = config), do: %{config | transport: :grpc}
  defp own_transport(config), do: config

  @doc "One pool, complete, or what is wrong with it."
  @spec validate_pool_config(map | keyword) :: {:ok, pool_config} | {:error, term}
  def validate_pool_config(config) do
    if is_map(config) or Keyword.keyword?(config) do
      own = config[:heartbeat]
      config = normalize_pool_config(config)

      case settings_problem(own) || Enum.find_value(checks(), &failure(&1, config)) do
        nil -> {:ok, config}
        reason -> {:error, reason}
      end
    else
      {:error, {:invalid_pools_config, config}}
    end
  end

  # What is left of it when it is normalized does not tell.
  defp settings_problem(own) do
    if not (is_nil(own) or is_map(own) or Keyword.keyword?(own)),
      do: {:invalid_heartbeat, :heartbeat, own, "heartbeat is a map or a keyword list"}
  end

  @doc "The module of the pool's worker profile; a module of the user's is itself."
  @spec get_profile_module(map) :: module
  def get_profile_module(config) do
    case config[:worker_profile] do
      profile when profile in [nil, :process, "process"] -> Snakepit.WorkerProfile.Process
      profile when profile in [:thread, "thread"] -> Snakepit.WorkerProfile.Thread
      module -> module
    end
  end

  @doc "Whether the pool's workers serve several requests at a time, in threads."
  @spec thread_profile?(map) :: boolean
  def thread_profile?(config),
    do: config[:worker_profile] in [:thread, "thread", Snakepit.WorkerProfile.Thread]

  @doc "The heartbeat settings; a pool's `:heartbeat` is merged over them."
  @spec heartbeat_defaults() :: map
  def heartbeat_defaults do
    Map.merge(
      %{
        enabled: true,
        ping_interval_ms: Defaults.heartbeat_ping_interval_ms(),
        timeout_ms: Defaults.heartbeat_timeout_ms(),
        max_missed_heartbeats: Defaults.heartbeat_max_missed(),
        initial_delay_ms: Defaults.heartbeat_initial_delay_ms(),
        dependent: true
      },
      heartbeat(Application.get_env(:snakepit, :heartbeat))
    )
  end

  # A keyword list is a list of pairs: one pool that lacks its list.
  defp one_pool?(pools), do: Keyword.keyword?(pools)
  defp one(pools), do: {:error, {:invalid_pools_config, pools}}

  defp validate_all(pools) do
    {valid, failed} =
      pools
      |> Enum.map(&validate_pool_config/1)
      |> Enum.split_with(&match?({:ok, _}, &1))

    valid = Enum.map(valid, &elem(&1, 1))
    names = Enum.map(valid, & &1.name)

    case {Enum.map(failed, &elem(&1, 1)), names -- Enum.uniq(names)} do
      {[], []} -> {:ok, valid}
      {[], twice} -> {:error, {:duplicate_pool_names, Enum.uniq(twice)}}
      {[reason], _} when length(pools) == 1 -> {:error, reason}
      {reasons, _} -> {:error, {:validation_failed, reasons}}
    end
  end

  defp legacy_pool do
    nested = plain_map(Application.get_env(:snakepit, :pool_config))

    flat =
      for key <- [:pool_size, :adapter_module, :adapter_args, :adapter_env, :worker_profile],
          value = Application.get_env(:snakepit, key),
          into: %{},
          do: {key, value}

    nested
    |> Map.merge(flat)
    |> Map.put(:name, :default)
    |> python_adapter(Application.get_env(:snakepit, :python_adapter))
  end

  defp python_adapter(config, nil), do: config
  defp python_adapter(config, path), do: Map.put_new(config, :adapter_args, ["--adapter", path])

  # {key, fun}: fun says nil when all is well, else the reason.
  defp checks do
    [
      &check_name/1,
      &check_profile/1,
      &check_size/1,
      &check_bounds/1,
      &check_idle/1,
      &check_heartbeat/1,
      &check_adapter/1,
      &check_args/1,
      &check_env/1,
      &check_strategy/1,
      &check_affinity/1,
      &check_transport/1,
      &check_prefork/1,
      &check_python_calls/1,
      &check_ttl/1,
      &check_max_requests/1,
      &check_numbers/1,
      &check_zero_copy/1,
      &Settings.problem/1,
      &check_crash_barrier/1
    ]
  end

  defp failure(check, config), do: check.(config)

  defp check_name(%{name: name}) when is_atom(name) and name not in [nil, true, false], do: nil
  defp check_name(%{name: name}), do: {:invalid_pool_name, name, "a pool's name is an atom"}
  defp check_name(_), do: {:missing_required_fields, [:name]}

  defp check_profile(%{worker_profile: profile}) when profile in @profiles, do: nil

  defp check_profile(%{worker_profile: profile}) do
    cond do
      not (is_atom(profile) and Code.ensure_loaded?(profile)) ->
        {:invalid_profile, profile, "worker_profile is one of #{inspect(@profiles)}, or a module"}

      not function_exported?(profile, :start_worker, 1) ->
        {:invalid_profile, profile,
         "a module as worker_profile has the functions of Snakepit.WorkerProfile"}

      true ->
        nil
    end
  end

  defp check_size(%{pool_size: size}) when is_integer(size) and size > 0, do: nil

  defp check_size(%{pool_size: size}),
    do: {:invalid_pool_size, size, "pool_size is a positive number of workers"}

  defp check_bounds(config) do
    %{min_size: min, max_size: max, pool_size: size} = config

    cond do
      not (is_integer(min) and min > 0) ->
        {:invalid_pool_option, :min_size, min, "min_size is a positive number of workers"}

      not (is_integer(max) and max >= min) ->
        {:invalid_pool_option, :max_size, max, "max_size is not less than min_size (#{min})"}

      size < min or size > max ->
        {:invalid_pool_size, size, "pool_size lies between min_size and max_size, #{min}..#{max}"}

      true ->
        nil
    end
  end

  defp check_idle(%{idle_timeout: :infinity}), do: nil
  defp check_idle(%{idle_timeout: ms}) when is_integer(ms) and ms > 0, do: nil

  defp check_idle(%{idle_timeout: other}) do
    {:invalid_pool_option, :idle_timeout, other,
     "idle_timeout is a positive number of milliseconds or :infinity"}
  end

  @heartbeat_numbers [
    ping_interval_ms: 1,
    timeout_ms: 1,
    max_missed_heartbeats: 1,
    initial_delay_ms: 0
  ]

  defp check_heartbeat(%{heartbeat: heartbeat}) do
    wrong =
      Enum.find(@heartbeat_numbers, fn {key, least} ->
        value = heartbeat[key]
        not (is_integer(value) and value >= least)
      end)

    case wrong do
      {key, least} ->
        {:invalid_heartbeat, key, heartbeat[key], "#{key} is an integer of at least #{least}"}

      nil ->
        Enum.find_value([:enabled, :dependent], fn key ->
          if not is_boolean(heartbeat[key]),
            do: {:invalid_heartbeat, key, heartbeat[key], "#{key} is true or false"}
        end)
    end
  end

  defp check_adapter(%{adapter_module: module}) when is_atom(module) do
    if Code.ensure_loaded?(module),
      do: nil,
      else: {:invalid_adapter_module, module, "there is no module #{inspect(module)}"}
  end

  defp check_adapter(%{adapter_module: other}),
    do: {:invalid_adapter_module, other, "adapter_module is a module"}

  defp check_args(%{adapter_args: args}) do
    if is_list(args) and Enum.all?(args, &is_binary/1),
      do: nil,
      else: {:invalid_adapter_args, args, "adapter_args is a list of strings"}
  end

  defp check_env(%{adapter_env: env}) do
    valid = fn
      {name, value} -> is_binary(name) and name != "" and (is_binary(value) or is_nil(value))
      _ -> false
    end

    if is_list(env) and Enum.all?(env, valid),
      do: nil,
      else: {:invalid_adapter_env, env, "adapter_env is a map or list of names and texts"}
  end

  defp check_strategy(%{capacity_strategy: strategy}) when strategy in @strategies, do: nil
  defp check_strategy(%{capacity_strategy: other}), do: {:invalid_capacity_strategy, other}

  defp check_affinity(%{affinity: affinity}) when affinity in @affinities, do: nil
  defp check_affinity(%{affinity: other}), do: {:invalid_affinity, other}

  defp check_transport(%{transport: transport}) when transport in @transports, do: nil

  defp check_transport(%{transport: other}),
    do: {:invalid_transport, other, "transport is one of #{inspect(@transports)}"}

  defp check_prefork(%{prefork: prefork}) when is_boolean(prefork), do: nil

  defp check_prefork(%{prefork: [preload: modules] = prefork}) do
    if is_list(modules) and Enum.all?(modules, &(is_binary(&1) and &1 =~ ~r/^[\w.]+$/u)),
      do: nil,
      else: bad_prefork(prefork)
  end

  defp check_prefork(%{prefork: other}), do: bad_prefork(other)

  defp bad_prefork(other) do
    {:invalid_prefork, other,
     "prefork is true, false, or [preload: names of Python modules to import before the fork]"}
  end

  defp check_python_calls(%{python_calls: allowed}) when is_boolean(allowed), do: nil

  defp check_python_calls(%{python_calls: other}),
    do: {:invalid_pool_option, :python_calls, other, "python_calls is true or false"}

  defp check_zero_copy(%{zero_copy: own}) do
    with {key, value, text} <- ZeroCopy.problem(own, :pool),
         do: {:invalid_pool_option, key, value, text}
  end

  defp check_ttl(%{worker_ttl: :infinity}), do: nil

  defp check_ttl(%{worker_ttl: {n, unit}})
       when is_integer(n) and n > 0 and unit in [:seconds, :minutes, :hours],
       do: nil

  defp check_ttl(%{worker_ttl: other}) do
    {:invalid_worker_ttl, other,
     "worker_ttl is :infinity or {positive integer, :seconds | :minutes | :hours}"}
  end

  defp check_max_requests(%{worker_max_requests: :infinity}), do: nil
  defp check_max_requests(%{worker_max_requests: n}) when is_integer(n) and n > 0, do: nil

  defp check_max_requests(%{worker_max_requests: other}) do
    {:invalid_worker_max_requests, other,
     "worker_max_requests is :infinity or a positive integer"}
  end

  defp check_crash_barrier(config) do
    case Snakepit.CrashBarrier.problem(config) do
      nil -> nil
      {key, value, text} -> {:invalid_crash_barrier, key, value, text}
    end
  end

  @numbers [
    startup_batch_size: 1,
    startup_batch_delay_ms: 0,
    threads_per_worker: 1,
    concurrency: 1,
    max_workers: 1,
    max_queue_size: 0,
    cancel_grace_ms: 0,
    memory_threshold_mb: 1
  ]

  defp check_numbers(config) do
    Enum.find_value(@numbers, fn {key, least} ->
      case config[key] do
        nil -> nil
        n when is_integer(n) and n >= least -> nil
        other -> {:invalid_pool_option, key, other, "#{key} is an integer of at least #{least}"}
      end
    end)
  end

  # ---- the listener -------------------------------------------------------

  @doc "How the BEAM's own gRPC server listens."
  @spec grpc_listener_config() :: {:ok, grpc_listener_config} | {:error, term}
  defdelegate grpc_listener_config(), to: Listener, as: :config

  @doc "The same, or raises an `ArgumentError` that says what is wrong."
  @spec grpc_listener_config!() :: grpc_listener_config
  def grpc_listener_config! do
    case grpc_listener_config() do
      {:ok, config} -> config
      {:error, reason} -> raise ArgumentError, Explain.text(:grpc_listener, reason)
    end
  end

  for name <- [
        :grpc_listener_ready_timeout_ms,
        :grpc_listener_port_check_interval_ms,
        :grpc_listener_reuse_attempts,
        :grpc_listener_reuse_wait_timeout_ms,
        :grpc_listener_reuse_retry_delay_ms
      ] do
    @doc "See `Snakepit.Defaults.#{name}/0`."
    @spec unquote(name)() :: non_neg_integer
    def unquote(name)(), do: Defaults.unquote(name)()
  end

  # ---- the instance -------------------------------------------------------

  @doc "The name of this installation, of `:instance_name` or `SNAKEPIT_INSTANCE_NAME`."
  @spec instance_name() :: String.t() | nil
  def instance_name, do: instance(:instance_name, "SNAKEPIT_INSTANCE_NAME")

  @doc "What tells this VM from others of the same name, of `:instance_token` or `SNAKEPIT_INSTANCE_TOKEN`."
  @spec instance_token() :: String.t() | nil
  def instance_token, do: instance(:instance_token, "SNAKEPIT_INSTANCE_TOKEN")

  @doc "The instance's name as it can stand on a command line."
  @spec instance_name_identifier() :: String.t() | nil
  def instance_name_identifier, do: identifier(instance_name())

  @doc "The instance's token as it can stand on a command line."
  @spec instance_token_identifier() :: String.t() | nil
  def instance_token_identifier, do: identifier(instance_token())

  @doc """
  Where state that outlives the VM is kept: `:data_dir`, `SNAKEPIT_DATA_DIR`, else
  `data` in the application's folder. (Not in `priv`, which a build links to the
  sources.)
  """
  @spec data_dir() :: String.t()
  def data_dir do
    case set(Application.get_env(:snakepit, :data_dir)) ||
           set(System.get_env("SNAKEPIT_DATA_DIR")) do
      nil -> Application.app_dir(:snakepit, "data")
      dir -> Path.expand(dir)
    end
  end

  defp instance(key, variable) do
    set(Application.get_env(:snakepit, key)) || set(System.get_env(variable))
  end

  defp set(nil), do: nil

  defp set(value) do
    text = value |> to_string() |> String.trim()
    if text in ["", "nil", "null", "none"], do: nil, else: text
  end

  defp identifier(nil), do: nil
  defp identifier(name), do: String.replace(name, ~r/[^a-zA-Z0-9_-]/, "_")

  # ---- small parts --------------------------------------------------------

  defp plain_map(nil), do: %{}
  defp plain_map(map) when is_map(map), do: map
  defp plain_map(list), do: if(Keyword.keyword?(list), do: Map.new(list), else: %{})

  defp rename(map, from, to) do
    case Map.pop(map, from) do
      {nil, map} -> map
      {value, map} -> Map.put_new(map, to, value)
    end
  end

  defp drop_nil(map), do: map |> Enum.reject(fn {_key, value} -> value == nil end) |> Map.new()

  defp known_atom(value, atoms) when is_binary(value),
    do: Enum.find(atoms, value, &(Atom.to_string(&1) == value))

  defp known_atom(value, _atoms), do: value

  # A bare name means an empty value.
  defp env_list(env) when is_map(env), do: env |> Map.to_list() |> env_list()

  defp env_list(env) when is_list(env) do
    Enum.map(env, fn
      {name, value} when is_atom(name) -> {Atom.to_string(name), env_value(value)}
      {name, value} -> {name, env_value(value)}
      name when is_binary(name) -> {name, ""}
      other -> other
    end)
  end

  defp env_list(other), do: other

  defp env_value(value) when is_integer(value) or is_boolean(value), do: to_string(value)
  defp env_value(value), do: value

  # What the settings and the monitor call by different names is one thing.
  @heartbeat_keys %{
    "heartbeat_ping_interval_ms" => :ping_interval_ms,
    "interval_ms" => :ping_interval_ms,
    "heartbeat_timeout_ms" => :timeout_ms,
    "heartbeat_max_missed" => :max_missed_heartbeats,
    "max_missed" => :max_missed_heartbeats,
    "heartbeat_initial_delay_ms" => :initial_delay_ms,
    "ping_interval_ms" => :ping_interval_ms,
    "timeout_ms" => :timeout_ms,
    "max_missed_heartbeats" => :max_missed_heartbeats,
    "initial_delay_ms" => :initial_delay_ms,
    "enabled" => :enabled,
    "dependent" => :dependent
  }

  @heartbeat_names Enum.map(Map.keys(@heartbeat_keys), &String.to_atom/1)

  @doc false
  @spec heartbeat_keys() :: [atom]
  def heartbeat_keys, do: @heartbeat_names

  defp heartbeat(config) do
    Map.new(plain_map(config), fn {key, value} ->
      {Map.get(@heartbeat_keys, to_string(key), key), value}
    end)
  end
end
