defmodule FormsTest do
  use ExUnit.Case, async: false

  # The forms of examples and guides, which ordinary users copy.

  alias Snakepit.{CircuitBreaker, Compatibility, Executor, HealthMonitor, PythonVersion}
  alias Snakepit.{RetryPolicy, Serialization}

  @stream %{
    "python_module" => "downstream_adapter",
    "function" => "numbers",
    "args" => [2]
  }

  setup_all do
    :ok = Snakepit.Pool.await_ready()
  end

  defp collector do
    test = self()
    fn chunk -> send(test, {:chunk, chunk}) end
  end

  defp chunks do
    receive do
      {:chunk, %{"is_final" => true}} -> []
      {:chunk, chunk} -> [chunk["value"] | chunks()]
    after
      0 -> []
    end
  end

  test "execute" do
    assert {:ok, %{"helpers" => _}} = Snakepit.execute("snakebridge.helpers", %{})

    options = [
      timeout: 60_000,
      pool_name: :other,
      session_id: "forms",
      affinity: :hint,
      thread_sensitive: true,
      binary_parameters: %{"blob" => <<0, 1>>}
    ]

    assert {:ok, %{"helpers" => _}} = Snakepit.execute("snakebridge.helpers", %{}, options)
    assert {:ok, _} = Snakepit.execute_in_session("forms", "snakebridge.helpers", %{})

    assert {:ok, _} =
             Snakepit.execute_in_session("forms", "snakebridge.helpers", %{}, timeout: 60_000)
  end

  test "streams, with and without arguments and options" do
    assert :ok = Snakepit.execute_stream("snakebridge.stream", @stream, collector())
    assert [0, 1] = chunks()
    options = [timeout: 60_000]
    assert :ok = Snakepit.execute_stream("snakebridge.stream", @stream, collector(), options)
    assert [0, 1] = chunks()
    in_session = &Snakepit.execute_in_session_stream("forms", "snakebridge.stream", &1, &2)
    assert :ok = in_session.(@stream, collector())
    assert [0, 1] = chunks()

    assert :ok =
             Snakepit.execute_in_session_stream(
               "forms",
               "snakebridge.stream",
               @stream,
               collector(),
               options
             )

    assert [0, 1] = chunks()

    # Without arguments this one fails, in Python.
    assert {:error, error} = Snakepit.execute_stream("snakebridge.stream", collector())
    assert %Downstream.Errors.PythonError{type: "KeyError"} = Downstream.Errors.translate(error)
    assert {:error, _} = in_session.(collector(), options)

    assert {:error, _} =
             Snakepit.execute_in_session_stream("forms", "snakebridge.stream", collector())
  end

  test "a breaker and retries around a call" do
    {:ok, breaker} = CircuitBreaker.start_link(name: __MODULE__.Breaker, failure_threshold: 5)
    call = fn -> Snakepit.execute("snakebridge.helpers", %{}) end
    assert {:ok, {:ok, _}} = {:ok, CircuitBreaker.call(breaker, call)}
    assert {:ok, _} = Executor.execute_with_circuit_breaker(breaker, call)
    assert {:ok, _} = Executor.execute_with_retry(call, max_attempts: 3, backoff_ms: [1])
    assert {:ok, _} = Executor.execute_with_timeout(call, timeout_ms: 60_000)
    assert [{:ok, _}, {:ok, _}] = Executor.execute_batch([call, call], timeout_ms: 60_000)
    assert CircuitBreaker.state(breaker) == :closed
    assert %{state: :closed} = CircuitBreaker.stats(breaker)
    policy = RetryPolicy.new(max_attempts: 3, backoff_ms: [100, 200], jitter: false)
    assert RetryPolicy.backoff_for_attempt(policy, 1) in 0..1_000
    assert RetryPolicy.retry_for_error?(policy, {:error, :timeout})
  end

  test "parts that need no pool" do
    {:ok, monitor} = HealthMonitor.start_link(name: __MODULE__.Health, pool: :default)
    assert :ok = HealthMonitor.record_crash(monitor, "w1", %{reason: :segfault})
    assert HealthMonitor.healthy?(monitor)
    assert {:ok, {3, minor, _}} = PythonVersion.detect()
    assert minor >= 9
    assert PythonVersion.recommend_profile() in [:process, :thread]
    assert {verdict, _} = Compatibility.check("numpy", :thread)
    assert verdict in [:ok, :warning, :error]
    refute Serialization.unserializable?(%{"a" => 1})
  end
end
