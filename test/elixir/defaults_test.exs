defmodule Snakepit.DefaultsTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv

  alias Snakepit.Defaults

  doctest Defaults

  @derived [
    :default_timeout,
    :stream_timeout,
    :queue_timeout,
    :pool_request_timeout,
    :default_command_timeout,
    :grpc_command_timeout,
    :grpc_worker_execute_timeout,
    :grpc_client_execute_timeout,
    :pool_streaming_timeout,
    :grpc_worker_stream_timeout,
    :pool_queue_timeout,
    :checkout_timeout
  ]

  @balanced [
    300_000,
    900_000,
    10_000,
    300_000,
    298_800,
    298_800,
    298_800,
    298_800,
    900_000,
    900_000,
    10_000,
    10_000
  ]
  @patient [
    900_000,
    3_600_000,
    60_000,
    900_000,
    898_800,
    898_800,
    898_800,
    898_800,
    3_600_000,
    3_600_000,
    60_000,
    60_000
  ]
  @profiles %{
    balanced: @balanced,
    production: @balanced,
    production_strict: [
      60_000,
      300_000,
      5_000,
      60_000,
      58_800,
      58_800,
      58_800,
      58_800,
      300_000,
      300_000,
      5_000,
      5_000
    ],
    development: @patient,
    ml_inference: @patient,
    batch: [
      3_600_000,
      :infinity,
      300_000,
      3_600_000,
      3_598_800,
      3_598_800,
      3_598_800,
      3_598_800,
      :infinity,
      :infinity,
      300_000,
      300_000
    ]
  }

  # Key, function, built-in value.
  @table [
    {:affinity_cache_ttl_seconds, :affinity_cache_ttl_seconds, 60},
    {:circuit_breaker_failure_threshold, :circuit_breaker_failure_threshold, 5},
    {:circuit_breaker_half_open_max_calls, :circuit_breaker_half_open_max_calls, 1},
    {:circuit_breaker_reset_timeout_ms, :circuit_breaker_reset_timeout_ms, 30_000},
    {:cleanup_on_stop_timeout_ms, :cleanup_on_stop_timeout_ms, 3_000},
    {:cleanup_poll_interval_ms, :cleanup_poll_interval_ms, 50},
    {:config_default_batch_delay, :config_default_batch_delay, 750},
    {:config_default_batch_size, :config_default_batch_size, 8},
    {:config_default_threads_per_worker, :config_default_threads_per_worker, 10},
    {:crash_barrier_backoff_ms, :crash_barrier_backoff_ms, [50, 100, 200]},
    {:crash_barrier_checkout_timeout, :crash_barrier_checkout_timeout, 5_000},
    {:crash_barrier_max_restarts, :crash_barrier_max_restarts, 1},
    {:crash_barrier_taint_duration_ms, :crash_barrier_taint_duration_ms, 60_000},
    {:affinity, :default_affinity_mode, :hint},
    {:default_capacity_strategy, :default_capacity_strategy, :pool},
    {:default_worker_profile, :default_worker_profile, :process},
    {:executor_batch_timeout, :executor_batch_timeout, 30_000},
    {:graceful_shutdown_timeout_ms, :graceful_shutdown_timeout_ms, 6_000},
    {:grpc_batch_inference_timeout, :grpc_batch_inference_timeout, 300_000},
    {:grpc_internal_host, :grpc_internal_host, "127.0.0.1"},
    {:grpc_large_dataset_timeout, :grpc_large_dataset_timeout, 600_000},
    {:grpc_listener_port_check_interval_ms, :grpc_listener_port_check_interval_ms, 25},
    {:grpc_listener_ready_timeout_ms, :grpc_listener_ready_timeout_ms, 5_000},
    {:grpc_listener_reuse_attempts, :grpc_listener_reuse_attempts, 3},
    {:grpc_listener_reuse_retry_delay_ms, :grpc_listener_reuse_retry_delay_ms, 100},
    {:grpc_listener_reuse_wait_timeout_ms, :grpc_listener_reuse_wait_timeout_ms, 500},
    {:grpc_max_connections, :grpc_max_connections, 1000},
    {:grpc_num_acceptors, :grpc_num_acceptors, 20},
    {:grpc_port, :grpc_port, 50_051},
    {:grpc_port_pool_size, :grpc_port_pool_size, 32},
    {:grpc_server_ready_timeout, :grpc_server_ready_timeout, 30_000},
    {:grpc_socket_backlog, :grpc_socket_backlog, 512},
    {:grpc_worker_health_check_interval, :grpc_worker_health_check_interval, 30_000},
    {:health_monitor_check_interval, :health_monitor_check_interval, 30_000},
    {:health_monitor_crash_window_ms, :health_monitor_crash_window_ms, 60_000},
    {:health_monitor_max_crashes, :health_monitor_max_crashes, 10},
    {:heartbeat_initial_delay_ms, :heartbeat_initial_delay_ms, 0},
    {:heartbeat_max_missed, :heartbeat_max_missed, 3},
    {:heartbeat_ping_interval_ms, :heartbeat_ping_interval_ms, 2_000},
    {:heartbeat_timeout_ms, :heartbeat_timeout_ms, 10_000},
    {:instance_token, :instance_token, nil},
    {:lifecycle_check_interval, :lifecycle_check_interval, 60_000},
    {:lifecycle_health_check_interval, :lifecycle_health_check_interval, 300_000},
    {:pool_await_ready_timeout, :pool_await_ready_timeout, 15_000},
    {:pool_cancelled_retention_multiplier, :pool_cancelled_retention_multiplier, 4},
    {:pool_max_cancelled_entries, :pool_max_cancelled_entries, 1024},
    {:pool_max_queue_size, :pool_max_queue_size, 1000},
    {:pool_max_workers, :pool_max_workers, 150},
    {:pool_reconcile_batch_size, :pool_reconcile_batch_size, 2},
    {:pool_reconcile_interval_ms, :pool_reconcile_interval_ms, 1_000},
    {:pool_reply_margin_ms, :pool_reply_margin_ms, 200},
    {:pool_startup_batch_delay_ms, :pool_startup_batch_delay_ms, 500},
    {:pool_startup_batch_size, :pool_startup_batch_size, 10},
    {:pool_startup_timeout, :pool_startup_timeout, 10_000},
    {:process_registry_cleanup_interval, :process_registry_cleanup_interval, 30_000},
    {:process_registry_unregister_cleanup_attempts, :process_registry_unregister_cleanup_attempts,
     10},
    {:process_registry_unregister_cleanup_delay, :process_registry_unregister_cleanup_delay, 500},
    {:retry_backoff_multiplier, :retry_backoff_multiplier, 2.0},
    {:retry_backoff_sequence, :retry_backoff_sequence, [100, 200, 400, 800, 1600]},
    {:retry_base_backoff_ms, :retry_base_backoff_ms, 100},
    {:retry_jitter_factor, :retry_jitter_factor, 0.25},
    {:retry_max_attempts, :retry_max_attempts, 3},
    {:retry_max_backoff_ms, :retry_max_backoff_ms, 30_000},
    {:session_cleanup_interval, :session_cleanup_interval, 60_000},
    {:session_default_ttl, :session_default_ttl, 3600},
    {:session_max_sessions, :session_max_sessions, 10_000},
    {:session_warning_threshold, :session_warning_threshold, 0.8},
    {:shutdown_margin_ms, :shutdown_margin_ms, 2_000},
    {:timeout_profile, :timeout_profile, :balanced},
    {:worker_call_margin_ms, :worker_call_margin_ms, 1000},
    {:worker_ready_timeout, :worker_ready_timeout, 30_000},
    {:worker_starter_max_restarts, :worker_starter_max_restarts, 3},
    {:worker_starter_max_seconds, :worker_starter_max_seconds, 5},
    {:worker_supervisor_max_restarts, :worker_supervisor_max_restarts, 3},
    {:worker_supervisor_max_seconds, :worker_supervisor_max_seconds, 5},
    {:grpc_worker_health_check_timeout_ms, :grpc_worker_health_check_timeout_ms, 5_000}
  ]

  describe "every setting" do
    for {key, function, value} <- @table do
      test "#{function}" do
        put_env([{unquote(key), nil}])
        value = unquote(Macro.escape(value))
        assert apply(Defaults, unquote(function), []) === value

        # Anything, as long as it is another.
        put_env([{unquote(key), {:set, value}}])
        assert apply(Defaults, unquote(function), []) == {:set, value}
      end
    end

    test "that follows others can be set itself" do
      for key <- @derived do
        put_env([{key, 12_345}])
        assert apply(Defaults, key, []) == 12_345
        put_env([{key, nil}])
      end
    end

    test "of our own too" do
      for {key, value} <- Defaults.keys(), value != :derived do
        put_env([{key, nil}])
        assert apply(Defaults, key, []) === value
        put_env([{key, {:set, value}}])
        assert apply(Defaults, key, []) == {:set, value}
        put_env([{key, nil}])
      end
    end
  end

  test "keys that older versions had in maps count when the newer is not set" do
    for config <- [&Map.new/1, &Function.identity/1] do
      put_env(
        session_config: config.(ttl: 7, cleanup_interval: 8),
        pool_config: config.(startup_timeout: 9),
        grpc_config: config.(request_timeout: 10, base_port: 50_051, port_range: 100)
      )

      assert Defaults.session_default_ttl() == 7
      assert Defaults.session_cleanup_interval() == 8
      assert Defaults.pool_startup_timeout() == 9
      assert Defaults.grpc_command_timeout() == 10
      assert Defaults.grpc_client_execute_timeout() == 10
    end

    put_env(session_default_ttl: 1, session_config: [1])
    assert Defaults.session_default_ttl() == 1
    assert Defaults.session_cleanup_interval() == 60_000
  end

  test "flat keys of older versions count when the newer is not set" do
    for {older, function, value} <- [
          {:worker_init_timeout, :grpc_server_ready_timeout, 1},
          {:worker_init_timeout, :worker_ready_timeout, 2},
          {:worker_health_check_interval, :grpc_worker_health_check_interval, 3},
          {:worker_shutdown_grace_period, :graceful_shutdown_timeout_ms, 4},
          {:cleanup_retry_interval, :cleanup_poll_interval_ms, 5},
          {:cleanup_max_retries, :process_registry_unregister_cleanup_attempts, 6}
        ] do
      put_env([{older, value}])
      assert apply(Defaults, function, []) == value
      put_env([{function, 99}])
      assert apply(Defaults, function, []) == 99
      put_env([{older, nil}, {function, nil}])
    end
  end

  test "each profile gives all derived time-outs" do
    assert Map.keys(Defaults.timeout_profiles()) == Map.keys(@profiles)

    for {profile, expected} <- @profiles do
      put_env(timeout_profile: profile)
      assert Enum.map(@derived, &apply(Defaults, &1, [])) == expected, inspect(profile)
    end
  end

  test "an explicit key wins over the profile, and is what others derive from" do
    put_env(timeout_profile: :production_strict, pool_request_timeout: 1, stream_timeout: 7)
    assert Defaults.pool_request_timeout() == 1
    assert Defaults.default_timeout() == 60_000
    assert Defaults.pool_streaming_timeout() == 7
    assert Defaults.grpc_worker_stream_timeout() == 7
  end

  test "values are read when they are asked for" do
    assert Defaults.pool_max_queue_size() == 1000
    put_env(pool_max_queue_size: 3)
    assert Defaults.pool_max_queue_size() == 3
  end

  test "older names of a key count when the newer is not set" do
    put_env(circuit_breaker_reset_timeout: 5, health_check_interval: 6, affinity: :strict_queue)
    assert Defaults.circuit_breaker_reset_timeout_ms() == 5
    assert Defaults.grpc_worker_health_check_interval() == 6
    assert Defaults.default_affinity_mode() == :strict_queue

    put_env(circuit_breaker_reset_timeout_ms: 8)
    assert Defaults.circuit_breaker_reset_timeout_ms() == 8
  end

  test "rpc_timeout keeps infinity and never reaches zero" do
    assert Defaults.rpc_timeout(:infinity) == :infinity
    assert Defaults.rpc_timeout(1_200) == 1
    assert Defaults.rpc_timeout(0) == 1
    put_env(worker_call_margin_ms: 10, pool_reply_margin_ms: 5)
    assert Defaults.rpc_timeout(100) == 85
  end

  test "the number of workers follows the machine" do
    assert Defaults.default_pool_size() == System.schedulers_online() * 2
  end
end
