defmodule Snakepit.Config.Keys do
  @moduledoc false
  # The keys that there are, and the values that single ones may have.

  alias Snakepit.Config.{Explain, Nested, Values}
  alias Snakepit.{Config, Defaults, Logger}
  alias Snakepit.Telemetry.Naming
  alias Snakepit.ZeroCopy

  # Beside those of Snakepit.Defaults.
  @global [
    :adapter_args,
    :adapter_env,
    :adapter_module,
    :affinity,
    :auto_install_python_deps,
    :bootstrap_project_root,
    :cgroup,
    :cleanup_on_stop,
    :containment,
    :crash_barrier,
    :data_dir,
    :default_affinity_mode,
    :default_pool_size,
    :enable_otlp?,
    :env_doctor_module,
    :environment,
    :grpc_config,
    :grpc_host,
    :grpc_listener,
    :grpc_log_level,
    :heartbeat,
    :instance_name,
    :library_mode,
    :log_categories,
    :log_level,
    :log_python_output,
    :opentelemetry,
    :pool_config,
    :pool_size,
    :pooling_enabled,
    :pools,
    :prefork,
    :process_group_kill,
    :python,
    :python_adapter,
    :python_calls,
    :python_executable,
    :python_packages,
    :python_thread_limits,
    :require_python_313?,
    :rogue_cleanup,
    :session_config,
    :session_store,
    :telemetry_events,
    :telemetry_metrics,
    :timeout_profile,
    :transport,
    :worker_profile,
    :zero_copy
  ]

  # What Mix and OTP put there themselves.
  @others [:included_applications]

  @pool [
    :adapter_args,
    :adapter_env,
    :adapter_module,
    :adapter_spec,
    :affinity,
    :cancel_grace_ms,
    :capacity_strategy,
    :cgroup,
    :concurrency,
    :containment,
    :cpu_affinity,
    :crash_barrier,
    :env,
    :group,
    :heartbeat,
    :idle_timeout,
    :limits,
    :max_queue_size,
    :max_size,
    :max_workers,
    :memory_threshold_mb,
    :min_size,
    :name,
    :nice,
    :pool_identifier,
    :pool_size,
    :prefork,
    :python_calls,
    :startup_batch_delay_ms,
    :startup_batch_size,
    :thread_safety_checks,
    :threads_per_worker,
    :transport,
    :umask,
    :user,
    :worker_max_requests,
    :worker_profile,
    :worker_ttl
  ]

  @spec global() :: [atom]
  def global, do: Enum.uniq(@global ++ Map.keys(Defaults.keys()) ++ Defaults.older_keys())

  @doc "A line for each key of the configuration that means nothing."
  @spec unknown() :: [String.t()]
  def unknown do
    known = global()

    lines =
      for {key, _value} <- Application.get_all_env(:snakepit),
          key not in known and key not in @others and not module?(key),
          do: line("config :snakepit", key, known)

    own = Application.get_env(:snakepit, :zero_copy)
    in_pools = Enum.uniq(@pool ++ Map.keys(Config.normalize_pool_config(%{})))

    lines ++
      Nested.unknown(in_pools) ++
      ZeroCopy.Config.unknown(own, "config :snakepit") ++ unknown_in_pools(in_pools)
  end

  defp unknown_in_pools(known) do
    pools = Application.get_env(:snakepit, :pools)

    for pool <- if(is_list(pools), do: pools, else: []),
        is_map(pool) or Keyword.keyword?(pool),
        not own_profile?(pool[:worker_profile]),
        text <- unknown_in(pool, known),
        do: text
  end

  defp unknown_in(pool, known) do
    where = "pool #{inspect(pool[:name])}"
    lines = for {key, _value} <- pool, key not in known, do: line(where, key, known)
    lines ++ Nested.unknown_in(pool, where) ++ ZeroCopy.Config.unknown(pool[:zero_copy], where)
  end

  # A profile of the user's gets the whole pool, and may have keys of its own.
  defp own_profile?(profile),
    do: is_atom(profile) and profile not in [nil, :process, :thread] and module?(profile)

  defp line(where, key, known),
    do: "#{where}: #{inspect(key)} is not known and has no effect.#{Explain.hint(key, known)}"

  # `config :snakepit, MyApp.Something, ...` is somebody's own.
  defp module?(key), do: key |> Atom.to_string() |> String.starts_with?("Elixir.")

  @doc "Warns of all of them."
  @spec warn() :: :ok
  def warn, do: Enum.each(unknown(), &Logger.warning(:startup, &1))

  @doc "The first key whose value is none that it may have."
  @spec check() :: :ok | {:error, {:invalid_value, atom, term, String.t()}}
  def check do
    wrong =
      Enum.find_value(Enum.sort(Defaults.keys()), fn {key, default} ->
        value = Application.get_env(:snakepit, key)
        text = value != nil and wrong(key, default, value)
        if text, do: {:invalid_value, key, value, text}
      end)

    wrong = wrong || wrong_value(Values.wrong())
    wrong = wrong || wrong_events(Application.get_env(:snakepit, :telemetry_events))
    wrong = wrong || wrong_zero_copy(Application.get_env(:snakepit, :zero_copy))
    if wrong, do: {:error, wrong}, else: :ok
  end

  @events "it is a list of event names ([:my_app, :model, :loaded]), alone or in a pair with " <>
            "[measurements: [...], metadata: [...]]"

  defp wrong_events(value) do
    if value != nil and not Naming.valid_config?(value),
      do: {:invalid_value, :telemetry_events, value, @events}
  end

  defp wrong_value(nil), do: nil
  defp wrong_value({key, value, text}), do: {:invalid_value, key, value, text}

  defp wrong_zero_copy(given) do
    with {_key, value, text} <- ZeroCopy.Config.problem(given, :node),
         do: {:invalid_value, :zero_copy, value, text}
  end

  @choices %{
    default_capacity_strategy: [:pool, :profile, :hybrid],
    default_affinity_mode: [:hint, :strict_queue, :strict_fail_fast]
  }

  # Whole numbers that must not be 0.
  @positive [
    :default_pool_size,
    :grpc_num_acceptors,
    :grpc_socket_backlog,
    :pool_max_workers,
    :pool_startup_batch_size,
    :config_default_batch_size,
    :config_default_threads_per_worker,
    :heartbeat_ping_interval_ms,
    :heartbeat_timeout_ms,
    :heartbeat_max_missed,
    :lifecycle_check_interval,
    :lifecycle_health_check_interval,
    :session_cleanup_interval,
    :worker_starter_max_seconds,
    :worker_supervisor_max_seconds
  ]

  defp wrong(key, _default, value) when is_map_key(@choices, key) do
    allowed = Map.fetch!(@choices, key)
    if value not in allowed, do: "it is one of #{inspect(allowed)}"
  end

  defp wrong(key, _default, value) when key in @positive do
    if not (is_integer(value) and value > 0), do: "it is a positive integer"
  end

  defp wrong(:grpc_max_connections, _default, value) do
    if not (value == :infinity or (is_integer(value) and value > 0)),
      do: "it is a positive integer or :infinity"
  end

  # The time-outs that follow a profile.
  defp wrong(_key, :derived, value) do
    if not (value == :infinity or (is_integer(value) and value >= 0)),
      do: "it is a number of milliseconds or :infinity"
  end

  defp wrong(key, default, value) when is_integer(default) do
    cond do
      is_integer(value) and value >= 0 -> nil
      key not in Defaults.boundless() -> "it is an integer of at least 0"
      value != :infinity -> "it is an integer of at least 0 or :infinity"
      true -> nil
    end
  end

  defp wrong(_key, default, value) when is_float(default) do
    if not (is_number(value) and value >= 0), do: "it is a number of at least 0"
  end

  defp wrong(_key, default, value) when is_list(default) do
    valid? = is_list(value) and value != [] and Enum.all?(value, &(is_integer(&1) and &1 >= 0))

    if not valid?, do: "it is a list of integers of at least 0"
  end

  defp wrong(_key, default, value) when is_binary(default) do
    if not is_binary(value), do: "it is a text"
  end

  defp wrong(_key, _default, _value), do: nil
end
