defmodule Snakepit.ConfigKeysTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.AppEnv

  alias Snakepit.Config
  alias Snakepit.Config.{Explain, Keys}

  setup do
    put_env(pools: nil, grpc_listener: nil)
  end

  describe "keys that are not known" do
    test "are told once each, with what was probably meant" do
      put_env(pool_sise: 3, timout_profile: :batch, quite_something_else: 1)

      assert Enum.sort(Keys.unknown()) == [
               "config :snakepit: :pool_sise is not known and has no effect. " <>
                 "Did you mean :pool_size?",
               "config :snakepit: :quite_something_else is not known and has no effect.",
               "config :snakepit: :timout_profile is not known and has no effect. " <>
                 "Did you mean :timeout_profile?"
             ]
    end

    test "are told in pools too, with the pool's name" do
      put_env(pools: [%{name: :a, pool_sise: 3}, [name: :b, worker_tll: :infinity]])
      assert [first, second] = Keys.unknown()
      assert first =~ "pool :a: :pool_sise" and first =~ ":pool_size?"
      assert second =~ "pool :b: :worker_tll" and second =~ ":worker_ttl?"
    end

    test "may be a module's, or a pool's with a profile of its own" do
      put_env([{MyApp.Something, 1}, pools: [%{name: :a, worker_profile: MyApp.Profile, gpu: 1}]])
      assert Keys.unknown() == []
    end

    test "are none of those that are documented" do
      settings = for key <- Keys.global(), do: {key, 1}
      pool = Map.put(Config.normalize_pool_config(%{name: :a}), :env, [])
      put_env(Keyword.merge(settings, pools: [pool]))
      assert Keys.unknown() == []
    end

    test "are told in settings too, as map and as keyword list, of a pool with its name" do
      for {setting, key, meant} <- [
            {:heartbeat, :ping_intervall_ms, :ping_interval_ms},
            {:crash_barrier, :enabledd, :enabled},
            {:crash_barrier, :taint_mss, :taint_ms},
            {:grpc_listener, :bindhost, :bind_host},
            {:pool_config, :pool_sise, :pool_size},
            {:session_config, :cleanup_intervall, :cleanup_interval},
            {:session_store, :max_session, :max_sessions},
            {:grpc_config, :base_prot, :base_port},
            {:python_thread_limits, :opnblas, :openblas},
            {:log_categories, :startupp, :startup}
          ],
          value <- [[{key, 1}], %{key => 1}] do
        put_env([{setting, value}])

        assert Keys.unknown() == [
                 "config :snakepit: #{setting}: #{inspect(key)} is not known and has no effect. " <>
                   "Did you mean #{inspect(meant)}?"
               ]

        put_env([{setting, nil}])
      end

      put_env(
        pools: [
          %{name: :a, heartbeat: [timeout: 1]},
          [name: :b, crash_barrier: %{"retri" => true}]
        ]
      )

      assert [first, second] = Keys.unknown()
      assert first =~ "pool :a: heartbeat: :timeout is not known"
      assert second =~ ~s(pool :b: crash_barrier: "retri" is not known) and second =~ ":retry?"
    end

    test "are none of those that settings have" do
      put_env(
        heartbeat: %{"max_missed" => 1, enabled: true, heartbeat_timeout_ms: 5},
        crash_barrier: [enabled: true, taint_ms: 1, max_retries: 1, retry_idempotent: true],
        grpc_listener: %{"mode" => "internal"},
        pool_config: %{pool_size: 1, startup_timeout: 1, worker_ttl: {1, :hours}, max_workers: 2},
        session_config: [ttl: 1, cleanup_interval: 1],
        grpc_config: %{base_port: 1, port_range: 1, connect_timeout: 1, request_timeout: 1},
        session_store: %{adapter: MyApp.Sessions, table: "of its own"},
        log_categories: [:pool, grpc: true]
      )

      assert Keys.unknown() == []
      put_env(session_store: MyApp.Sessions, log_categories: %{pool: true}, crash_barrier: true)
      assert Keys.unknown() == []
      # As a text it is no category.
      put_env(log_categories: ["pool"])
      assert [line] = Keys.unknown()
      assert line =~ ~s("pool") and line =~ "Did you mean :pool?"
    end

    test "in a configuration of another form are left to the check" do
      for pools <- [:a, [1], [name: :a], %{}] do
        put_env(pools: pools)
        assert Keys.unknown() == []
      end
    end

    test "are warned of" do
      put_env(pool_sise: 3, log_level: :warning)
      assert capture_log(&Keys.warn/0) =~ ":pool_sise"
      put_env(log_level: :error)
      refute capture_log(&Keys.warn/0) =~ ":pool_sise"
    end
  end

  describe "values" do
    test "that make no sense are refused" do
      for {key, value} <- [
            pool_max_workers: 0,
            pool_max_workers: "150",
            pool_max_queue_size: -1,
            heartbeat_timeout_ms: 0,
            retry_backoff_sequence: [],
            retry_backoff_sequence: [1, :x],
            retry_jitter_factor: "0.5",
            grpc_internal_host: {127, 0, 0, 1},
            default_timeout: "1000",
            queue_timeout: -1,
            default_capacity_strategy: :most,
            grpc_max_connections: 0,
            grpc_max_connections: "many",
            grpc_num_acceptors: 0,
            grpc_num_acceptors: :infinity,
            grpc_socket_backlog: 0,
            pool_max_queue_size: :infinity,
            lifecycle_check_interval: :infinity,
            graceful_shutdown_timeout_ms: :infinity,
            worker_starter_max_seconds: 0,
            executor_batch_timeout: -1,
            pooling_enabled: "true",
            cleanup_on_stop: :no,
            log_python_output: 1,
            log_level: :debg,
            log_level: "debug",
            log_categories: :pool,
            data_dir: 1,
            grpc_host: :localhost,
            heartbeat: 5,
            heartbeat: [1],
            pool_config: "x",
            session_store: 5,
            session_store: [max_sessions: "5"],
            session_store: %{strict_mode: 1},
            session_store: [cleanup_interval: 0],
            worker_shutdown_grace_period: -1,
            health_check_interval: "1"
          ] do
        put_env([{key, value}])
        assert {:error, {:invalid_value, ^key, ^value, _} = reason} = Keys.check()
        text = Explain.text(key, reason)
        assert text =~ inspect(key) and text =~ inspect(value)
        put_env([{key, nil}])
      end

      put_env(session_config: %{ttl: "1"})
      assert {:error, {:invalid_value, :session_config, "1", text}} = Keys.check()
      assert text =~ ":ttl in :session_config"
      put_env(session_config: nil)
      assert Keys.check() == :ok
    end

    test "that are allowed are not" do
      put_env(
        session_max_sessions: :infinity,
        grpc_max_connections: :infinity,
        grpc_num_acceptors: 1,
        default_timeout: :infinity,
        retry_backoff_multiplier: 2,
        pool_reconcile_interval_ms: 0,
        instance_token: "t",
        retry_backoff_sequence: [0],
        executor_batch_timeout: :infinity,
        pool_await_ready_timeout: :infinity,
        grpc_port: 0,
        log_level: :notice,
        log_categories: %{pool: true},
        data_dir: ~c"/tmp",
        pooling_enabled: false,
        session_store: [max_sessions: :infinity, default_ttl: 0, warning_threshold: 0.5],
        session_config: [ttl: 0]
      )

      assert Keys.check() == :ok
    end

    test "that are built in are allowed" do
      put_env(for {key, value} <- Snakepit.Defaults.keys(), value != :derived, do: {key, value})
      assert Keys.check() == :ok
    end
  end

  describe "an explanation" do
    test "names key, value, what is allowed and what was meant" do
      pools = fn pools ->
        put_env(pools: pools)
        {:error, reason} = Config.get_pool_configs()
        Explain.text(:pools, {:invalid_pool_config, reason})
      end

      assert pools.([%{name: :a, affinity: :strict_que}]) ==
               "config :snakepit, :pools is wrong: :affinity is one of :hint, :strict_queue, " <>
                 ":strict_fail_fast, not :strict_que. Did you mean :strict_queue?"

      put_env(log_level: :debg)
      {:error, {:invalid_value, :log_level, _, _} = reason} = Keys.check()

      assert Explain.text(:log_level, reason) ==
               "config :snakepit, :log_level is wrong: it is one of [:debug, :info, :warning, " <>
                 ":error, :none], not :debg. Did you mean :debug?"

      assert pools.([%{name: :a, crash_barrier: [retry: :x]}]) ==
               "config :snakepit, :pools is wrong: retry is :idempotent, :always or :never, " <>
                 "but :retry is :x."

      assert pools.([%{name: :a, worker_profile: :tread}]) =~ "Did you mean :thread?"
      assert pools.([%{name: :a, capacity_strategy: :hibrid}]) =~ "Did you mean :hybrid?"
      assert pools.([%{name: :a, pool_size: 0}]) =~ "positive number of workers, not 0"
      assert pools.([%{name: :a, startup_batch_size: 0}]) =~ ":startup_batch_size is 0"
      assert pools.([%{name: :a, heartbeat: %{timeout_ms: 0}}]) =~ ":timeout_ms is 0"
      assert pools.([%{name: :a, heartbeat: 5}]) =~ "a keyword list, but :heartbeat is 5"
      assert pools.([%{name: :a, heartbeat: [5]}]) =~ ":heartbeat is [5]"
      assert pools.([%{}]) =~ "a pool needs :name"
      assert pools.([%{name: :a}, %{name: :a}]) =~ "two pools have the name :a"
      assert pools.([1]) =~ "a pool is a map or a keyword list"

      two = pools.([%{name: :a, pool_size: 0}, %{name: :b, worker_ttl: 5}])
      assert two =~ "of 2 pools" and two =~ "pool_size" and two =~ "worker_ttl"
    end

    test "of a listener says what is missing" do
      for {config, word} <- [
            {%{mode: :external, port: 1}, ":host"},
            {%{mode: :external, host: "h"}, ":port"},
            {%{mode: :external_pool, host: "h"}, ":base_port"},
            {%{mode: :external_pool, host: "h", base_port: 65_535, pool_size: 2}, ":pool_size"},
            {%{mode: :x}, ":external_pool"},
            {:x, "keyword list"}
          ] do
        put_env(grpc_listener: config)
        assert_raise ArgumentError, ~r/#{word}/, &Config.grpc_listener_config!/0
      end
    end

    test "does not guess wildly" do
      assert Explain.nearest(:xyz, [:pool_size, :affinity]) == nil
      assert Explain.nearest("pool_sice", [:pool_size, :affinity]) == :pool_size
      assert Explain.nearest(:a, []) == nil
      for odd <- [nil, 1, {:a}, []], do: assert(Explain.hint(odd, [:a]) == "")
    end
  end

  test "the application does not start with nonsense, and says why" do
    start = fn settings ->
      ExUnit.CaptureLog.with_log(fn ->
        Snakepit.Test.Pools.start_app(settings)
      end)
    end

    assert {{:error, {:snakepit, reason}}, log} = start.(pool_max_queue_size: :many)
    assert inspect(reason) =~ ":invalid_value"

    assert log =~
             "config :snakepit, :pool_max_queue_size is wrong: it is an integer of at least 0"

    assert {{:error, _}, log} = start.(timeout_profile: :balance)
    assert log =~ "Did you mean :balanced?"

    settings = [pooling_enabled: true, pools: [%{name: :a, affinity: :hnt}]]
    assert {{:error, _}, log} = start.(settings)
    assert log =~ "Did you mean :hint?"
  end

  describe "normalization" do
    test "of whatever a pool may be is the same twice" do
      :rand.seed(:exsss, {4, 5, 6})

      for _ <- 1..500 do
        config = random_pool()
        once = Config.normalize_pool_config(config)
        assert Config.normalize_pool_config(once) == once, inspect(config)
        assert Config.normalize_pool_config(Map.to_list(config)) == once

        # So are the verdict and what it leaves.
        case Config.validate_pool_config(config) do
          {:ok, valid} -> assert Config.validate_pool_config(valid) == {:ok, valid}
          {:error, reason} -> assert Config.validate_pool_config(once) == {:error, reason}
        end
      end
    end
  end

  @choices %{
    pool_size: [1, 3, 0, nil, "2"],
    worker_profile: [:process, :thread, "thread", :fast],
    affinity: [:hint, "strict_queue", :x],
    adapter_args: [[], ["--adapter", "a.B"], "x"],
    adapter_env: [[], %{"A" => "1"}, [A: 1], ["A"], 5],
    env: [[], %{"B" => "2"}],
    capacity_strategy: [:pool, :hybrid, :x],
    worker_ttl: [:infinity, {5, :minutes}, {1, :days}],
    worker_max_requests: [:infinity, 5, 0],
    memory_threshold_mb: [nil, 10, 0],
    startup_batch_size: [1, 4, nil],
    startup_batch_delay_ms: [0, 5],
    threads_per_worker: [1, 8],
    concurrency: [1, 100, nil, 0],
    min_size: [1, 2, nil],
    max_size: [2, 9, nil],
    idle_timeout: [:infinity, 100, nil],
    heartbeat: [nil, %{"interval_ms" => 5}, [max_missed: 2], %{enabled: false}],
    my_own: [1, nil]
  }

  defp random_pool do
    for {key, values} <- @choices, :rand.uniform(2) == 1, into: %{name: :a} do
      {key, Enum.random(values)}
    end
  end
end
