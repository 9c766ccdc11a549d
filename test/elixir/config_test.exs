defmodule Snakepit.ConfigTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv

  alias Snakepit.Config

  @documented [
    :name,
    :worker_profile,
    :pool_size,
    :adapter_module,
    :adapter_args,
    :adapter_env,
    :capacity_strategy,
    :affinity,
    :transport,
    :pool_identifier,
    :worker_ttl,
    :worker_max_requests,
    :memory_threshold_mb,
    :heartbeat,
    :startup_batch_size,
    :startup_batch_delay_ms,
    :threads_per_worker,
    :thread_safety_checks
  ]

  setup do
    put_env(pools: nil, pool_config: nil, pool_size: nil, adapter_module: nil, adapter_args: nil)
  end

  describe "one pool" do
    test "has every key" do
      pool = Config.normalize_pool_config(%{name: :test})
      assert @documented -- Map.keys(pool) == []
      assert pool.startup_batch_size == 8
      assert pool.startup_batch_delay_ms == 750
      assert pool.adapter_module == Snakepit.Adapters.GRPCPython
    end

    test "is the same when it is normalized twice" do
      for config <- [
            %{name: :a},
            %{name: :b, startup_batch_size: 3, adapter_env: %{"A" => "1"}},
            %{name: :c, heartbeat: %{"interval_ms" => 5}, affinity: "strict_queue"}
          ] do
        once = Config.normalize_pool_config(config)
        assert Config.normalize_pool_config(once) == once
      end
    end

    test "may be a keyword list" do
      assert {:ok, %{name: :a, pool_size: 3}} =
               Config.validate_pool_config(name: :a, pool_size: 3)
    end

    test "takes an environment as a map, a keyword list or pairs" do
      for env <- [%{"A" => "1"}, [A: "1"], [{"A", "1"}], [{"A", 1}]] do
        assert Config.normalize_pool_config(%{name: :a, adapter_env: env}).adapter_env ==
                 [{"A", "1"}]
      end

      assert Config.normalize_pool_config(%{name: :a, env: ["A"]}).adapter_env == [{"A", ""}]
    end

    test "is refused with what is wrong" do
      refused = fn config ->
        assert {:error, reason} = Config.validate_pool_config(Map.put_new(config, :name, :p))
        reason
      end

      assert {:invalid_profile, :fast, _} = refused.(%{worker_profile: :fast})
      assert {:invalid_pool_size, 0, _} = refused.(%{pool_size: 0})
      assert {:invalid_capacity_strategy, :x} = refused.(%{capacity_strategy: :x})
      assert {:invalid_affinity, :x} = refused.(%{affinity: :x})
      assert {:invalid_transport, :pigeon, text} = refused.(%{transport: :pigeon})
      assert text == "transport is one of [:auto, :local, :grpc]"
      assert {:invalid_worker_ttl, {1, :days}, _} = refused.(%{worker_ttl: {1, :days}})
      assert {:invalid_worker_max_requests, -1, _} = refused.(%{worker_max_requests: -1})
      assert {:invalid_adapter_args, "x", _} = refused.(%{adapter_args: "x"})
      assert {:invalid_adapter_env, [1], _} = refused.(%{adapter_env: [1]})
      assert {:invalid_adapter_module, No.Such, text} = refused.(%{adapter_module: No.Such})
      assert text =~ "No.Such"
      assert {:invalid_pool_name, "p", _} = refused.(%{name: "p"})

      assert {:invalid_pool_option, :concurrency, 0, "concurrency is an integer of" <> _} =
               refused.(%{concurrency: 0})

      assert {:invalid_pool_option, :startup_batch_size, 0, _} =
               refused.(%{startup_batch_size: 0})

      assert {:error, {:missing_required_fields, [:name]}} = Config.validate_pool_config(%{})
    end
  end

  describe "all pools" do
    test "are one named :default without a list, and the top-level size wins" do
      put_env(pool_size: 3, pool_config: %{pool_size: 9, adapter_args: ["--adapter", "a.B"]})

      assert {:ok, [%{name: :default, pool_size: 3, adapter_args: ["--adapter", "a.B"]}]} =
               Config.get_pool_configs()
    end

    test "know the older name of the Python adapter" do
      put_env(python_adapter: "mod:Class")
      assert {:ok, [%{adapter_args: ["--adapter", "mod:Class"]}]} = Config.get_pool_configs()
    end

    test "are found by name" do
      put_env(pools: [%{name: :a}, %{name: :b, pool_size: 7}])
      assert {:ok, %{pool_size: 7}} = Config.get_pool_config(:b)
      assert Config.get_pool_config(:c) == {:error, :pool_not_found}
    end

    test "are refused as a whole" do
      put_env(pools: [%{name: :a}, %{name: :a}])
      assert {:error, {:duplicate_pool_names, [:a]}} = Config.get_pool_configs()

      put_env(pools: [%{name: :a, pool_size: 0}, %{name: :b, affinity: :x}])

      assert {:error, {:validation_failed, [{:invalid_pool_size, 0, _}, {:invalid_affinity, :x}]}} =
               Config.get_pool_configs()

      for pools <- [[], %{a: 1}, :a, [name: :a]] do
        put_env(pools: pools)
        assert {:error, {:invalid_pools_config, ^pools}} = Config.get_pool_configs()
      end
    end
  end

  describe "the listener" do
    setup do
      put_env(grpc_listener: nil, grpc_port: nil, grpc_host: nil)
    end

    test "is internal by default" do
      assert Config.grpc_listener_config() ==
               {:ok,
                %{
                  mode: :internal,
                  host: "127.0.0.1",
                  bind_host: "127.0.0.1",
                  port: nil,
                  base_port: nil,
                  pool_size: nil
                }}
    end

    test "is external on a port that is set the older way" do
      put_env(grpc_port: 5005)
      assert {:ok, %{mode: :external, port: 5005}} = Config.grpc_listener_config()
      put_env(grpc_port: 0)
      assert {:ok, %{mode: :internal}} = Config.grpc_listener_config()
    end

    test "has its own key before the older ones" do
      put_env(
        grpc_listener: %{mode: :external, host: "new", port: 1},
        grpc_port: 2,
        grpc_host: "o"
      )

      assert {:ok, %{host: "new", port: 1}} = Config.grpc_listener_config()
      put_env(grpc_listener: %{}, grpc_port: 2, grpc_host: "old")
      assert {:ok, %{mode: :internal, host: "127.0.0.1"}} = Config.grpc_listener_config()
      put_env(grpc_listener: nil, grpc_port: 2, grpc_host: "old")
      assert {:ok, %{mode: :external, host: "old", port: 2}} = Config.grpc_listener_config()
    end

    test "takes each mode as map, keyword list and text" do
      put_env(grpc_listener: [mode: :external, host: "h", bind_host: "0.0.0.0", port: 1])

      assert {:ok, %{mode: :external, host: "h", bind_host: "0.0.0.0", port: 1}} =
               Config.grpc_listener_config()

      put_env(grpc_listener: %{"mode" => "external-pool", "host" => "h", "base_port" => 9})

      assert {:ok, %{mode: :external_pool, base_port: 9, pool_size: 32}} =
               Config.grpc_listener_config()
    end

    test "says what is missing" do
      for {config, why} <- [
            {%{mode: :external, port: 1}, :missing_host},
            {%{mode: :external, host: "h"}, :missing_port},
            {%{mode: :external_pool, host: "h"}, :missing_base_port},
            {%{mode: :external_pool, host: "h", base_port: 1, pool_size: -1}, :invalid_pool_size},
            {%{mode: :x}, :invalid_mode},
            {:x, :x}
          ] do
        put_env(grpc_listener: config)
        assert Config.grpc_listener_config() == {:error, {:invalid_grpc_listener_config, why}}
      end

      assert_raise ArgumentError, ~r/grpc_listener/, &Config.grpc_listener_config!/0
    end
  end

  describe "the instance" do
    test "has a name of the configuration, else of the environment" do
      put_env(instance_name: nil)
      put_system_env(%{"SNAKEPIT_INSTANCE_NAME" => "  prod west/1 "})
      assert Config.instance_name() == "prod west/1"
      assert Config.instance_name_identifier() == "prod_west_1"

      put_env(instance_name: "mine")
      assert Config.instance_name() == "mine"
    end

    test "counts empty words as not set" do
      put_system_env(%{"SNAKEPIT_INSTANCE_TOKEN" => nil})

      for nothing <- ["", " ", "nil", "null", "none"] do
        put_env(instance_token: nothing)
        assert Config.instance_token() == nil
        assert Config.instance_token_identifier() == nil
      end
    end

    test "keeps its data where it is told to" do
      put_env(data_dir: "some/dir")
      assert Config.data_dir() == Path.expand("some/dir")
    end
  end

  test "heartbeats merge by either spelling" do
    put_env(heartbeat: [timeout_ms: 7], heartbeat_ping_interval_ms: 11)
    assert %{timeout_ms: 7, ping_interval_ms: 11, enabled: true} = Config.heartbeat_defaults()

    pool = Config.normalize_pool_config(%{name: :a, heartbeat: %{"interval_ms" => 5}})
    assert %{ping_interval_ms: 5, timeout_ms: 7, dependent: true} = pool.heartbeat
  end
end
