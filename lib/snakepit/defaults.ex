defmodule Snakepit.Defaults do
  @moduledoc """
  Every tunable default.

  Each function reads `config :snakepit, <name>: value` when it is called, and
  has a built-in value for when that is not set. Time-outs that are not set
  follow the `:timeout_profile`.

      iex> Snakepit.Defaults.rpc_timeout(60_000)
      58_800
  """

  @typedoc "A named set of time-outs, see `timeout_profiles/0`."
  @type profile ::
          :balanced | :production | :production_strict | :development | :ml_inference | :batch

  @type profile_values :: %{
          default_timeout: timeout,
          stream_timeout: timeout,
          queue_timeout: timeout
        }

  @balanced %{default_timeout: 300_000, stream_timeout: 900_000, queue_timeout: 10_000}
  @patient %{default_timeout: 900_000, stream_timeout: 3_600_000, queue_timeout: 60_000}

  @profiles %{
    balanced: @balanced,
    production: @balanced,
    production_strict: %{default_timeout: 60_000, stream_timeout: 300_000, queue_timeout: 5_000},
    development: @patient,
    ml_inference: @patient,
    batch: %{default_timeout: 3_600_000, stream_timeout: :infinity, queue_timeout: 300_000}
  }

  # {function, value, unit, what it is for}; older names of a key in @aliases.
  @values [
    {:affinity_cache_ttl_seconds, 60, "s", "how long an unused session keeps its worker"},
    {:cancel_grace_ms, 5_000, "ms", "`cancel_grace_ms` of a pool without one"},
    {:circuit_breaker_failure_threshold, 5, "", "failures that open a circuit breaker"},
    {:circuit_breaker_half_open_max_calls, 1, "", "trial calls of a half-open breaker"},
    {:circuit_breaker_reset_timeout_ms, 30_000, "ms", "how long a breaker stays open"},
    {:cleanup_on_stop_timeout_ms, 3_000, "ms",
     "bound of the clean-up when the application stops"},
    {:cleanup_poll_interval_ms, 50, "ms", "how often a clean-up looks again"},
    {:config_default_batch_delay, 750, "ms", "`startup_batch_delay_ms` of a pool without one"},
    {:config_default_batch_size, 8, "workers", "`startup_batch_size` of a pool without one"},
    {:config_default_threads_per_worker, 10, "threads", "`threads_per_worker` of a thread pool"},
    {:crash_barrier_backoff_ms, [50, 100, 200], "ms", "waits between tries after a crash"},
    {:crash_barrier_checkout_timeout, 5_000, "ms", "wait for another worker after a crash"},
    {:crash_barrier_max_restarts, 1, "", "tries after a crash"},
    {:crash_barrier_taint_duration_ms, 60_000, "ms", "how long a crashed worker is avoided"},
    {:default_capacity_strategy, :pool, "", "`capacity_strategy` of a pool without one"},
    {:default_worker_profile, :process, "", "`worker_profile` of a pool without one"},
    {:executor_batch_timeout, 30_000, "ms",
     "bound of each function of `Snakepit.Executor.execute_batch/2`"},
    {:graceful_shutdown_timeout_ms, 6_000, "ms", "from SIGTERM to SIGKILL"},
    {:grpc_batch_inference_timeout, 300_000, "ms", "bound of the command `batch_inference`"},
    {:grpc_internal_host, "127.0.0.1", "", "address of an internal listener"},
    {:grpc_large_dataset_timeout, 600_000, "ms", "bound of the command `process_large_dataset`"},
    {:grpc_listener_port_check_interval_ms, 25, "ms",
     "how often a listener's port is looked for"},
    {:grpc_listener_ready_timeout_ms, 5_000, "ms", "wait for the listener"},
    {:grpc_listener_reuse_attempts, 3, "", "tries to bind a port that is in use"},
    {:grpc_listener_reuse_retry_delay_ms, 100, "ms", "wait between those tries"},
    {:grpc_listener_reuse_wait_timeout_ms, 500, "ms", "wait for a former listener to go"},
    {:grpc_max_connections, 1000, "",
     "connections of a gRPC listener at a time; `:infinity` is allowed"},
    {:grpc_num_acceptors, 20, "", "threads that take its connections, at most one per scheduler"},
    {:grpc_port, 50_051, "", "port of a listener that is configured by `:grpc_port`"},
    {:grpc_port_pool_size, 32, "ports", "ports of a listener in mode `:external_pool`"},
    {:grpc_server_ready_timeout, 30_000, "ms", "time a worker process may take to start"},
    {:grpc_socket_backlog, 512, "", "connections that may wait to be taken"},
    {:grpc_worker_health_check_interval, 30_000, "ms",
     "how often a gRPC worker is pinged, whose failure to answer is only logged and told " <>
       "(`worker, health_check_failed`); 0: never"},
    {:grpc_worker_health_check_timeout_ms, 5_000, "ms", "bound of a worker's health check"},
    {:health_monitor_check_interval, 30_000, "ms", "period of `Snakepit.HealthMonitor`"},
    {:health_monitor_crash_window_ms, 60_000, "ms", "window in which crashes count"},
    {:health_monitor_max_crashes, 10, "", "crashes in it that make a pool unhealthy"},
    {:heartbeat_initial_delay_ms, 0, "ms", "wait before the first heartbeat"},
    {:heartbeat_max_missed, 3, "", "missed heartbeats that end a worker"},
    {:heartbeat_ping_interval_ms, 2_000, "ms", "period of heartbeats"},
    {:heartbeat_timeout_ms, 10_000, "ms", "wait for the answer to a heartbeat"},
    {:instance_token, nil, "", "see `Snakepit.Config.instance_token/0`"},
    {:lifecycle_check_interval, 60_000, "ms", "how often workers are looked at for recycling"},
    {:lifecycle_drain_timeout_ms, 300_000, "ms",
     "how long a worker that is replaced may finish what it runs"},
    {:lifecycle_health_check_interval, 300_000, "ms", "how often their health is checked then"},
    {:max_call_depth, 100, "calls", "calls that may wait for one another, back and forth"},
    {:pool_await_ready_timeout, 15_000, "ms", "default of `Snakepit.Pool.await_ready/2`"},
    {:pool_cancelled_retention_multiplier, 4, "",
     "of older configurations, without effect: a cancelled request is forgotten at once"},
    {:pool_idle_timeout_ms, 60_000, "ms", "`idle_timeout` of a pool without one"},
    {:pool_max_cancelled_entries, 1024, "",
     "of older configurations, without effect: none is remembered"},
    {:pool_max_queue_size, 1000, "requests", "requests that may wait in a pool"},
    {:pool_max_workers, 150, "workers", "workers of a pool at most"},
    {:pool_reconcile_batch_size, 2, "workers", "workers that one look may replace"},
    {:pool_reconcile_interval_ms, 1_000, "ms",
     "how often missing workers are looked for; 0: never"},
    {:pool_reply_margin_ms, 200, "ms", "subtracted by `rpc_timeout/1`"},
    {:pool_startup_batch_delay_ms, 500, "ms", "wait between batches of starting workers"},
    {:pool_startup_batch_size, 10, "workers", "workers in such a batch"},
    {:pool_status_interval_ms, 5_000, "ms", "how often `pool, status` is told; 0: never"},
    {:pool_startup_timeout, 10_000, "ms",
     "of older configurations, without effect: a start is bounded by `grpc_server_ready_timeout`"},
    {:process_registry_cleanup_interval, 30_000, "ms",
     "period in which dead entries are removed"},
    {:process_registry_unregister_cleanup_attempts, 10, "", "looks for the end of a process"},
    {:process_registry_unregister_cleanup_delay, 500, "ms", "wait between those looks"},
    {:retry_backoff_multiplier, 2.0, "", "growth of the wait between tries"},
    {:retry_backoff_sequence, [100, 200, 400, 800, 1600], "ms", "waits between tries"},
    {:retry_base_backoff_ms, 100, "ms", "first wait between tries"},
    {:retry_jitter_factor, 0.25, "", "random part of a wait"},
    {:retry_max_attempts, 3, "", "tries"},
    {:retry_max_backoff_ms, 30_000, "ms", "longest wait between tries"},
    {:session_cleanup_interval, 60_000, "ms", "how often expired sessions are removed"},
    {:session_default_ttl, 3600, "s", "life of an unused session"},
    {:session_max_sessions, 10_000, "sessions", "sessions at most; `:infinity` is allowed"},
    {:session_warning_threshold, 0.8, "", "part of that from which a warning is given"},
    {:shutdown_margin_ms, 2_000, "ms",
     "added to `graceful_shutdown_timeout_ms/0` by supervisors"},
    {:worker_call_margin_ms, 1000, "ms", "subtracted by `rpc_timeout/1`"},
    {:worker_ready_timeout, 30_000, "ms",
     "of older configurations, without effect: a worker does not wait for its pool"},
    {:worker_starter_max_restarts, 3, "", "restarts of a worker by its starter"},
    {:worker_starter_max_seconds, 5, "s", "time in which they count"},
    {:worker_supervisor_max_restarts, 3, "", "restarts by `Snakepit.Pool.WorkerSupervisor`"},
    {:worker_supervisor_max_seconds, 5, "s", "time in which they count"}
  ]

  # {function, where an unset key takes its value from, what it is for}
  @derived [
    {:default_timeout, {:profile, :default_timeout}, "time of a call, waiting included"},
    {:stream_timeout, {:profile, :stream_timeout}, "time of a stream"},
    {:queue_timeout, {:profile, :queue_timeout}, "time a request may wait for a worker"},
    {:pool_request_timeout, :default_timeout, "time of `Snakepit.execute/3`"},
    {:pool_streaming_timeout, :stream_timeout, "time of `Snakepit.execute_stream/4`"},
    {:grpc_worker_stream_timeout, :stream_timeout, "time of a stream of one worker"},
    {:pool_queue_timeout, :queue_timeout, "time a request may wait in a pool"},
    {:checkout_timeout, :queue_timeout, "time a stream may wait for a worker"},
    {:default_command_timeout, {:rpc, :default_timeout}, "time of a command in a worker"},
    {:grpc_command_timeout, {:rpc, :default_timeout},
     "the same for `Snakepit.Adapters.GRPCPython`"},
    {:grpc_worker_execute_timeout, {:rpc, :default_timeout},
     "the same for `Snakepit.GRPCWorker`"},
    {:grpc_client_execute_timeout, :grpc_command_timeout, "the same for `Snakepit.GRPC.Client`"}
  ]

  @aliases %{
    circuit_breaker_reset_timeout_ms: [:circuit_breaker_reset_timeout],
    grpc_worker_health_check_interval: [:health_check_interval, :worker_health_check_interval],
    graceful_shutdown_timeout_ms: [:worker_shutdown_grace_period],
    grpc_server_ready_timeout: [:worker_init_timeout],
    worker_ready_timeout: [:worker_init_timeout],
    cleanup_poll_interval_ms: [:cleanup_retry_interval],
    process_registry_unregister_cleanup_attempts: [:cleanup_max_retries],
    session_default_ttl: [session_config: :ttl],
    session_cleanup_interval: [session_config: :cleanup_interval],
    pool_startup_timeout: [pool_config: :startup_timeout],
    grpc_command_timeout: [grpc_config: :request_timeout]
  }

  # Those that may be `:infinity`.
  @boundless [
    :crash_barrier_checkout_timeout,
    :executor_batch_timeout,
    :grpc_batch_inference_timeout,
    :grpc_large_dataset_timeout,
    :grpc_max_connections,
    :pool_await_ready_timeout,
    :pool_idle_timeout_ms,
    :pool_startup_timeout,
    :retry_max_backoff_ms,
    :session_max_sessions
  ]

  for {name, value, unit, text} <- @values do
    type =
      cond do
        is_integer(value) and name in @boundless -> quote(do: timeout)
        is_integer(value) -> quote(do: non_neg_integer)
        is_float(value) -> quote(do: float)
        is_list(value) -> quote(do: [non_neg_integer])
        is_binary(value) -> quote(do: String.t())
        is_nil(value) -> quote(do: String.t() | nil)
        is_atom(value) -> quote(do: atom)
      end

    shown = String.trim("#{inspect(value)} #{unit}")
    keys = [name | Map.get(@aliases, name, [])]

    @doc "#{String.capitalize(String.first(text))}#{String.slice(text, 1..-1//1)} (#{shown})."
    @spec unquote(name)() :: unquote(type)
    def unquote(name)(), do: setting(unquote(keys), unquote(Macro.escape(value)))
  end

  for {name, from, text} <- @derived do
    {value, shown} =
      case from do
        {:profile, key} ->
          {quote(do: Map.fetch!(profile_values(), unquote(key))), "from the profile"}

        {:rpc, other} ->
          {quote(do: rpc_timeout(unquote(other)())), "`rpc_timeout/1` of `#{other}/0`"}

        other ->
          {quote(do: unquote(other)()), "`#{other}/0`"}
      end

    @doc "#{String.capitalize(String.first(text))}#{String.slice(text, 1..-1//1)} (#{shown})."
    @spec unquote(name)() :: timeout
    def unquote(name)() do
      case setting(unquote([name | Map.get(@aliases, name, [])]), nil) do
        nil -> unquote(value)
        value -> value
      end
    end
  end

  @doc "How sessions choose a worker; the key is `:affinity` (`:hint`)."
  @spec default_affinity_mode() :: :hint | :strict_queue | :strict_fail_fast
  def default_affinity_mode, do: setting([:affinity, :default_affinity_mode], :hint)

  @doc "Workers of a pool that names no number (twice the schedulers)."
  @spec default_pool_size() :: pos_integer
  def default_pool_size, do: setting([:default_pool_size], System.schedulers_online() * 2)

  @doc "The profile in use (`:balanced`)."
  @spec timeout_profile() :: profile
  def timeout_profile, do: setting([:timeout_profile], :balanced)

  @doc "All profiles and their values, in milliseconds."
  @spec timeout_profiles() :: %{profile => profile_values}
  def timeout_profiles, do: @profiles

  @doc "What is left of `total` for the call to the worker: without the two margins, at least 1."
  @spec rpc_timeout(timeout) :: timeout
  def rpc_timeout(:infinity), do: :infinity

  def rpc_timeout(total) when is_integer(total) do
    max(total - worker_call_margin_ms() - pool_reply_margin_ms(), 1)
  end

  # Snakepit.Application refuses an unknown name when it starts.
  defp profile_values, do: Map.get(@profiles, timeout_profile(), @balanced)

  defp setting([key | others], default) do
    case configured(key) do
      nil when others == [] -> default
      nil -> setting(others, default)
      value -> value
    end
  end

  # Older versions had some keys in maps.
  defp configured({outer, key}) do
    case Application.get_env(:snakepit, outer) do
      %{} = map -> Map.get(map, key)
      list when is_list(list) -> if Keyword.keyword?(list), do: Keyword.get(list, key)
      _ -> nil
    end
  end

  defp configured(key), do: Application.get_env(:snakepit, key)

  @doc false
  # Each key with its built-in value; :derived: it follows others.
  @spec keys() :: %{atom => term}
  def keys do
    @values
    |> Map.new(fn {name, value, _unit, _text} -> {name, value} end)
    |> Map.merge(Map.new(@derived, fn {name, _from, _text} -> {name, :derived} end))
  end

  @doc false
  # The whole numbers that may be :infinity.
  @spec boundless() :: [atom]
  def boundless, do: @boundless

  @doc false
  # What stands under an older name: the key, that name, and the value.
  @spec older() :: [{atom, atom | {atom, atom}, term}]
  def older do
    for {key, others} <- Enum.sort(@aliases),
        other <- others,
        (value = configured(other)) != nil,
        do: {key, other, value}
  end

  @doc false
  # The older names of keys.
  @spec older_keys() :: [atom]
  def older_keys do
    for {_key, others} <- @aliases, other <- others do
      if is_tuple(other), do: elem(other, 0), else: other
    end
  end
end
