defmodule Bench.Figures.Callback do
  @moduledoc false
  # Python calls an Elixir function, again and again within one call.

  alias Bench.{Load, Pools, Raw, Recorder, Stats}
  alias Snakepit.Bridge.ToolRegistry

  @session "bench-callback"
  @tool "bench_nothing"
  @what "Python to Elixir"

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    Pools.ensure(carrier, 2)
    ms = if ctx.quick, do: 500, else: 2_000

    with :ok <- register(), {:ok, [_ | _]} <- times(1) do
      measured(carrier, ms)
    else
      {:error, error} -> Recorder.left_out("#{@what} (#{carrier})", reason(error))
    end
  end

  defp register do
    ToolRegistry.register_elixir_tool(@session, @tool, fn _ -> true end, %{
      exposed_to_python: true
    })
  end

  defp times(ms) do
    args = %{name: @tool, warm_up: 5, budget_ms: ms}
    Snakepit.execute("time_elixir_tool", args, Load.patient(session_id: @session))
  end

  defp measured(carrier, ms) do
    {{limit, times}, conditions} =
      Recorder.measure(fn -> {Raw.port(div(ms, 4)), Load.ok!(times(ms))} end)

    times = Enum.map(times, &(&1 / 1000))

    Recorder.figure(
      %{
        id: "callback_p50",
        group: :callback,
        label: "Python calls an Elixir tool, p50",
        carrier: carrier,
        value: Stats.median(times),
        unit: :us,
        limit: %{name: "C program behind a port", value: Stats.median(limit)}
      },
      conditions
    )
  end

  defp reason(%{__exception__: true} = error),
    do: error |> Exception.message() |> String.split("\n") |> hd()

  defp reason(other), do: inspect(other)
end
