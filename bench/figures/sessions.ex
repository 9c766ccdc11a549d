defmodule Bench.Figures.Sessions do
  @moduledoc false
  # 32 callers, each in a session that is bound to its worker.

  alias Bench.{Load, Pools, Raw, Recorder}

  @sessions 32
  @workers 2

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    Pools.ensure(carrier, @workers)
    ms = if ctx.quick, do: 500, else: 1_500

    {{limit, rate}, conditions} =
      Recorder.measure(fn ->
        {Raw.port_rate(@workers, @sessions, div(ms, 2)), Load.rate(@sessions, ms, &call/2)}
      end)

    Recorder.figure(
      %{
        id: "sessions_#{@sessions}",
        group: :sessions,
        label: "calls in #{@sessions} strict sessions, #{@workers} workers",
        carrier: carrier,
        at: %{sessions: @sessions, workers: @workers},
        value: rate,
        unit: :per_s,
        limit: %{name: "C programs behind ports", value: limit}
      },
      conditions
    )
  end

  defp call(caller, _n),
    do: Load.ping(session_id: "bench-#{caller}", affinity: :strict_queue)
end
