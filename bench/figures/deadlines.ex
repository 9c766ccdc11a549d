defmodule Bench.Figures.Deadlines do
  @moduledoc false
  # How long after its time is over a caller is told so, in each state that a
  # call can be in.

  alias Bench.{Load, Pools, Recorder, Stats}

  @timeout 20
  @hang 60_000

  @kinds [
    running: "running",
    stream: "in a stream",
    async: "awaited later",
    queued: "queued",
    strict: "queued in a session",
    deaf: "in C that keeps the GIL"
  ]

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    Pools.ensure(carrier, 2)
    count = if ctx.quick, do: 10, else: 60

    {late, conditions} =
      Recorder.measure(fn -> for {kind, _} <- @kinds, do: {kind, overruns(kind, count)} end)

    for {kind, title} <- @kinds do
      figure(
        "deadline_#{kind}",
        "beyond the deadline, #{title}",
        carrier,
        late[kind],
        conditions
      )
    end

    all = Enum.flat_map(late, &elem(&1, 1))
    figure("deadline", "beyond the deadline, the worst", carrier, all, conditions)
    figure("deadline_p50", "beyond the deadline, p50", carrier, all, conditions, 50)
    Recorder.curve(:deadlines, "after the deadline, #{carrier}", carrier, Stats.curve(all))
  end

  defp figure(id, label, carrier, times, conditions, percentile \\ 100) do
    value = Stats.percentile(times, percentile)
    figure = %{id: id, group: :deadlines, label: label, carrier: carrier, value: value, unit: :us}
    Recorder.figure(figure, conditions)
  end

  defp overruns(kind, count) when kind in [:queued, :strict] do
    holders = for n <- 1..2, do: Task.async(fn -> hold(session_id: "bench-deadline-#{n}") end)
    Load.wait(fn -> Snakepit.get_stats().busy == 2 end, now() + @hang * 1_000_000)
    times = for _ <- 1..count, do: overrun(fn -> call(kind) end)
    Enum.each(holders, &Task.shutdown(&1, :brutal_kill))
    idle()
    times
  end

  defp overruns(kind, count) do
    for _ <- 1..count do
      time = overrun(fn -> call(kind) end)
      idle()
      time
    end
  end

  # Microseconds beyond the time-out.
  defp overrun(call) do
    start = now()
    {:error, %{category: :timeout}} = call.()
    max((now() - start) / 1000 - 1000 * @timeout, 0)
  end

  defp call(:running), do: hold(timeout: @timeout)
  defp call(:deaf), do: Snakepit.execute("keep_interpreter", %{ms: 150}, timeout: @timeout)
  defp call(:queued), do: Snakepit.execute("ping", %{}, timeout: @timeout)

  defp call(:stream),
    do: Snakepit.execute_stream("wait_ms", %{ms: @hang}, fn _ -> :ok end, timeout: @timeout)

  defp call(:async),
    do: "wait_ms" |> Snakepit.async(%{ms: @hang}, timeout: @timeout) |> Snakepit.await()

  defp call(:strict) do
    opts = [timeout: @timeout, session_id: "bench-deadline-1", affinity: :strict_queue]
    Snakepit.execute("ping", %{}, opts)
  end

  defp hold(opts),
    do: Snakepit.execute("wait_ms", %{ms: @hang}, Keyword.put_new(opts, :timeout, @hang))

  defp idle do
    true = Load.wait(fn -> Snakepit.get_stats().busy == 0 end, now() + @hang * 1_000_000)
  end

  defp now, do: System.monotonic_time(:nanosecond)
end
