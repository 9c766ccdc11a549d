defmodule Snakepit.CircuitBreakerTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Events

  alias Snakepit.CircuitBreaker

  # A clock that the test moves.
  defp clock do
    time = :atomics.new(1, signed: true)
    {fn -> :atomics.get(time, 1) end, &:atomics.add(time, 1, &1)}
  end

  defp breaker(opts \\ []) do
    {clock, advance} = clock()
    {start_supervised!({CircuitBreaker, [{:clock, clock} | opts]}, id: make_ref()), advance}
  end

  defp fail(breaker), do: CircuitBreaker.call(breaker, fn -> {:error, :no} end)

  test "five failures open it, after 30 s a trial closes it" do
    {breaker, advance} = breaker()
    assert CircuitBreaker.state(breaker) == :closed
    for _ <- 1..4, do: assert({:error, :no} = fail(breaker))
    assert CircuitBreaker.state(breaker) == :closed
    assert {:error, :no} = fail(breaker)
    assert CircuitBreaker.state(breaker) == :open
    assert {:error, :circuit_open} = CircuitBreaker.call(breaker, fn -> flunk("called") end)

    advance.(29_999)
    assert CircuitBreaker.state(breaker) == :open
    advance.(1)
    assert CircuitBreaker.state(breaker) == :half_open
    assert {:ok, 1} = CircuitBreaker.call(breaker, fn -> {:ok, 1} end)
    assert %{state: :closed, failure_count: 0, half_open_calls: 0} = CircuitBreaker.stats(breaker)
  end

  test "a failed trial opens it again, for as long" do
    {breaker, advance} = breaker(failure_threshold: 1, reset_timeout_ms: 10)
    fail(breaker)
    advance.(10)
    fail(breaker)
    assert CircuitBreaker.state(breaker) == :open
    advance.(9)
    refute CircuitBreaker.allow_call?(breaker)
    advance.(1)
    assert CircuitBreaker.allow_call?(breaker)
  end

  test "what raises, throws or exits counts, and reaches the caller" do
    {breaker, _} = breaker(failure_threshold: 4)
    assert_raise RuntimeError, "x", fn -> CircuitBreaker.call(breaker, fn -> raise "x" end) end
    assert catch_throw(CircuitBreaker.call(breaker, fn -> throw(:ball) end)) == :ball
    assert catch_exit(CircuitBreaker.call(breaker, fn -> exit(:away) end)) == :away
    assert %{failure_count: 3, state: :closed} = CircuitBreaker.stats(breaker)
    assert :error = CircuitBreaker.call(breaker, fn -> :error end)
    assert CircuitBreaker.state(breaker) == :open
  end

  test "a success in between starts the count anew; reset closes" do
    {breaker, _} = breaker(failure_threshold: 2)
    fail(breaker)
    assert 42 = CircuitBreaker.call(breaker, fn -> 42 end)
    fail(breaker)
    assert CircuitBreaker.state(breaker) == :closed
    :ok = CircuitBreaker.record_failure(breaker)
    assert CircuitBreaker.state(breaker) == :open
    :ok = CircuitBreaker.reset(breaker)
    assert %{state: :closed, failure_count: 0} = CircuitBreaker.stats(breaker)
    :ok = CircuitBreaker.record_success(breaker)
    assert %{success_count: 1} = CircuitBreaker.stats(breaker)
  end

  test "only so many trials at a time; one whose caller dies is a failure" do
    {breaker, advance} = breaker(failure_threshold: 1, reset_timeout_ms: 5)
    fail(breaker)
    advance.(5)
    test = self()

    {trial, ref} =
      spawn_monitor(fn ->
        CircuitBreaker.call(breaker, fn ->
          send(test, :in)
          receive do: (:never -> :ok)
        end)
      end)

    assert_receive :in, 60_000
    # However long it takes: it is known to run.
    advance.(1_000)
    assert {:error, :circuit_open} = CircuitBreaker.call(breaker, fn -> :ok end)
    assert CircuitBreaker.state(breaker) == :half_open
    Process.exit(trial, :kill)
    assert_receive {:DOWN, ^ref, _, _, _}, 60_000
    # Its own message is before or after this one.
    until(fn -> CircuitBreaker.state(breaker) == :open end)
  end

  defp until(condition), do: condition.() || until(condition)

  test "a trial that was allowed and never told of is given to others" do
    {breaker, advance} = breaker(failure_threshold: 1, reset_timeout_ms: 5)
    fail(breaker)
    advance.(5)
    assert CircuitBreaker.allow_call?(breaker)
    refute CircuitBreaker.allow_call?(breaker)
    advance.(5)
    assert CircuitBreaker.allow_call?(breaker)
  end

  test "the result of a call outlives the breaker" do
    {clock, _} = clock()
    {:ok, breaker} = CircuitBreaker.start_link(clock: clock)
    assert {:ok, 1} = CircuitBreaker.call(breaker, fn -> GenServer.stop(breaker) && {:ok, 1} end)
  end

  test "a name, and events" do
    id =
      listen(for what <- [:opened, :half_open, :closed], do: [:snakepit, :circuit_breaker, what])

    {breaker, advance} = breaker(name: :"breaker_#{System.unique_integer([:positive])}")
    {:registered_name, name} = Process.info(breaker, :registered_name)
    for _ <- 1..5, do: fail(name)

    assert %{pool: ^name, reason: :failure_threshold_exceeded, measurements: %{failure_count: 5}} =
             event(id, [:snakepit, :circuit_breaker, :opened])

    advance.(30_000)
    assert :ok = CircuitBreaker.call(name, fn -> :ok end)
    assert %{pool: ^name} = event(id, [:snakepit, :circuit_breaker, :half_open])
    assert %{reason: :recovered} = event(id, [:snakepit, :circuit_breaker, :closed])
    assert %{name: ^name} = CircuitBreaker.stats(name)
  end

  test "a value out of range is refused" do
    for {key, value} <- [failure_threshold: 0, reset_timeout_ms: -1, half_open_max_calls: nil] do
      error = assert_raise ArgumentError, fn -> CircuitBreaker.start_link([{key, value}]) end
      assert error.message =~ inspect(key)
    end
  end

  # ---- against a model ----------------------------------------------------

  test "it does what the model does, whatever is done with it" do
    :rand.seed(:exsss, {4, 5, 6})

    for _ <- 1..150 do
      settings = %{
        failure_threshold: Enum.random(1..4),
        reset_timeout_ms: Enum.random([0, 1, 10]),
        half_open_max_calls: Enum.random(1..3)
      }

      {clock, advance} = clock()
      {:ok, breaker} = CircuitBreaker.start_link([{:clock, clock} | Map.to_list(settings)])
      model = Map.merge(settings, %{state: :closed, bad: 0, good: 0, given: 0, at: 0, now: 0})

      _ =
        Enum.reduce(1..60, model, fn _, model ->
          op = Enum.random([:allow, :ok, :bad, :call_ok, :call_bad, :reset, :wait, :call_bad])
          {expected, model} = model |> pass() |> step(op)
          assert {op, act(breaker, advance, op)} == {op, expected}
          model = pass(model)
          assert CircuitBreaker.state(breaker) == model.state
          model
        end)

      GenServer.stop(breaker)
    end
  end

  defp act(breaker, _, :allow), do: CircuitBreaker.allow_call?(breaker)
  defp act(breaker, _, :ok), do: CircuitBreaker.record_success(breaker)
  defp act(breaker, _, :bad), do: CircuitBreaker.record_failure(breaker)
  defp act(breaker, _, :call_ok), do: CircuitBreaker.call(breaker, fn -> {:ok, 1} end)
  defp act(breaker, _, :call_bad), do: CircuitBreaker.call(breaker, fn -> {:error, 1} end)
  defp act(breaker, _, :reset), do: CircuitBreaker.reset(breaker)
  defp act(_, advance, :wait), do: advance.(3)

  defp pass(%{state: :open} = m) when m.now - m.at >= m.reset_timeout_ms,
    do: %{m | state: :half_open, given: 0, good: 0}

  defp pass(%{state: :half_open} = m) when m.given > 0 and m.now - m.at >= m.reset_timeout_ms,
    do: %{m | given: m.good}

  defp pass(m), do: m

  defp step(m, :wait), do: {:ok, %{m | now: m.now + 3}}
  defp step(m, :reset), do: {:ok, %{m | state: :closed, bad: 0, good: 0, given: 0}}
  defp step(m, :ok), do: {:ok, good(m)}
  defp step(m, :bad), do: {:ok, bad(m)}
  defp step(%{state: :closed} = m, :allow), do: {true, m}
  defp step(%{state: :open} = m, :allow), do: {false, m}
  defp step(m, :allow) when m.given < m.half_open_max_calls, do: {true, given(m)}
  defp step(m, :allow), do: {false, m}

  defp step(m, call) do
    case step(m, :allow) do
      {true, m} when call == :call_ok -> {{:ok, 1}, good(m)}
      {true, m} -> {{:error, 1}, bad(m)}
      {false, m} -> {{:error, :circuit_open}, m}
    end
  end

  defp given(m), do: %{m | given: m.given + 1, at: m.now}

  defp good(%{state: :closed} = m), do: %{m | bad: 0}

  defp good(%{state: :half_open} = m) when m.good + 1 == m.half_open_max_calls,
    do: %{m | state: :closed, bad: 0, good: 0, given: 0}

  defp good(%{state: :half_open} = m), do: %{m | good: m.good + 1}
  defp good(m), do: m

  defp bad(%{state: :closed} = m) when m.bad + 1 < m.failure_threshold, do: %{m | bad: m.bad + 1}
  defp bad(%{state: :open} = m), do: m
  defp bad(m), do: %{m | state: :open, at: m.now, good: 0, given: 0}
end
