defmodule Bench.Recorder do
  @moduledoc false
  # Runs measurements, repeats those that others disturbed, keeps the figures
  # and tells them as they come.

  use Agent

  alias Bench.{Format, Machine, Stats}

  @tries 3

  @type figure :: %{
          id: String.t(),
          group: atom,
          label: String.t(),
          carrier: :local | :grpc,
          at: map,
          value: number,
          unit: :us | :per_s | :factor | :bytes,
          limit: nil | %{name: String.t(), value: number},
          ratio: float | nil,
          load: map | nil,
          tries: pos_integer,
          disturbed: boolean,
          note: String.t() | nil
        }

  @doc "`repeat_ms` bounds what all repeats together may take."
  @spec start_link(non_neg_integer) :: Agent.on_start()
  def start_link(repeat_ms) do
    Agent.start_link(
      fn -> %{repeat_ms: repeat_ms, figures: [], curves: [], left_out: []} end,
      name: __MODULE__
    )
  end

  @doc "The result of `fun` and how disturbed it was: `{result, conditions}`."
  @spec measure((() -> result), (() -> map | nil)) :: {result, map} when result: term
  def measure(fun, cpu \\ &Machine.cpu/0), do: attempt(fun, cpu, [])

  defp attempt(fun, cpu, former) do
    before = cpu.()
    start = now()
    result = fun.()
    took = now() - start
    load = Stats.load(before, cpu.())
    tries = [{result, load} | former]
    again? = Stats.disturbed?(load) and length(tries) < @tries and may_repeat?(took)

    if again? do
      attempt(fun, cpu, tries)
    else
      {result, load} = Stats.least_disturbed(tries)
      {result, %{load: load, tries: length(tries), disturbed: Stats.disturbed?(load)}}
    end
  end

  defp may_repeat?(took) do
    Agent.get_and_update(__MODULE__, fn state ->
      left = state.repeat_ms - took
      if left >= 0, do: {true, %{state | repeat_ms: left}}, else: {false, state}
    end)
  end

  @doc "Keeps one figure, under the conditions that measure/1 gave."
  @spec figure(map, map) :: :ok
  def figure(figure, conditions) do
    limit = figure[:limit]

    figure =
      %{at: %{}, limit: nil, note: nil}
      |> Map.merge(figure)
      |> Map.merge(conditions)
      |> Map.put(:ratio, limit && Stats.ratio(figure.value, limit.value))

    IO.puts(Format.row(figure))
    Agent.update(__MODULE__, &%{&1 | figures: [figure | &1.figures]})
  end

  @doc "Keeps the points of one line of a plot."
  @spec curve(atom, String.t(), atom, [{number, number}]) :: :ok
  def curve(group, name, carrier, points) do
    curve = %{group: group, name: name, carrier: carrier, points: points}
    Agent.update(__MODULE__, &%{&1 | curves: [curve | &1.curves]})
  end

  @doc "Says what was not measured, and why."
  @spec left_out(String.t(), String.t()) :: :ok
  def left_out(what, why) do
    IO.puts("  left out: #{what}: #{why}")
    Agent.update(__MODULE__, &%{&1 | left_out: [%{what: what, why: why} | &1.left_out]})
  end

  @spec heading(String.t()) :: :ok
  def heading(text), do: IO.puts(["\n", text])

  @spec results() :: %{figures: [figure], curves: [map], left_out: [map]}
  def results do
    Agent.get(__MODULE__, fn state ->
      %{
        figures: Enum.reverse(state.figures),
        curves: state.curves |> Enum.reverse() |> Enum.uniq_by(&{&1.group, &1.name}),
        left_out: Enum.reverse(state.left_out)
      }
    end)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
