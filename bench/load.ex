defmodule Bench.Load do
  @moduledoc false
  # Callers, one or many, that call again as soon as they have an answer.

  @type call :: (caller :: pos_integer, n :: non_neg_integer -> {:ok, term} | {:error, term})

  @warm_up 100

  @doc "One caller for so long: the microseconds that each call took."
  @spec sequential(pos_integer, (() -> {:ok, term} | {:error, term})) :: [float]
  def sequential(ms, call) do
    until = now() + ms * 1_000_000
    for _ <- 1..@warm_up, now() < until, do: ok!(call.())
    timed(call, now() + ms * 1_000_000, [])
  end

  defp timed(call, until, times) do
    start = now()
    ok!(call.())
    stop = now()
    times = [(stop - start) / 1000 | times]
    if stop < until, do: timed(call, until, times), else: times
  end

  @doc """
  Calls per second of many callers. It is counted when all have begun and the
  first calls are answered.
  """
  @spec rate(pos_integer, pos_integer, call) :: float
  def rate(callers, ms, call) do
    done = :counters.new(1, [:write_concurrency])
    over = :atomics.new(1, [])
    begun = :counters.new(1, [:write_concurrency])

    tasks =
      for caller <- 1..callers do
        Task.async(fn ->
          :counters.add(begun, 1, 1)
          work(caller, 0, call, done, over)
        end)
      end

    patience = now() + 30_000_000_000
    wait(fn -> :counters.get(begun, 1) == callers end, patience)
    # Each once, or as many as there is time for: 10,000 may take long.
    wait(fn -> :counters.get(done, 1) >= callers end, now() + ms * 1_000_000)
    wait(fn -> :counters.get(done, 1) > 0 end, patience)
    start = now()
    first = :counters.get(done, 1)
    Process.sleep(ms)
    last = :counters.get(done, 1)
    stop = now()
    :atomics.put(over, 1, 1)
    _ = Task.await_many(tasks, 180_000)
    if last == first, do: raise("no call was answered in #{ms} ms")
    (last - first) * 1.0e9 / (stop - start)
  end

  defp work(caller, n, call, done, over) do
    ok!(call.(caller, n))
    :counters.add(done, 1, 1)
    if :atomics.get(over, 1) == 0, do: work(caller, n + 1, call, done, over)
  end

  @doc "Looks again until it is so, or that time has come."
  @spec wait((() -> boolean), integer) :: boolean
  def wait(condition, until) do
    cond do
      condition.() ->
        true

      now() > until ->
        false

      true ->
        Process.sleep(1)
        wait(condition, until)
    end
  end

  @spec ok!({:ok, value} | {:error, term}) :: value when value: term
  def ok!({:ok, value}), do: value
  def ok!({:error, %{__exception__: true} = error}), do: raise(error)
  def ok!({:error, reason}), do: raise("a call failed: #{inspect(reason)}")

  @doc "The process's call without the limits that would end it under load."
  @spec ping(keyword) :: {:ok, term} | {:error, term}
  def ping(opts \\ []), do: Snakepit.execute("ping", %{}, patient(opts))

  @spec patient(keyword) :: keyword
  def patient(opts \\ []), do: Keyword.merge([timeout: 120_000, queue_timeout: 120_000], opts)

  defp now, do: System.monotonic_time(:nanosecond)
end
