defmodule Bench.Figures.Sessions do
  @moduledoc false
  # 32 callers, each in a session that is bound to its worker.

  alias Bench.{Load, Pools, Raw, Recorder, Stats}

  @sessions 32
  @workers 2
  # As in figures/scale: how fast the machine is changes from second to second.
  @turns 5

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    Pools.ensure(carrier, @workers)
    ms = if ctx.quick, do: 150, else: 500

    {{rates, limit}, conditions} =
      Recorder.measure(fn ->
        rates = for _ <- 1..@turns, do: Load.rate(@sessions, ms, &call/2)
        {rates, Raw.port_rate(@workers, @sessions, ms)}
      end)

    Recorder.figure(
      %{
        id: "sessions_#{@sessions}",
        group: :sessions,
        label: "calls in #{@sessions} strict sessions, #{@workers} workers",
        carrier: carrier,
        at: %{sessions: @sessions, workers: @workers},
        value: Stats.median(rates),
        unit: :per_s,
        limit: %{name: "C programs behind ports", value: limit}
      },
      conditions
    )
  end

  defp call(caller, _n),
    do: Load.ping(session_id: "bench-#{caller}", affinity: :strict_queue)
end
