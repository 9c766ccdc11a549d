defmodule Bench.Figures.Throughput do
  @moduledoc false
  # Calls per second by callers and workers.

  alias Bench.{Load, Pools, Raw, Recorder}

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    ms = if ctx.quick, do: 400, else: 1_000
    {all_workers, all_callers} = grid(ctx)
    if carrier == :grpc, do: grpcio(ms)

    for workers <- all_workers do
      Pools.ensure(carrier, workers)
      points = for callers <- all_callers, do: {callers, one(carrier, workers, callers, ms)}
      if workers == 2, do: kept(carrier, points)
      Recorder.curve(:throughput, "#{carrier}, #{workers}", carrier, own(points))

      if workers == 2, do: Recorder.curve(:throughput, "limit", :limit, limit(points))
    end

    :ok
  end

  # What one worker gives a client that is not ours.
  defp grpcio(ms) do
    Pools.ensure(:grpc, 2)
    {rate, conditions} = Recorder.measure(fn -> Raw.grpcio_rate(32, ms) end)

    Recorder.figure(
      %{
        id: "raw_grpcio_calls",
        group: :limits,
        label: "limit: grpcio, 32 under way, 1 worker",
        carrier: :grpc,
        value: rate,
        unit: :per_s
      },
      conditions
    )
  end

  # 2 workers first: the pool of the figures before.
  defp grid(%{quick: true}), do: {[2, 1], [1, 32, 1024]}
  defp grid(_ctx), do: {[2, 1, 4], [1, 8, 32, 128, 1024]}

  # Whether 1024 callers get as much done as 32.
  defp kept(carrier, points) do
    [{few, _, one}, {many, _, other}] = for n <- [32, 1024], do: found(points, n)

    Recorder.figure(
      %{
        id: "calls_kept",
        group: :throughput,
        label: "calls, 1024 callers by 32, 2 workers",
        carrier: carrier,
        value: many / few,
        unit: :factor
      },
      Enum.max_by([one, other], & &1.disturbed)
    )
  end

  defp found(points, callers), do: points |> List.keyfind!(callers, 0) |> elem(1)

  defp counted(1, word), do: "1 #{word}"
  defp counted(n, word), do: "#{n} #{word}s"

  defp own(points), do: for({callers, {rate, _limit, _}} <- points, do: {callers, rate})
  defp limit(points), do: for({callers, {_rate, limit, _}} <- points, do: {callers, limit})

  defp one(carrier, workers, callers, ms) do
    {{limit, rate}, conditions} =
      Recorder.measure(fn ->
        {Raw.port_rate(workers, callers, div(ms, 2)),
         Load.rate(callers, ms, fn _caller, _n -> Load.ping() end)}
      end)

    Recorder.figure(
      %{
        id: "calls_c#{callers}_w#{workers}",
        group: :throughput,
        label: "calls, #{counted(callers, "caller")}, #{counted(workers, "worker")}",
        carrier: carrier,
        at: %{callers: callers, workers: workers},
        value: rate,
        unit: :per_s,
        limit: %{name: "C programs behind ports", value: limit}
      },
      conditions
    )

    {rate, limit, conditions}
  end
end
