defmodule Bench.Report.Table do
  @moduledoc false
  # What was to be reached, for the terminal.

  alias Bench.{Format, Targets}

  @heads ["", "", "measured", "of its limit", "floor", "", "target", "", "0.13", ""]

  @spec text(map) :: iodata
  def text(results) do
    rows = [@heads | results.figures |> Targets.rows() |> Enum.map(&cells/1)]
    widths = rows |> Enum.zip_with(&column/1)

    lines =
      for row <- rows do
        row |> Enum.zip(widths) |> Enum.with_index() |> Enum.map_join("  ", &padded/1)
      end

    disturbed = Enum.count(results.figures, & &1.disturbed)

    [
      Enum.map_intersperse(lines, "\n", &String.trim_trailing/1),
      if(disturbed > 0,
        do: "\n! #{disturbed} of #{length(results.figures)} figures were disturbed by other work",
        else: ""
      )
    ]
  end

  defp column(cells), do: cells |> Enum.map(&String.length/1) |> Enum.max()

  # Words to the left, numbers to the right.
  defp padded({{cell, width}, index}) when index in [0, 1, 5, 7, 9],
    do: String.pad_trailing(cell, width)

  defp padded({{cell, width}, _index}), do: String.pad_leading(cell, width)

  defp cells(row) do
    [
      row.label,
      "#{row.carrier}",
      Format.value(row.value, row.unit),
      Format.ratio(row.ratio, row.unit),
      Format.value(row.floor, row.unit),
      mark(row.floor_met),
      Format.value(row.target, row.unit),
      mark(row.target_met),
      Format.value(row.published, row.unit),
      if(row.disturbed, do: "!", else: "")
    ]
  end

  defp mark(true), do: "met"
  defp mark(false), do: "not met"
  defp mark(nil), do: ""
end
