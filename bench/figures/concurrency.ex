defmodule Bench.Figures.Concurrency do
  @moduledoc false
  # One process that runs several calls at a time: threads that compute in C, and
  # coroutines of one loop.

  alias Bench.{Pools, Recorder, Stats}

  @adapter "bench_concurrent.BenchConcurrent"
  @threads 4
  @coroutines 100
  @sleep_ms 100

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    ms = if ctx.quick, do: 500, else: 2_000
    start(carrier, worker_profile: :thread, threads_per_worker: @threads)
    rate(carrier, "threads_rate", "calls of one worker with #{@threads} threads", "ping", ms)
    speed_up(carrier, if(ctx.quick, do: 30, else: 100))
    start(carrier, concurrency: @coroutines)
    rate(carrier, "coroutines_rate", "coroutine calls of one worker", "ping_async", ms)
    at_once(carrier, if(ctx.quick, do: 3, else: 10))
    Pools.stop()
  end

  defp start(carrier, settings) do
    Pools.start(carrier, 1, @adapter, true, settings)
    Pools.await(1)
  end

  # Sixteen callers, one after the other each.
  defp rate(carrier, id, label, tool, ms) do
    {rate, conditions} =
      Recorder.measure(fn ->
        until = now() + ms * 1_000_000
        began = now()

        counts =
          1..16
          |> Enum.map(fn _ -> Task.async(fn -> count(tool, until, 0) end) end)
          |> Task.await_many(:infinity)

        Enum.sum(counts) * 1.0e9 / (now() - began)
      end)

    figure(carrier, id, label, rate, :per_s, nil, conditions)
  end

  defp count(tool, until, n) do
    {:ok, "pong"} = Snakepit.execute(tool, %{}, timeout: 60_000)
    if now() < until, do: count(tool, until, n + 1), else: n + 1
  end

  # The same work by one caller, and by as many as there are threads.
  defp speed_up(carrier, megabytes) do
    {ratio, conditions} =
      Recorder.measure(fn ->
        alone = time(fn -> for _ <- 1..@threads, do: digest(megabytes) end)
        together = time(fn -> all(@threads, fn -> digest(megabytes) end) end)
        alone / together
      end)

    limit = %{name: "processors, threads at most", value: min(@threads, cores())}
    label = "speed-up by #{@threads} threads that compute in C"
    figure(carrier, "threads_speed_up", label, ratio, :factor, limit, conditions)
  end

  defp digest(megabytes),
    do: {:ok, _} = Snakepit.execute("digest", %{megabytes: megabytes}, timeout: 60_000)

  defp at_once(carrier, times) do
    sleep = fn -> {:ok, nil} = Snakepit.execute("sleep_ms", %{ms: @sleep_ms}, timeout: 60_000) end

    {samples, conditions} =
      Recorder.measure(fn ->
        for _ <- 1..times, do: time(fn -> all(@coroutines, sleep) end) / 1.0e3
      end)

    limit = %{name: "one sleep", value: @sleep_ms * 1_000}
    label = "#{@coroutines} coroutines that sleep #{@sleep_ms} ms"
    figure(carrier, "coroutines_at_once", label, Stats.median(samples), :us, limit, conditions)
  end

  defp all(count, fun) do
    1..count |> Enum.map(fn _ -> Task.async(fun) end) |> Task.await_many(:infinity)
  end

  defp figure(carrier, id, label, value, unit, limit, conditions) do
    Recorder.figure(
      %{
        id: id,
        group: :concurrency,
        label: label,
        carrier: carrier,
        value: value,
        unit: unit,
        limit: limit
      },
      conditions
    )
  end

  defp cores, do: System.schedulers_online()

  defp time(fun) do
    began = now()
    fun.()
    now() - began
  end

  defp now, do: System.monotonic_time(:nanosecond)
end
