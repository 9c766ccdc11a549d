defmodule Snakepit.ConfigPropertyTest do
  # The defaults are read from the application's environment.
  use ExUnit.Case, async: false

  alias Snakepit.Config

  # Values that a key may have, that it may not have, and older forms.
  @values %{
    adapter_args: [[], ["--adapter", "a.B"], nil, "no list"],
    adapter_env: [%{"A" => "1"}, [A: 1], [{"A", "1"}], ["A"], [], nil],
    adapter_module: [Snakepit.Adapters.GRPCPython, nil, NoSuchModule],
    affinity: [:hint, "strict_queue", :strict_fail_fast, "no such", nil],
    capacity_strategy: [:pool, :profile, :hybrid, nil],
    containment: [:auto, "none", :cgroup],
    cpu_affinity: [:none, "spread", :compact],
    env: [%{"B" => "2"}, [], nil],
    heartbeat: [%{"interval_ms" => 5}, %{timeout_ms: 1}, [enabled: false], %{}, nil],
    idle_timeout: [1, 60_000, nil],
    max_size: [1, 4, 100, nil],
    memory_threshold_mb: [nil, 100],
    min_size: [0, 1, 3, nil],
    pool_identifier: [nil, :x],
    pool_size: [1, 2, 8, 0, -1, "two", nil],
    prefork: [true, false, nil],
    startup_batch_delay_ms: [0, 10, nil],
    startup_batch_size: [1, 8, nil],
    thread_safety_checks: [true, false],
    threads_per_worker: [1, 16],
    transport: [:auto, "grpc", :local, nil],
    unknown_to_us: [1, nil],
    user: ["nobody", nil],
    worker_max_requests: [:infinity, 5, 0],
    worker_profile: [:process, "thread", :thread, nil],
    worker_ttl: [:infinity, {1, :hours}, 5],
    zero_copy: [[threshold: 1], %{"enabled" => true}, [max_bytes: -1], :yes, nil]
  }

  defp config do
    for {key, values} <- @values, :rand.uniform(3) == 1, into: %{name: :a} do
      {key, Enum.random(values)}
    end
  end

  setup do
    seed = System.unique_integer([:positive]) + System.os_time(:second)
    :rand.seed(:exsss, seed)
    {:ok, seed: seed}
  end

  test "normalizing twice is normalizing once, whatever the configuration", %{seed: seed} do
    for _ <- 1..2_000 do
      config = config()
      about = "seed #{seed}: #{inspect(config)}"
      once = Config.normalize_pool_config(config)
      assert Config.normalize_pool_config(once) == once, about
      assert Config.normalize_pool_config(Map.to_list(config)) == once, about
      assert Config.normalize_pool_config(Map.to_list(once)) == once, about
    end
  end

  test "what is judged right is complete and right again", %{seed: seed} do
    judged =
      for _ <- 1..2_000 do
        config = config()
        about = "seed #{seed}: #{inspect(config)}"
        verdict = Config.validate_pool_config(config)
        assert Config.validate_pool_config(Config.normalize_pool_config(config)) == verdict, about

        case verdict do
          {:ok, pool} ->
            assert Config.validate_pool_config(pool) == verdict, about
            assert pool.min_size <= pool.pool_size and pool.pool_size <= pool.max_size, about
            true

          {:error, reason} ->
            assert reason != nil, about
            false
        end
      end

    assert Enum.any?(judged) and not Enum.all?(judged), "seed #{seed}"
  end
end
