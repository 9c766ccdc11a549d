defmodule Bench.Figures.Scale do
  @moduledoc false
  # What a call costs all of the machine as workers and callers grow in number.

  alias Bench.{Format, Load, Pools, Recorder}

  @callers 64
  @sessions 100_000
  @patience_s 30

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    ms = if ctx.quick, do: 500, else: 1_500
    callers(carrier, ms, if(ctx.quick, do: [32, 10_000], else: [32, 100, 1_000, 10_000]))
    workers(carrier, ms, if(ctx.quick, do: [2, 8], else: [1, 2, 4, 8, 32, 200]))
    if ctx.quick, do: :ok, else: sessions(carrier, ms)
  end

  defp callers(carrier, ms, counts) do
    Pools.ensure(carrier, 2)

    costs =
      for count <- counts do
        label = "cost of a call, #{Format.commas(count)} callers, 2 workers"
        {count, cost(carrier, count, ms, %{id: "cost_c#{count}", label: label})}
      end

    compared(carrier, costs, 32, 10_000, "callers")
  end

  # Each session was used before it is measured.
  defp sessions(carrier, ms) do
    Pools.ensure(carrier, 2)
    few = session_cost(carrier, ms, 10)
    {cost, _conditions} = few
    seconds = @sessions * cost / 1_000_000

    if seconds > @patience_s do
      what = "#{Format.commas(@sessions)} sessions (#{carrier})"
      Recorder.left_out(what, "to make them takes #{round(seconds)} s at this rate")
    else
      1..@callers
      |> Task.async_stream(&fill/1, max_concurrency: @callers, timeout: 300_000)
      |> Stream.run()

      many = session_cost(carrier, ms, @sessions)
      compared(carrier, [{10, few}, {@sessions, many}], 10, @sessions, "sessions")
    end

    # Nothing else is measured with them.
    Pools.stop()
  end

  defp fill(caller) do
    for n <- 0..div(@sessions, @callers), do: Load.ok!(in_session(caller, n, @sessions))
    :ok
  end

  defp session_cost(carrier, ms, count) do
    label = "cost of a call, #{Format.commas(count)} sessions, 2 workers"
    cost(carrier, @callers, ms, %{id: "cost_s#{count}", label: label}, &in_session(&1, &2, count))
  end

  defp in_session(caller, n, count),
    do: Load.ping(session_id: "bench-#{rem(n * @callers + caller, count)}")

  defp workers(carrier, ms, counts) do
    costs =
      for count <- counts do
        Pools.ensure(carrier, count)
        label = "cost of a call, #{@callers} callers, #{count} worker#{if count > 1, do: "s"}"
        {count, cost(carrier, @callers, ms, %{id: "cost_w#{count}", label: label})}
      end

    compared(carrier, costs, 2, List.last(counts), "workers")
  end

  defp cost(carrier, callers, ms, named, call \\ fn _caller, _n -> Load.ping() end) do
    {rate, conditions} = Recorder.measure(fn -> Load.rate(callers, ms, call) end)

    cost = 1_000_000 / rate
    figure = %{group: :scale, carrier: carrier, value: cost, unit: :us}
    Recorder.figure(Map.merge(figure, named), conditions)
    {cost, conditions}
  end

  defp compared(carrier, costs, few, many, what) do
    points = for {count, {cost, _conditions}} <- costs, do: {count, cost}
    Recorder.curve(:"scale_#{what}", "#{carrier}", carrier, points)

    {base, one} = costs |> List.keyfind!(few, 0) |> elem(1)
    {value, other} = costs |> List.keyfind!(many, 0) |> elem(1)

    Recorder.figure(
      %{
        id: "cost_#{what}",
        group: :scale,
        label: "cost of a call, #{Format.commas(many)} #{what} by #{few}",
        carrier: carrier,
        at: %{few: few, many: many},
        value: value / base,
        unit: :factor
      },
      Enum.max_by([one, other], & &1.disturbed)
    )
  end
end
