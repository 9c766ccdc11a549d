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
