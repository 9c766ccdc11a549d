defmodule Bench.Figures.Telemetry do
  @moduledoc false
  # What it costs that somebody could listen to calls, and that somebody does.

  alias Bench.{Load, Pools, Recorder, Stats}
  alias Snakepit.Pool.CallEvents

  @executed [:snakepit, :request, :executed]
  @span for what <- [:start, :stop], do: [:snakepit, :grpc_worker, :execute, what]
  @python [:snakepit, :python, :call, :stop]

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    Pools.ensure(carrier, 2)
    ms = if ctx.quick, do: 400, else: 2_000

    # By turns, so that what disturbs one disturbs the others.
    {{times, look}, conditions} = Recorder.measure(fn -> {turns(ms), look()} end)

    idle = Stats.median(times.none)
    one = Stats.median(times.executed)

    figure(
      "telemetry_none",
      "no handler: of a call's time",
      carrier,
      1 + look / idle,
      :factor,
      conditions
    )

    figure(
      "telemetry_cost",
      "a handler of each call: more",
      carrier,
      max(one - idle, 0),
      :us,
      conditions
    )

    for {id, label, samples} <- [
          {"telemetry_off", "execute(\"ping\"), no handler, p50", times.none},
          {"telemetry_one", "execute(\"ping\"), a handler of each call, p50", times.executed},
          {"telemetry_span", "execute(\"ping\"), of its begin and end, p50", times.span},
          {"telemetry_python", "execute(\"ping\"), the same in Python, p50", times.python}
        ],
        do: figure(id, label, carrier, Stats.median(samples), :us, conditions)

    :ok
  end

  defp turns(ms) do
    for _ <- 1..4,
        {who, events} <- [none: [], executed: [@executed], span: @span, python: [@python]],
        reduce: %{} do
      all ->
        samples = listening(events, fn -> Load.sequential(div(ms, 4), &Load.ping/0) end)
        Map.update(all, who, samples, &(samples ++ &1))
    end
  end

  defp listening(events, fun) do
    id = {__MODULE__, make_ref()}
    :ok = Snakepit.Telemetry.attach_many(id, events, fn _, _, _, _ -> :ok end, nil)
    result = fun.()
    _ = Snakepit.Telemetry.detach(id)
    result
  end

  # All that a call does for it while nobody listens, in µs, at the least disturbed:
  # the difference between two calls is far below what can be told apart.
  defp look do
    n = 100_000

    best =
      for _ <- 1..20 do
        start = System.monotonic_time(:nanosecond)
        looked(n)
        watched = System.monotonic_time(:nanosecond) - start
        start = System.monotonic_time(:nanosecond)
        counted(n)
        watched - (System.monotonic_time(:nanosecond) - start)
      end
      |> Enum.min()

    max(best, 0) / n / 1000
  end

  defp looked(0), do: :ok

  defp looked(n) do
    watch = CallEvents.watch(:execute, nil, nil)
    [] = CallEvents.metadata(watch, [])
    looked(n - 1)
  end

  defp counted(0), do: :ok
  defp counted(n), do: counted(n - 1)

  defp figure(id, label, carrier, value, unit, conditions) do
    figure = %{
      id: id,
      group: :telemetry,
      label: label,
      carrier: carrier,
      value: value,
      unit: unit
    }

    Recorder.figure(figure, conditions)
  end
end
