defmodule Bench.Figures.Scale do
  @moduledoc false
  # What a call costs all of the machine as workers and callers grow in number.

  alias Bench.{Format, Load, Pools, Recorder, Stats}

  @callers 64
  @sessions 100_000
  @patience_s 30
  # How fast the machine is changes from second to second. What is compared has
  # so many short turns each, and what counts is the median.
  @turns 5
  # Pools differ from start to start in what a call in one of many sessions costs.
  @starts 5

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    ms = if ctx.quick, do: 150, else: 500
    callers(carrier, ms, if(ctx.quick, do: [32, 10_000], else: [32, 100, 1_000, 10_000]))
    workers(carrier, ms, if(ctx.quick, do: [2, 8], else: [1, 2, 4, 8, 32, 200]))
    if ctx.quick, do: :ok, else: sessions(carrier, ms)
  end

  defp callers(carrier, ms, counts) do
    Pools.ensure(carrier, 2)

    loads =
      for count <- counts do
        label = "cost of a call, #{Format.commas(count)} callers, 2 workers"
        {count, %{id: "cost_c#{count}", label: label}, fn -> Load.rate(count, ms, &ping/2) end}
      end

    compared(carrier, costs(carrier, loads), 32, 10_000, "callers")
  end

  defp sessions(carrier, ms) do
    Pools.ensure(carrier, 2)
    seconds = @sessions / Load.rate(@callers, ms, &in_session(&1, &2, 10))

    if seconds > @patience_s do
      what = "#{Format.commas(@sessions)} sessions (#{carrier})"
      Recorder.left_out(what, "to make them takes #{round(seconds)} s at this rate")
    else
      loads =
        for count <- [10, @sessions] do
          label = "cost of a call, #{Format.commas(count)} sessions, 2 workers"
          load = fn -> Load.rate(@callers, div(ms, 2), &in_session(&1, &2, count)) end
          {count, %{id: "cost_s#{count}", label: label}, load}
        end

      costs = costs(carrier, loads, @starts, fn -> fill_anew(carrier) end)
      compared(carrier, costs, 10, @sessions, "sessions")
    end

    # Nothing else is measured with them.
    Pools.stop()
  end

  # Each session was used before it is measured.
  defp fill_anew(carrier) do
    Pools.stop()
    Pools.ensure(carrier, 2)

    1..@callers
    |> Task.async_stream(&fill/1, max_concurrency: @callers, timeout: 300_000)
    |> Stream.run()
  end

  defp fill(caller) do
    for n <- 0..div(@sessions, @callers), do: Load.ok!(in_session(caller, n, @sessions))
    :ok
  end

  defp in_session(caller, n, count),
    do: Load.ping(session_id: "bench-#{rem(n * @callers + caller, count)}")

  defp ping(_caller, _n), do: Load.ping()

  defp workers(carrier, ms, counts) do
    costs =
      for count <- counts do
        Pools.ensure(carrier, count)
        label = "cost of a call, #{@callers} callers, #{count} worker#{if count > 1, do: "s"}"
        load = fn -> Load.rate(@callers, ms, &ping/2) end
        [cost] = costs(carrier, [{count, %{id: "cost_w#{count}", label: label}, load}])
        cost
      end

    compared(carrier, costs, 2, List.last(counts), "workers")
  end

  # Microseconds for each count, and under which conditions.
  defp costs(carrier, loads, starts \\ 1, prepare \\ fn -> :ok end) do
    {rates, conditions} =
      Recorder.measure(fn ->
        1..starts
        |> Enum.flat_map(fn _start ->
          prepare.()
          for _ <- 1..@turns, {count, _named, load} <- loads, do: {count, load.()}
        end)
        |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
      end)

    for {count, named, _load} <- loads do
      cost = 1_000_000 / Stats.median(rates[count])
      figure = %{group: :scale, carrier: carrier, value: cost, unit: :us}
      Recorder.figure(Map.merge(figure, named), conditions)
      {count, {cost, conditions}}
    end
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
