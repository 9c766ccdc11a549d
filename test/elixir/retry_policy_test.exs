defmodule Snakepit.RetryPolicyTest do
  use ExUnit.Case, async: true

  alias Snakepit.{Error, RetryPolicy}

  doctest RetryPolicy

  test "the defaults are the documented ones" do
    assert %RetryPolicy{
             max_attempts: 3,
             backoff_ms: [100, 200, 400, 800, 1600],
             base_backoff_ms: 100,
             backoff_multiplier: 2.0,
             max_backoff_ms: 30_000,
             jitter: false,
             jitter_factor: 0.25
           } = policy = RetryPolicy.new([])

    assert Enum.map(1..5, &RetryPolicy.backoff_for_attempt(policy, &1)) ==
             [100, 200, 400, 800, 1600]

    assert Enum.map([6, 9, 10, 1_000_000_000], &RetryPolicy.backoff_for_attempt(policy, &1)) ==
             [3200, 25_600, 30_000, 30_000]
  end

  test "attempts are counted up to the number of them" do
    policy = RetryPolicy.new(max_attempts: 2)
    assert Enum.map(0..3, &RetryPolicy.should_retry?(policy, &1)) == [true, true, false, false]
    refute RetryPolicy.should_retry?(RetryPolicy.new(max_attempts: 1), 1)
  end

  test "without a list it begins at the base" do
    policy = RetryPolicy.new(backoff_ms: [], base_backoff_ms: 10, backoff_multiplier: 3)
    assert Enum.map(1..4, &RetryPolicy.backoff_for_attempt(policy, &1)) == [10, 30, 90, 270]
  end

  test "which errors are worth another attempt" do
    policy = RetryPolicy.new(retriable_errors: [:timeout])
    timeout = Error.timeout_error("late", %{reason: :queue_timeout})

    for worth <- [
          {:error, :timeout},
          {:error, {:timeout, :details}},
          :timeout,
          {:error, timeout},
          {:error, Error.pool_error("x", %{reason: :timeout})}
        ] do
      assert RetryPolicy.retry_for_error?(policy, worth)
    end

    # What the transport said counts as well.
    policy = RetryPolicy.new(retriable_errors: [:unavailable])
    assert RetryPolicy.retry_for_error?(policy, {:error, Error.grpc_error(:unavailable, "gone")})
    refute RetryPolicy.retry_for_error?(policy, {:error, Error.grpc_error(:internal, "broken")})
    policy = RetryPolicy.new(retriable_errors: [:timeout])

    for not_worth <- [
          :ok,
          {:ok, :timeout},
          {:ok, 1, 2},
          {:error, :other},
          {:error, "timeout"},
          {:error, %{}},
          {},
          nil,
          {:error, Error.worker_error("died")},
          {:error, %ArgumentError{message: "timeout"}}
        ] do
      refute RetryPolicy.retry_for_error?(policy, not_worth)
    end
  end

  test ":all is all errors, and no success" do
    policy = RetryPolicy.new(retriable_errors: :all)
    assert RetryPolicy.retry_for_error?(policy, {:error, "whatever"})
    refute RetryPolicy.retry_for_error?(policy, {:ok, 1})
    refute RetryPolicy.retry_for_error?(policy, :ok)
  end

  test "a value out of range is refused by name, an unknown option ignored" do
    for {key, value} <- [
          max_attempts: 0,
          max_attempts: 1.5,
          backoff_ms: [1, -1],
          backoff_ms: 100,
          base_backoff_ms: -1,
          backoff_multiplier: 0.5,
          max_backoff_ms: nil,
          jitter: 1,
          jitter_factor: 1.1,
          jitter_factor: -0.1,
          retriable_errors: :some,
          retriable_errors: ["timeout"]
        ] do
      error = assert_raise ArgumentError, fn -> RetryPolicy.new([{key, value}]) end
      assert error.message =~ inspect(key)
      assert error.message =~ inspect(value)
    end

    assert RetryPolicy.new(operation: "x") == RetryPolicy.new([])
    assert RetryPolicy.new(%{max_attempts: 7}).max_attempts == 7
  end

  # Of any policy: without jitter waits never exceed the cap and, after the
  # list, never fall; jitter keeps within its factor and the cap.
  test "bounds of the waits" do
    :rand.seed(:exsss, {1, 2, 3})

    for _ <- 1..500 do
      max = Enum.random([0, 1, 50, 1_000, 30_000])

      options = [
        backoff_ms: random_list(),
        base_backoff_ms: Enum.random(0..500),
        backoff_multiplier: 1 + :rand.uniform() * Enum.random([0, 0.01, 3, 1_000]),
        max_backoff_ms: max,
        jitter_factor: Enum.random([0, 0.25, 1, :rand.uniform()])
      ]

      plain = RetryPolicy.new([{:jitter, false} | options])
      spread = RetryPolicy.new([{:jitter, true} | options])
      listed = length(plain.backoff_ms)
      waits = Enum.map(1..40, &RetryPolicy.backoff_for_attempt(plain, &1))

      assert Enum.all?(waits, &(&1 in 0..max))
      assert Enum.take(waits, listed) == Enum.map(plain.backoff_ms, &min(&1, max))
      tail = Enum.drop(waits, max(listed - 1, 0))
      assert tail == Enum.sort(tail)

      for {wait, attempt} <- Enum.with_index(waits, 1) do
        jittered = RetryPolicy.backoff_for_attempt(spread, attempt)
        assert is_integer(jittered) and jittered in 0..max
        assert abs(jittered - wait) <= wait * spread.jitter_factor + 0.5
      end
    end
  end

  defp random_list, do: for(_ <- 1..Enum.random(1..6), do: Enum.random(0..2_000)) |> tl()
end
