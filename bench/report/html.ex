defmodule Bench.Report.Html do
  @moduledoc false
  # One page that needs nothing else.

  alias Bench.{Format, Targets}
  alias Bench.Report.{Plots, Svg}

  @style """
  :root { color-scheme: light; }
  body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
    color: #1f2328; background: #f6f8fa; margin: 0; }
  main { max-width: 1520px; margin: 0 auto; padding: 28px 24px 60px; }
  h1 { font-size: 26px; margin: 0 0 4px; }
  h2 { font-size: 18px; margin: 34px 0 12px; }
  h3 { font-size: 15px; margin: 0; }
  p { margin: 0; color: #59636e; }
  .facts { display: flex; flex-wrap: wrap; gap: 2px 22px; font-size: 13px; color: #59636e; }
  .facts b { font-weight: 600; color: #1f2328; }
  .tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 0; }
  .tile { background: #fff; border: 1px solid #d9dee3; border-radius: 8px; padding: 10px 18px; }
  .tile b { display: block; font-size: 24px; line-height: 1.25; }
  .tile span { color: #59636e; font-size: 13px; }
  .grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(520px, 1fr)); gap: 16px; }
  .card { background: #fff; border: 1px solid #d9dee3; border-radius: 8px; padding: 14px 16px 8px;
    overflow-x: auto; }
  .card p { font-size: 13px; }
  svg { width: 100%; height: auto; display: block; margin-top: 6px; }
  .wide > svg { max-width: 940px; }
  .key { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 13px; color: #59636e; }
  .key svg { display: inline-block; width: 20px; height: 20px; margin: 0 5px 0 0;
    vertical-align: -5px; }
  table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
  th { text-align: right; font-weight: 600; color: #59636e; font-size: 12.5px;
    border-bottom: 1px solid #b6bec8; padding: 4px 10px; white-space: nowrap; }
  td { text-align: right; padding: 5px 10px; border-bottom: 1px solid #edf0f2;
    font-variant-numeric: tabular-nums; white-space: nowrap; }
  th.l, td.l { text-align: left; }
  td.wrap { white-space: normal; }
  .met { color: #1a7f37; } .missed { color: #b42318; } .soft { color: #59636e; }
  .disturbed { color: #9a6700; }
  ul { margin: 0; padding-left: 20px; color: #1f2328; }
  """

  @spec page(map) :: iodata
  def page(results) do
    rows = Targets.rows(results.figures)

    [
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
      "<meta name=\"viewport\" content=\"width=device-width\">\n",
      "<title>Snakepit bench</title>\n<style>\n",
      @style,
      "</style>\n</head>\n<body>\n<main>\n",
      head(results),
      tiles(results, rows),
      targets(rows),
      plots(results),
      figures(results.figures),
      left_out(results.left_out),
      reading(),
      "</main>\n</body>\n</html>\n"
    ]
  end

  defp head(results) do
    kind = if results.quick, do: "quick run", else: "full run"
    facts = results.facts ++ [{"length", "#{results.seconds} s, #{kind}"}]

    [
      "<h1>Snakepit bench</h1>\n<div class=\"facts\">",
      for({name, text} <- facts, do: "<span><b>#{e(name)}</b> #{e(text)}</span>"),
      "</div>\n"
    ]
  end

  defp tiles(results, rows) do
    floors = Enum.reject(rows, &is_nil(&1.floor_met))
    goals = Enum.reject(rows, &is_nil(&1.target_met))
    disturbed = Enum.count(results.figures, & &1.disturbed)

    tiles = [
      {"#{Enum.count(floors, & &1.floor_met)} of #{length(floors)}", "floors met"},
      {"#{Enum.count(goals, & &1.target_met)} of #{length(goals)}", "targets met"},
      {"#{disturbed} of #{length(results.figures)}", "figures disturbed by other work"}
    ]

    [
      "<div class=\"tiles\">",
      for(
        {number, text} <- tiles,
        do: "<div class=\"tile\"><b>#{number}</b><span>#{text}</span></div>"
      ),
      "</div>\n"
    ]
  end

  # ---- targets ------------------------------------------------------------

  defp targets([]), do: []

  defp targets(rows) do
    [
      "<h2>What was to be reached</h2>\n<div class=\"card wide\">",
      key(),
      Plots.headline(rows),
      "</div>\n<div class=\"card\" style=\"margin-top:16px\"><table>\n<tr>",
      "<th class=\"l\">figure</th><th class=\"l\">carrier</th><th>measured</th>",
      "<th>of its limit</th><th class=\"l\">limit</th><th>floor</th><th>target</th>",
      "<th>0.13</th><th>against 0.13</th><th class=\"l\">best peer</th></tr>\n",
      Enum.map(rows, &target_row/1),
      "</table></div>\n"
    ]
  end

  defp target_row(row) do
    [
      "<tr>",
      cell(row.label, "l wrap"),
      cell("#{row.carrier}", "l"),
      measured(row),
      cell(Format.ratio(row.ratio, row.unit)),
      cell(limit(row), "l soft wrap"),
      bound(row.floor, row.floor_met, row.unit),
      bound(row.target, row.target_met, row.unit),
      cell(Format.value(row.published, row.unit), "soft"),
      cell(against(row)),
      cell(peer(row), "l soft"),
      "</tr>\n"
    ]
  end

  defp measured(figure) do
    mark =
      if figure.disturbed,
        do: "<span class=\"disturbed\" title=\"disturbed by other work\">! </span>",
        else: ""

    ["<td>", mark, "<b>", e(Format.value(figure.value, figure.unit)), "</b></td>"]
  end

  defp bound(nil, _met, _unit), do: cell("–", "soft")

  defp bound(value, met, unit) do
    {class, sign} = if met, do: {"met", "✓"}, else: {"missed", "✗"}
    said = if met, do: "met", else: "not met"

    "<td class=\"#{class}\" title=\"#{said}\">#{e(Format.value(value, unit))} #{sign}</td>"
  end

  defp limit(%{limit: nil}), do: ""
  defp limit(row), do: "#{row.limit.name}, #{Format.value(row.limit.value, row.unit)}"

  defp against(%{published: nil}), do: "–"

  defp against(row) do
    times = Targets.times_better(row, row.published)

    if times >= 1,
      do: "#{Format.short(times)} × better",
      else: "#{Format.short(1 / times)} × worse"
  end

  defp peer(%{peer: nil}), do: ""
  defp peer(%{peer: {name, value}, unit: unit}), do: "#{name} #{Format.value(value, unit)}"

  defp key do
    signs = [
      {Svg.mark(:target, 10, 10, "target"), "target"},
      {Svg.mark(:floor, 10, 10, "floor"), "floor"},
      {Svg.mark(:limit, 10, 10, "limit"), "limit of the machine"},
      {Svg.mark(:published, 10, 10, "0.13"), "published 0.13"},
      {dot("#1f6feb"), "local carrier"},
      {dot("#d9602b"), "gRPC carrier"}
    ]

    [
      "<div class=\"key\">",
      for(
        {sign, text} <- signs,
        do: ["<span><svg viewBox=\"0 0 20 20\">", sign, "</svg>", text, "</span>"]
      ),
      "</div>"
    ]
  end

  defp dot(color), do: "<circle cx=\"10\" cy=\"10\" r=\"6\" fill=\"#{color}\"/>"

  # ---- plots and tables ---------------------------------------------------

  defp plots(results) do
    case Plots.all(results) do
      [] ->
        []

      plots ->
        [
          "<h2>Plots</h2>\n<div class=\"grid\">\n",
          for({title, text, svg} <- plots) do
            ["<div class=\"card\"><h3>", e(title), "</h3><p>", e(text), "</p>", svg, "</div>\n"]
          end,
          "</div>\n"
        ]
    end
  end

  defp figures(figures) do
    [
      "<h2>All figures</h2>\n<div class=\"card\"><table>\n<tr><th class=\"l\">figure</th>",
      "<th class=\"l\">carrier</th><th>measured</th><th>of its limit</th>",
      "<th class=\"l\">limit</th><th>steal</th><th>foreign</th><th>tries</th>",
      "<th class=\"l\">note</th></tr>\n",
      Enum.map(figures, &figure_row/1),
      "</table></div>\n"
    ]
  end

  defp figure_row(figure) do
    class = if figure.disturbed, do: "disturbed", else: ""
    load = figure.load

    [
      "<tr>",
      cell(figure.label, "l"),
      cell("#{figure.carrier}", "l"),
      measured(figure),
      cell(Format.ratio(figure.ratio, figure.unit)),
      cell(limit(figure), "l soft"),
      cell(if(load, do: "#{load.steal} %", else: "–"), class),
      cell(if(load, do: "#{load.foreign} %", else: "–"), class),
      cell("#{figure.tries}"),
      cell(figure.note || "", "l soft"),
      "</tr>\n"
    ]
  end

  defp left_out([]), do: []

  defp left_out(lines) do
    [
      "<h2>Left out</h2>\n<div class=\"card\"><ul>",
      for(%{what: what, why: why} <- lines, do: ["<li>", e(what), ": ", e(why), "</li>"]),
      "</ul></div>\n"
    ]
  end

  defp reading do
    """
    <h2>How to read this</h2>
    <div class="card"><p>Each figure was measured right after its limit, so that their ratio
    holds on a slow machine as well. A time is given as a multiple of its limit, a rate as a part of
    it. Steal is what the host took of the processors meanwhile, foreign what processes had that do
    not belong to the bench, both in percent of all processors. More than 2 % of steal or 5 % of
    foreign work is a disturbance, marked !: the figure is measured again, up to three times, and the least
    disturbed try counts.</p></div>
    """
  end

  defp cell(text, class \\ ""), do: ["<td class=\"", class, "\">", e(text), "</td>"]
  defp e(text), do: Svg.escape(text)
end
