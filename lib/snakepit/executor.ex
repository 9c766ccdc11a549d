defmodule Snakepit.Executor do
  @moduledoc """
  Ways to run a function: with a timeout, again after a failure, several at a
  time, behind a circuit breaker.

  They know nothing of pools and work without one; the function will often call
  `Snakepit.execute/3`.

      Snakepit.Executor.execute_with_retry(
        fn -> Snakepit.execute("fetch", %{url: url}) end,
        max_attempts: 5,
        retriable_errors: [:timeout]
      )

  An exception, throw or exit of the function reaches the caller as it is,
  except in `execute_batch/2`, where it is that function's result.
  """

  alias Snakepit.{CircuitBreaker, Defaults, RetryPolicy, Telemetry}

  @type result :: term
  @type options :: keyword | map

  @doc "Runs it in the caller; with `:timeout_ms`, as `execute_with_timeout/2`."
  @spec execute((() -> result), options) :: result | {:error, :timeout}
  def execute(fun, opts \\ []) when is_function(fun, 0) do
    if Keyword.has_key?(list(opts), :timeout_ms),
      do: execute_with_timeout(fun, opts),
      else: fun.()
  end

  @doc "Runs it in a task, for `Task.await/2`; with `:timeout_ms` the result may be `{:error, :timeout}`."
  @spec execute_async((() -> result), options) :: Task.t()
  def execute_async(fun, opts \\ []) when is_function(fun, 0),
    do: Task.async(fn -> execute(fun, opts) end)

  @doc """
  Runs it for at most `:timeout_ms` (required). After that its process is
  killed and the result is `{:error, :timeout}`.
  """
  @spec execute_with_timeout((() -> result), options) :: result | {:error, :timeout}
  def execute_with_timeout(fun, opts) when is_function(fun, 0) do
    case run(fun, opts |> list() |> Keyword.fetch!(:timeout_ms)) do
      {:done, result} -> result
      {:raised, kind, reason, stack} -> :erlang.raise(kind, reason, stack)
      {:exit, reason} -> exit(reason)
      :timeout -> {:error, :timeout}
    end
  end

  # A task is linked, so that it goes when the caller does; what it raises is
  # carried over as a value, so that the link carries nothing else.
  defp run(fun, timeout) do
    task = Task.async(fn -> attempt(fun) end)

    case Task.yield(task, timeout) || Task.shutdown(task, :brutal_kill) do
      {:ok, outcome} -> outcome
      {:exit, reason} -> {:exit, reason}
      nil -> :timeout
    end
  end

  defp attempt(fun) do
    {:done, fun.()}
  catch
    kind, reason -> {:raised, kind, reason, __STACKTRACE__}
  end

  @doc """
  Runs it again while it answers with an error worth it. Options:
  `:max_attempts` (3), `:backoff_ms` ([100, 200, 400]), `:retriable_errors`
  ([:timeout, :unavailable], or `:all`), `:jitter` (false), and the others of
  `Snakepit.RetryPolicy.new/1`; or `:policy`, one that is ready.

  The last result is returned as it is.
  """
  @spec execute_with_retry((() -> result), options) :: result
  def execute_with_retry(fun, opts \\ []) when is_function(fun, 0) do
    opts = list(opts)
    policy = Keyword.get_lazy(opts, :policy, fn -> policy(opts) end)
    retry(fun, policy, 1, System.monotonic_time())
  end

  defp policy(opts) do
    [
      max_attempts: 3,
      backoff_ms: [100, 200, 400],
      retriable_errors: [:timeout, :unavailable],
      jitter: false
    ]
    |> Keyword.merge(opts)
    |> RetryPolicy.new()
  end

  defp retry(fun, policy, attempt, started) do
    result = fun.()

    cond do
      not (error?(result) and RetryPolicy.retry_for_error?(policy, result)) ->
        if attempt > 1, do: ended(:success, attempt, started, %{})
        result

      RetryPolicy.should_retry?(policy, attempt) ->
        wait = RetryPolicy.backoff_for_attempt(policy, attempt)
        measured = %{attempt: attempt, delay_ms: wait}
        about = %{last_error: result}
        Telemetry.execute([:snakepit, :retry, :attempt], measured, about)
        Telemetry.execute([:snakepit, :retry, :backoff], measured, about)
        Process.sleep(wait)
        retry(fun, policy, attempt + 1, started)

      true ->
        ended(:exhausted, attempt, started, %{last_error: result})
        result
    end
  end

  # Whatever else a function returns is what it was called for.
  defp error?(:error), do: true

  defp error?(result),
    do: is_tuple(result) and tuple_size(result) > 0 and elem(result, 0) == :error

  defp ended(how, attempts, started, metadata) do
    measured = %{attempts: attempts, total_duration: System.monotonic_time() - started}
    Telemetry.execute([:snakepit, :retry, how], measured, metadata)
  end

  @doc """
  Runs all of them, `:max_concurrency` at a time (all at once when not given),
  each for at most `:timeout_ms` (30 000). The results come in the order of the
  functions. One that takes too long is `{:error, :timeout}`, one that raises
  `{:error, exception}`, one that throws or exits `{:error, {kind, reason}}`.
  """
  @spec execute_batch([(() -> result)], options) :: [result | {:error, term}]
  def execute_batch(funs, opts \\ [])
  def execute_batch([], _opts), do: []

  def execute_batch(funs, opts) when is_list(funs) do
    opts = list(opts)
    timeout = Keyword.get_lazy(opts, :timeout_ms, &Defaults.executor_batch_timeout/0)
    concurrency = Keyword.get(opts, :max_concurrency) || length(funs)

    funs
    |> Task.async_stream(&attempt/1,
      max_concurrency: concurrency,
      timeout: timeout,
      on_timeout: :kill_task,
      ordered: true
    )
    |> Enum.map(fn
      {:ok, {:done, result}} ->
        result

      {:ok, {:raised, :error, reason, stack}} ->
        {:error, Exception.normalize(:error, reason, stack)}

      {:ok, {:raised, kind, reason, _stack}} ->
        {:error, {kind, reason}}

      {:exit, :timeout} ->
        {:error, :timeout}

      {:exit, reason} ->
        {:error, {:exit, reason}}
    end)
  end

  @doc "Runs it behind the breaker: its result, or `{:error, :circuit_open}`. Options as `execute/2`."
  @spec execute_with_circuit_breaker(GenServer.server(), (() -> result), options) ::
          result | {:error, :circuit_open | :timeout}
  def execute_with_circuit_breaker(breaker, fun, opts \\ []),
    do: CircuitBreaker.call(breaker, fn -> execute(fun, opts) end)

  @doc """
  Retries behind a breaker: the breaker counts the outcome of all attempts
  together as one, and while it is open nothing is tried. Options as
  `execute_with_retry/2`; `:timeout_ms` bounds each attempt.
  """
  @spec execute_with_protection(GenServer.server(), (() -> result), options) ::
          result | {:error, :circuit_open | :timeout}
  def execute_with_protection(breaker, fun, opts \\ []) do
    {limits, retries} = opts |> list() |> Keyword.split([:timeout_ms])

    CircuitBreaker.call(breaker, fn ->
      execute_with_retry(fn -> execute(fun, limits) end, retries)
    end)
  end

  defp list(opts) when is_map(opts), do: Map.to_list(opts)
  defp list(opts), do: opts
end
