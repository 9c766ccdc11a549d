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
            grpc_socket_backlog: 0
          ] do
        put_env([{key, value}])
        assert {:error, {:invalid_value, ^key, ^value, _} = reason} = Keys.check()
        text = Explain.text(key, reason)
        assert text =~ inspect(key) and text =~ inspect(value)
        put_env([{key, nil}])
      end

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
        retry_backoff_sequence: [0]
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

      assert pools.([%{name: :a, worker_profile: :tread}]) =~ "Did you mean :thread?"
      assert pools.([%{name: :a, capacity_strategy: :hibrid}]) =~ "Did you mean :hybrid?"
      assert pools.([%{name: :a, pool_size: 0}]) =~ "positive number of workers, not 0"
      assert pools.([%{name: :a, startup_batch_size: 0}]) =~ ":startup_batch_size is 0"
      assert pools.([%{name: :a, heartbeat: %{timeout_ms: 0}}]) =~ ":timeout_ms is 0"
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
