defmodule Bench.Format do
  @moduledoc false
  # Figures as people read them.

  @spec value(number | nil, :us | :per_s | :factor | :bytes) :: String.t()
  def value(nil, _unit), do: "–"
  def value(us, :us) when us < 1, do: "#{round(us * 1000)} ns"
  def value(us, :us) when us < 1_000, do: "#{short(us)} µs"
  def value(us, :us) when us < 1_000_000, do: "#{short(us / 1_000)} ms"
  def value(us, :us), do: "#{short(us / 1_000_000)} s"
  def value(rate, :per_s), do: "#{short(rate)}/s"
  def value(bytes, :bytes), do: "#{short(bytes / 1_000_000)} MB"
  def value(factor, :factor), do: "#{decimals(factor, 2)} ×"

  @doc "The same for round values, without zeros that say nothing."
  @spec tick(number, :us | :per_s | :factor | :bytes) :: String.t()
  def tick(number, unit) do
    number
    |> value(unit)
    |> String.replace(~r/\.0+(?= )/, "")
    |> String.replace(~r/(\.\d)0 /, "\\1 ")
  end

  @doc "Three digits, thousands with commas."
  @spec short(number) :: String.t()
  def short(number) when number >= 100, do: number |> round() |> commas()
  def short(number) when number >= 10, do: decimals(number, 1)
  def short(number), do: decimals(number, 2)

  @spec bytes(pos_integer) :: String.t()
  def bytes(n) when n >= 1_048_576, do: "#{div(n, 1_048_576)} MiB"
  def bytes(n) when n >= 1024, do: "#{div(n, 1024)} KiB"
  def bytes(n), do: "#{n} B"

  @doc "A ratio to a limit: a time is a multiple, a rate a part of it."
  @spec ratio(float | nil, atom) :: String.t()
  def ratio(nil, _unit), do: "–"
  def ratio(ratio, :per_s) when ratio < 0.095, do: "#{decimals(100 * ratio, 1)} %"
  def ratio(ratio, :per_s), do: "#{round(100 * ratio)} %"
  def ratio(ratio, _unit), do: "#{short(ratio)} ×"

  @doc "Steal and foreign load, and how often it was tried."
  @spec conditions(map) :: String.t()
  def conditions(%{load: nil}), do: "–"

  def conditions(%{load: load} = figure) do
    tries = if figure.tries > 1, do: ", #{figure.tries} tries", else: ""
    mark = if figure.disturbed, do: " !", else: ""
    "steal #{load.steal} % foreign #{load.foreign} %#{tries}#{mark}"
  end

  @doc "One line of the table on the terminal."
  @spec row(map) :: String.t()
  def row(figure) do
    limit =
      case figure.limit do
        nil -> ""
        limit -> "#{ratio(figure.ratio, figure.unit)} of #{value(limit.value, figure.unit)}"
      end

    note = if figure.note, do: " (#{figure.note})", else: ""

    [
      "  ",
      String.pad_trailing("#{figure.carrier}", 6),
      String.pad_trailing(figure.label, 44),
      String.pad_leading(value(figure.value, figure.unit), 12),
      "  ",
      String.pad_trailing(limit, 24),
      conditions(figure),
      note
    ]
    |> IO.iodata_to_binary()
    |> String.trim_trailing()
  end

  @spec commas(integer) :: String.t()
  def commas(n) do
    n
    |> Integer.to_string()
    |> String.replace(~r/(?<=\d)(?=(\d{3})+$)/, ",")
  end

  defp decimals(number, n), do: :erlang.float_to_binary(number / 1, decimals: n)
end
