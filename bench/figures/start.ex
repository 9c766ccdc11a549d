defmodule Bench.Figures.Start do
  @moduledoc false
  # Many workers at a time, one in place of a killed one, and one after the other
  # in place of those that serve.

  alias Bench.{Load, Pools, Raw, Recorder, Stats}
  alias Snakepit.Worker.LifecycleManager

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    times = if ctx.quick, do: 2, else: 7
    many(carrier, true, if(ctx.quick, do: 20, else: 100))
    many(carrier, false, if(ctx.quick, do: 8, else: 20))
    replacement(carrier, true, times)
    replacement(carrier, false, times)
    recycling(carrier, if(ctx.quick, do: 2, else: 10))
  end

  # Workers are forked unless they cannot be, or `prefork: false` is asked for.
  defp named(id, true), do: {id, "forked"}
  defp named(id, false), do: {id <> "_cold", "not forked"}

  defp many(carrier, prefork, workers) do
    {id, how} = named("start_rate", prefork)

    {{limit, curve}, conditions} =
      Recorder.measure(fn ->
        limit = Raw.interpreters(workers)
        Pools.stop()
        {limit, started(carrier, prefork, workers)}
      end)

    {_workers, ms} = List.last(curve)

    Recorder.figure(
      %{
        id: id,
        group: :start,
        label: "#{workers} workers from nothing to ready, #{how}",
        carrier: carrier,
        at: %{workers: workers},
        value: workers * 1000 / ms,
        unit: :per_s,
        limit: %{name: "bare interpreters", value: limit},
        note: "all after #{Bench.Format.value(ms * 1000, :us)}"
      },
      conditions
    )

    points = Enum.map(curve, fn {count, ms} -> {ms, count} end)
    Recorder.curve(:start, "#{carrier}, #{how}", carrier, [{0, 0} | points])
  end

  # When each number of workers was ready, in milliseconds.
  defp started(carrier, prefork, workers) do
    start = now()
    Pools.start(carrier, workers, Pools.adapter(), prefork)
    curve = watch(workers, 0, start, now() + 120_000_000_000, [])
    Pools.await(workers)
    curve
  end

  defp watch(workers, seen, start, until, curve) do
    Load.wait(fn -> Pools.ready() > seen end, until)
    count = Pools.ready()
    curve = [{count, (now() - start) / 1_000_000} | curve]

    cond do
      count >= workers -> Enum.reverse(curve)
      now() > until -> raise "#{count} of #{workers} workers got ready in two minutes"
      true -> watch(workers, count, start, until, curve)
    end
  end

  # A pool of one: nobody else serves meanwhile.
  defp replacement(carrier, prefork, times) do
    {id, how} = named("replacement", prefork)
    Pools.start(carrier, 1, Pools.adapter(), prefork)
    Pools.await(1)

    {results, conditions} = Recorder.measure(fn -> for _ <- 1..times, do: killed() end)

    {durations, failed} = Enum.unzip(results)

    Recorder.figure(
      %{
        id: id,
        group: :start,
        label: "one killed: until its replacement answers, #{how}",
        carrier: carrier,
        value: Stats.median(durations),
        unit: :us,
        note: "#{Float.round(Enum.sum(failed) / times, 1)} failed calls each"
      },
      conditions
    )
  end

  defp killed do
    {:ok, old} = worker()
    start = now()
    {_, 0} = System.cmd("kill", ["-9", old])
    until_other(old, start, start + 60_000_000_000, 0)
  end

  defp until_other(old, start, until, failed) do
    case worker() do
      {:ok, pid} when pid != old ->
        {(now() - start) / 1000, failed}

      # The signal had not yet been taken.
      {:ok, ^old} ->
        until_other(old, start, until, failed)

      {:error, error} ->
        if now() > until, do: raise("no replacement within a minute: #{inspect(error)}")
        Process.sleep(1)
        until_other(old, start, until, failed + 1)
    end
  end

  @callers 16

  defp recycling(carrier, times) do
    Pools.ensure(carrier, 2)
    over = :atomics.new(1, [])
    tasks = for _ <- 1..@callers, do: Task.async(fn -> call_on(over, 0, 0) end)

    {durations, conditions} = Recorder.measure(fn -> for _ <- 1..times, do: recycled() end)

    :atomics.put(over, 1, 1)
    {calls, failed} = tasks |> Task.await_many(180_000) |> Enum.unzip()

    Recorder.figure(
      %{
        id: "recycling",
        group: :start,
        label: "one of 2 recycled under load: until another has its place",
        carrier: carrier,
        at: %{callers: @callers},
        value: Stats.median(durations),
        unit: :us,
        note: "#{Enum.sum(failed)} failed calls of #{Enum.sum(calls)}"
      },
      conditions
    )
  end

  # The one that was replaced last may still be in the list.
  defp recycled do
    start = now()
    true = Enum.any?(Snakepit.list_workers(), &(recycle(&1) == :ok))
    (now() - start) / 1000
  end

  defp recycle(id), do: LifecycleManager.recycle_worker(:default, id)

  defp call_on(over, calls, failed) do
    failed = if match?({:ok, _}, Load.ping()), do: failed, else: failed + 1
    if :atomics.get(over, 1) == 0, do: call_on(over, calls + 1, failed), else: {calls + 1, failed}
  end

  defp worker do
    with {:ok, info} <- Snakepit.execute("get_worker_info", %{}), do: {:ok, info["worker_pid"]}
  end

  defp now, do: System.monotonic_time(:nanosecond)
end
