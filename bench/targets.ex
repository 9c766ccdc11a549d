defmodule Bench.Targets do
  @moduledoc false
  # What is to be reached, `own` when it is for one carrier. A floor or target is
  # a number, or a function of the figure's limit. `published` is snakepit 0.13 on a machine of this kind, at
  # its best; `peer` the best of the others.

  @type row :: %{
          id: String.t(),
          label: String.t(),
          carrier: atom,
          own: boolean,
          unit: atom,
          value: number,
          limit: nil | map,
          ratio: float | nil,
          floor: number | nil,
          target: number | nil,
          floor_met: boolean | nil,
          target_met: boolean | nil,
          published: number | nil,
          peer: nil | {String.t(), number},
          disturbed: boolean
        }

  defp targets do
    [
      %{
        id: "ping_p50",
        floor: 30,
        target: 10,
        published: 3_200,
        peer: {"erlang_python", 32}
      },
      %{id: "ping_p99", floor: 150, target: 40, published: 6_930, peer: {"erlport", 85}},
      %{
        id: "ping_p50",
        carrier: :grpc,
        floor: 600,
        target: &(1.15 * &1),
        published: 3_200
      },
      %{
        id: "calls_c32_w2",
        floor: 80_000,
        target: 200_000,
        published: 410,
        peer: {"erlport", 43_000}
      },
      %{id: "calls_kept", floor: 0.9, target: 1.0},
      %{id: "sessions_32", floor: 60_000, target: 150_000, published: 395},
      %{id: "stream_chunks", floor: 250_000, target: 500_000, published: 9_300},
      %{id: "stream_first", floor: 1_000, target: 50, published: 3_800},
      %{
        id: "callback_p50",
        floor: 60,
        target: 15,
        published: 635,
        peer: {"erlport", 123}
      },
      %{id: "telemetry_none", floor: 1.05, target: 1.02},
      %{
        id: "echo_1048576",
        floor: &(&1 + 100),
        target: 60,
        published: 41_000,
        peer: {"pythonx", 1_000}
      },
      %{
        id: "echo_16777216",
        floor: & &1,
        target: 80,
        published: 700_000,
        peer: {"pythonx", 16_000}
      },
      %{id: "handover", floor: 300, target: 60},
      %{id: "handover_back", floor: 300, target: 60},
      %{id: "floats", floor: 20_000, target: 6_000, published: 180_000},
      %{id: "deadline", floor: 50_000, target: 5_000},
      %{id: "start_rate", floor: 100 / 3, target: 125, published: 100 / 24.7},
      %{id: "replacement", floor: 250_000, target: 30_000, published: 600_000},
      %{id: "memory", floor: 12.0e6, target: 4.0e6, published: 27.0e6},
      %{id: "cost_workers", floor: 1.5, target: 1.1},
      %{id: "cost_callers", floor: 1.5, target: 1.1},
      %{id: "cost_sessions", floor: 1.3, target: 1.05}
    ]
  end

  @doc """
  One row for each target with a figure. Those that name no carrier are for the
  faster one that the figure was measured with.
  """
  @spec rows([Bench.Recorder.figure()]) :: [row]
  def rows(figures) do
    for target <- targets(),
        carriers = if(target[:carrier], do: [target.carrier], else: [:local, :grpc]),
        figure = Enum.find_value(carriers, &find(figures, target.id, &1)),
        do: row(figure, target)
  end

  defp find(figures, id, carrier),
    do: Enum.find(figures, &(&1.id == id and &1.carrier == carrier))

  defp row(figure, target) do
    limit = figure.limit && figure.limit.value
    floor = bound(target.floor, limit)
    goal = bound(target.target, limit)

    figure
    |> Map.take([:id, :label, :carrier, :unit, :value, :limit, :ratio, :disturbed])
    |> Map.update!(:label, &if(target[:carrier], do: "#{&1}, for #{figure.carrier}", else: &1))
    |> Map.merge(%{
      own: Map.has_key?(target, :carrier),
      floor: floor,
      target: goal,
      floor_met: met?(figure, floor),
      target_met: met?(figure, goal),
      published: target[:published],
      peer: target[:peer]
    })
  end

  defp bound(fun, nil) when is_function(fun), do: nil
  defp bound(fun, limit) when is_function(fun), do: fun.(limit)
  defp bound(number, _limit), do: number

  @doc "Whether a value is as good as a bound: times and costs low, the rest high."
  @spec met?(map, number | nil) :: boolean | nil
  def met?(_figure, nil), do: nil

  def met?(figure, bound),
    do: if(better(figure) == :high, do: figure.value >= bound, else: figure.value <= bound)

  @doc "How many times better than the bound the value is: 1 is as good."
  @spec times_better(map, number) :: float
  def times_better(figure, bound),
    do: if(better(figure) == :high, do: figure.value / bound, else: bound / figure.value)

  @spec better(map) :: :high | :low
  def better(%{id: "calls_kept"}), do: :high
  def better(%{unit: :per_s}), do: :high
  def better(_figure), do: :low
end
