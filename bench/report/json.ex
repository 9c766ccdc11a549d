defmodule Bench.Report.Json do
  @moduledoc false
  # All that was measured, for programs: times in microseconds.

  alias Bench.Targets

  @spec text(map) :: iodata
  def text(results) do
    [
      encode(
        [
          {"format", 1},
          {"machine", Enum.to_list(results.facts)},
          {"quick", results.quick},
          {"seconds", results.seconds},
          {"targets", Enum.map(Targets.rows(results.figures), &target/1)},
          {"figures", Enum.map(results.figures, &figure/1)},
          {"curves", Enum.map(results.curves, &curve/1)},
          {"left_out", Enum.map(results.left_out, &[{"what", &1.what}, {"why", &1.why}])}
        ],
        ""
      ),
      "\n"
    ]
  end

  defp figure(figure) do
    [
      {"id", figure.id},
      {"group", figure.group},
      {"label", figure.label},
      {"carrier", figure.carrier},
      {"at", figure.at |> Enum.sort() |> Enum.map(fn {k, v} -> {to_string(k), v} end)},
      {"value", figure.value},
      {"unit", figure.unit},
      {"limit", figure.limit && [{"name", figure.limit.name}, {"value", figure.limit.value}]},
      {"ratio", figure.ratio},
      {"steal_percent", figure.load && figure.load.steal},
      {"foreign_percent", figure.load && figure.load.foreign},
      {"tries", figure.tries},
      {"disturbed", figure.disturbed},
      {"note", figure.note}
    ]
  end

  defp target(row) do
    for key <- ~w(id carrier value unit floor target floor_met target_met published)a,
        do: {Atom.to_string(key), Map.fetch!(row, key)}
  end

  defp curve(curve) do
    [
      {"group", curve.group},
      {"name", curve.name},
      {"carrier", curve.carrier},
      {"points", Enum.map(curve.points, fn {x, y} -> {:flat, [x, y]} end)}
    ]
  end

  # Objects are lists of pairs with text keys, so that they keep their order.
  defp encode([{key, _} | _] = pairs, indent) when is_binary(key) do
    lines = for {key, value} <- pairs, do: [string(key), ": ", encode(value, indent <> "  ")]
    block("{", lines, "}", indent)
  end

  defp encode([], _indent), do: "[]"

  defp encode(list, indent) when is_list(list),
    do: block("[", Enum.map(list, &encode(&1, indent <> "  ")), "]", indent)

  defp encode({:flat, list}, _indent),
    do: ["[", list |> Enum.map(&encode(&1, "")) |> Enum.intersperse(", "), "]"]

  defp encode(nil, _indent), do: "null"
  defp encode(value, _indent) when is_boolean(value), do: Atom.to_string(value)
  defp encode(value, _indent) when is_integer(value), do: Integer.to_string(value)
  defp encode(value, _indent) when is_float(value), do: Float.to_string(Float.round(value, 4))
  defp encode(value, indent) when is_atom(value), do: encode(Atom.to_string(value), indent)
  defp encode(value, _indent) when is_binary(value), do: string(value)

  defp block(open, lines, close, indent) do
    inner = Enum.intersperse(lines, [",\n", indent, "  "])
    [open, "\n", indent, "  ", inner, "\n", indent, close]
  end

  defp string(text) do
    escaped =
      for <<char::utf8 <- text>>, into: "" do
        case char do
          ?" -> "\\\""
          ?\\ -> "\\\\"
          ?\n -> "\\n"
          c when c < 0x20 -> "\\u" <> String.pad_leading(Integer.to_string(c, 16), 4, "0")
          c -> <<c::utf8>>
        end
      end

    [?", escaped, ?"]
  end
end
