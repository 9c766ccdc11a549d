defmodule Bench.Figures.Streams do
  @moduledoc false
  # Small maps: the rate of one stream, out of a tool, into it and both ways, and
  # how long the first takes.

  alias Bench.{Pools, Raw, Recorder, Stats}

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    Pools.ensure(carrier, 2)
    ms = if ctx.quick, do: 500, else: 2_000
    chunks(carrier, ms)
    first(carrier, div(ms, 2))
    inputs(carrier, "inputs", "inputs of one call, small maps", ms, &count_inputs/1)
    inputs(carrier, "inputs_both", "inputs that come back as chunks", ms, &echo_inputs/1)
  end

  defp chunks(carrier, ms) do
    {{limit, rate}, conditions} =
      Recorder.measure(fn -> {Raw.port_rate(1, 32, div(ms, 2)), rate(ms)} end)

    Recorder.figure(
      %{
        id: "stream_chunks",
        group: :streams,
        label: "chunks of one stream of small maps",
        carrier: carrier,
        value: rate,
        unit: :per_s,
        limit: %{name: "C program behind a port, 32 under way", value: limit}
      },
      conditions
    )
  end

  # From the first chunk on, and until the time is over.
  defp rate(ms) do
    seen = :counters.new(1, [])
    start = :atomics.new(1, [])

    :ok =
      Snakepit.execute_stream("infinite_stream", %{}, fn _chunk ->
        if :counters.get(seen, 1) == 0, do: :atomics.put(start, 1, now())
        :counters.add(seen, 1, 1)
        if now() - :atomics.get(start, 1) > ms * 1_000_000, do: :halt
      end)

    (:counters.get(seen, 1) - 1) * 1.0e9 / (now() - :atomics.get(start, 1))
  end

  defp first(carrier, ms) do
    {{limit, times}, conditions} =
      Recorder.measure(fn -> {Raw.port(div(ms, 2)), first_chunks(ms)} end)

    Recorder.figure(
      %{
        id: "stream_first",
        group: :streams,
        label: "first chunk of a stream, p50",
        carrier: carrier,
        value: Stats.median(times),
        unit: :us,
        limit: %{name: "C program behind a port", value: Stats.median(limit)}
      },
      conditions
    )
  end

  # From the call to the callback; the end of the stream is not in it.
  defp first_chunks(ms) do
    for _ <- 1..20, do: first_chunk()
    until = now() + ms * 1_000_000

    fn -> first_chunk() end
    |> Stream.repeatedly()
    |> Enum.reduce_while([], fn time, times ->
      {if(now() < until, do: :cont, else: :halt), [time | times]}
    end)
  end

  defp first_chunk do
    seen = :atomics.new(1, [])
    start = now()

    :ok =
      Snakepit.execute_stream("stream_data", %{count: 1}, fn _chunk ->
        :atomics.compare_exchange(seen, 1, 0, now() - start)
      end)

    :atomics.get(seen, 1) / 1000
  end

  defp inputs(carrier, id, label, ms, run) do
    {{limit, rate}, conditions} =
      Recorder.measure(fn ->
        run.(100)
        {Raw.port_rate(1, 32, div(ms, 2)), input_rate(run, 1_000, ms)}
      end)

    Recorder.figure(
      %{
        id: id,
        group: :streams,
        label: label,
        carrier: carrier,
        value: rate,
        unit: :per_s,
        limit: %{name: "C program behind a port, 32 under way", value: limit}
      },
      conditions
    )
  end

  # As many as fill the time.
  defp input_rate(run, count, ms) do
    start = now()
    run.(count)
    took = now() - start

    if took < ms * 500_000,
      do: input_rate(run, 2 * count, ms),
      else: count * 1.0e9 / took
  end

  defp count_inputs(count) do
    {:ok, ^count} = Snakepit.execute("count_inputs", %{}, inputs: maps(count), timeout: :infinity)
  end

  defp echo_inputs(count) do
    callback = fn _chunk -> :ok end

    :ok =
      Snakepit.execute_stream("echo_inputs", %{}, callback,
        inputs: maps(count),
        timeout: :infinity
      )
  end

  defp maps(count), do: Stream.map(1..count, &%{n: &1})

  defp now, do: System.monotonic_time(:nanosecond)
end
