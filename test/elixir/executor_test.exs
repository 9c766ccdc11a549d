defmodule Snakepit.ExecutorTest do
  # Events of others would be taken for its own.
  use ExUnit.Case, async: false

  import Snakepit.Test.Events

  alias Snakepit.{CircuitBreaker, Executor, RetryPolicy}

  @long 60_000

  # Gives these results one after the other.
  defp results(list) do
    {:ok, agent} = Agent.start_link(fn -> list end)
    fn -> Agent.get_and_update(agent, fn [next | rest] -> {next, rest} end) end
  end

  defp for_ever do
    receive do: (:never -> :ok)
  end

  test "execute runs it here, with a timeout elsewhere" do
    assert Executor.execute(fn -> self() end) == self()
    assert Executor.execute(fn -> :done end, timeout_ms: @long) == :done
    assert Executor.execute(&for_ever/0, timeout_ms: 0) == {:error, :timeout}
    assert_raise RuntimeError, "x", fn -> Executor.execute(fn -> raise "x" end) end
  end

  test "execute_async gives a task" do
    assert %Task{} = task = Executor.execute_async(fn -> {:ok, 2} end)
    assert Task.await(task, @long) == {:ok, 2}
    late = Executor.execute_async(&for_ever/0, timeout_ms: 0)
    assert Task.await(late, @long) == {:error, :timeout}
  end

  test "execute_with_timeout ends what takes too long" do
    test = self()

    assert {:error, :timeout} =
             Executor.execute_with_timeout(
               fn ->
                 send(test, {:runs, self()})
                 for_ever()
               end,
               timeout_ms: 50
             )

    receive do
      {:runs, pid} -> refute Process.alive?(pid)
    after
      0 -> :it_never_came_to_run
    end

    assert_raise KeyError, fn -> Executor.execute_with_timeout(fn -> 1 end, []) end
    assert catch_throw(Executor.execute_with_timeout(fn -> throw(1) end, timeout_ms: @long)) == 1

    assert_raise ArithmeticError, fn ->
      Executor.execute_with_timeout(fn -> 1 / (self() && 0) end, timeout_ms: @long)
    end

    assert Process.info(self(), :messages) == {:messages, []}
  end

  test "execute_with_retry: until it goes well" do
    id = listen([[:snakepit, :retry, :attempt], [:snakepit, :retry, :success]])
    fun = results([{:error, :timeout}, {:error, :unavailable}, {:ok, 3}, :too_many])
    assert Executor.execute_with_retry(fun, backoff_ms: [0, 1]) == {:ok, 3}

    assert %{measurements: %{attempt: 1, delay_ms: 0}, last_error: {:error, :timeout}} =
             event(id, [:snakepit, :retry, :attempt])

    assert %{measurements: %{attempt: 2, delay_ms: 1}} = event(id, [:snakepit, :retry, :attempt])
    assert %{measurements: %{attempts: 3}} = event(id, [:snakepit, :retry, :success])
  end

  test "execute_with_retry: at most so often, and not for other errors or results" do
    id = listen([[:snakepit, :retry, :exhausted]])
    errors = for n <- 1..4, do: {:error, {:timeout, n}}
    quick = [backoff_ms: [0]]
    assert {:error, {:timeout, 3}} = Executor.execute_with_retry(results(errors), quick)

    assert %{measurements: %{attempts: 3}, last_error: {:error, {:timeout, 3}}} =
             event(id, [:snakepit, :retry, :exhausted])

    assert {:error, :bad} = Executor.execute_with_retry(results([{:error, :bad}]), quick)
    all = [retriable_errors: :all, max_attempts: 2, backoff_ms: [0]]
    assert {:error, 2} = Executor.execute_with_retry(results([{:error, 1}, {:error, 2}]), all)
    assert 42 = Executor.execute_with_retry(results([42]), all)
    assert :timeout = Executor.execute_with_retry(results([:timeout]), quick)

    policy = RetryPolicy.new(max_attempts: 1)

    assert {:error, :timeout} =
             Executor.execute_with_retry(results(errors: :timeout) |> one(), policy: policy)
  end

  defp one(fun), do: fn -> with {:errors, why} <- fun.(), do: {:error, why} end

  test "execute_batch: in order, each result its own" do
    funs = [
      fn -> 1 end,
      fn -> {:error, :mine} end,
      fn -> raise "x" end,
      fn -> throw(:ball) end,
      fn -> exit(:away) end
    ]

    assert [
             1,
             {:error, :mine},
             {:error, %RuntimeError{message: "x"}},
             {:error, {:throw, :ball}},
             {:error, {:exit, :away}}
           ] = Executor.execute_batch(funs)

    assert [] = Executor.execute_batch([])

    late = {:error, :timeout}
    assert [^late, ^late] = Executor.execute_batch([&for_ever/0, &for_ever/0], timeout_ms: 1)
  end

  test "execute_batch: not more at a time than allowed, all of them otherwise" do
    running = :counters.new(1, [:atomics])
    most = :atomics.new(1, [])

    fun = fn ->
      :counters.add(running, 1, 1)
      :atomics.put(most, 1, max(:atomics.get(most, 1), :counters.get(running, 1)))
      :erlang.yield()
      :counters.sub(running, 1, 1)
    end

    Executor.execute_batch(List.duplicate(fun, 50), max_concurrency: 1)
    assert :atomics.get(most, 1) == 1

    # Each waits until all run.
    test = self()

    together = fn ->
      send(test, {:here, self()})
      receive do: (:go -> :ok)
    end

    batch = Task.async(fn -> Executor.execute_batch(List.duplicate(together, 20)) end)
    pids = for _ <- 1..20, do: assert_receive({:here, _}, @long) |> elem(1)
    for pid <- pids, do: send(pid, :go)
    assert Task.await(batch, @long) == List.duplicate(:ok, 20)
  end

  test "a breaker around it" do
    breaker = start_supervised!({CircuitBreaker, failure_threshold: 1, reset_timeout_ms: @long})
    assert {:ok, 1} = Executor.execute_with_circuit_breaker(breaker, fn -> {:ok, 1} end)

    assert {:error, :timeout} =
             Executor.execute_with_circuit_breaker(breaker, &for_ever/0, timeout_ms: 0)

    assert {:error, :circuit_open} =
             Executor.execute_with_circuit_breaker(breaker, fn -> flunk("called") end)
  end

  test "retries behind a breaker count once, and are not made while it is open" do
    breaker = start_supervised!({CircuitBreaker, failure_threshold: 2, reset_timeout_ms: @long})
    options = [max_attempts: 2, backoff_ms: [0]]
    error = {:error, :timeout}

    assert {:ok, 1} =
             Executor.execute_with_protection(breaker, results([error, {:ok, 1}]), options)

    assert error == Executor.execute_with_protection(breaker, results([error, error]), options)
    assert CircuitBreaker.state(breaker) == :closed
    assert error == Executor.execute_with_protection(breaker, results([error, error]), options)

    assert {:error, :circuit_open} =
             Executor.execute_with_protection(breaker, fn -> flunk("called") end, options)
  end

  test "options may be maps" do
    slow = fn -> Process.sleep(:infinity) end
    assert Executor.execute(slow, %{timeout_ms: 1}) == {:error, :timeout}
    assert Executor.execute_with_timeout(slow, %{timeout_ms: 1}) == {:error, :timeout}
    assert Executor.execute_batch([slow], %{timeout_ms: 1}) == [{:error, :timeout}]
    error = {:error, :timeout}
    options = %{max_attempts: 2, backoff_ms: [0], timeout_ms: @long}
    assert Executor.execute_with_retry(results([error, {:ok, 1}]), options) == {:ok, 1}

    breaker =
      start_supervised!({CircuitBreaker, %{failure_threshold: 1, reset_timeout_ms: @long}})

    assert Executor.execute_with_protection(breaker, results([error, {:ok, 1}]), options) ==
             {:ok, 1}

    assert Executor.execute_with_circuit_breaker(breaker, slow, %{timeout_ms: 1}) == error
    assert CircuitBreaker.state(breaker) == :open
  end
end
