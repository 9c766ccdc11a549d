defmodule Bench.Report.Svg do
  @moduledoc false
  # Two kinds of plot as SVG text: lines, and rows of dots on one axis.

  @ink "#1f2328"
  @soft "#59636e"
  @grid "#e4e8ec"
  @axis "#b6bec8"
  @width 720

  @type axis :: %{
          required(:label) => String.t(),
          required(:format) => (number -> String.t()),
          optional(:scale) => :log | :linear,
          optional(:ticks) => [{number, String.t()}],
          optional(:range) => {number, number}
        }

  @doc "Escapes text for HTML and SVG."
  @spec escape(String.t()) :: String.t()
  def escape(text) do
    text
    |> String.replace("&", "&amp;")
    |> String.replace("<", "&lt;")
    |> String.replace(">", "&gt;")
    |> String.replace("\"", "&quot;")
  end

  # ---- lines --------------------------------------------------------------

  @doc """
  Series are `%{name, color, points: [{x, y}]}`, with `dash: "4 3"` and
  `step: true` as they are wanted. Names stand at the ends of the lines.
  """
  @spec lines(String.t(), axis, axis, [map]) :: iodata
  def lines(title, x_axis, y_axis, series) do
    points = Enum.flat_map(series, & &1.points)
    height = 360
    longest = series |> Enum.map(&String.length(&1.name)) |> Enum.max(fn -> 0 end)
    box = %{left: 84, right: @width - 40 - 7 * longest, top: 16, bottom: height - 44}
    x = scale(x_axis, Enum.map(points, &elem(&1, 0)), {box.left, box.right})
    y = scale(y_axis, Enum.map(points, &elem(&1, 1)), {box.bottom, box.top})

    svg(title, height, [
      horizontal_grid(y, box),
      vertical_grid(x, box),
      axis_labels(x_axis, y_axis, box),
      Enum.map(series, &line(&1, x, y, x_axis, y_axis)),
      series |> ends(x, y, box) |> Enum.map(&end_label(&1, box))
    ])
  end

  defp line(series, x, y, x_axis, y_axis) do
    at = for {a, b} <- series.points, do: {x.at.(a), y.at.(b), a, b}
    dash = if series[:dash], do: ~s( stroke-dasharray="#{series.dash}"), else: ""
    path = path(at, series[:step] || false)

    [
      ~s(<path d="#{path}" fill="none" stroke="#{series.color}" stroke-width="2" ),
      ~s(stroke-linejoin="round"#{dash}/>),
      for {px, py, a, b} <- at do
        tip = "#{series.name}: #{x_axis.format.(a)}, #{y_axis.format.(b)}"

        ~s(<circle cx="#{n(px)}" cy="#{n(py)}" r="3" fill="#{series.color}" stroke="#fff" ) <>
          ~s(stroke-width="1"><title>#{escape(tip)}</title></circle>)
      end
    ]
  end

  defp path([{x, y, _, _} | rest], step?) do
    start = "M#{n(x)} #{n(y)}"

    Enum.reduce(rest, start, fn {x, y, _, _}, path ->
      if step?, do: "#{path}H#{n(x)}V#{n(y)}", else: "#{path}L#{n(x)} #{n(y)}"
    end)
  end

  # Labels keep their order and a line's height between them.
  defp ends(series, x, y, box) do
    series
    |> Enum.map(fn one ->
      {a, b} = List.last(one.points)
      %{name: one.name, color: one.color, dash: one[:dash], x: x.at.(a), y: y.at.(b)}
    end)
    |> Enum.sort_by(& &1.y)
    |> Enum.map_reduce(box.top - 10, fn one, above ->
      place = max(one.y, above + 17)
      {Map.put(one, :place, place), place}
    end)
    |> elem(0)
    |> fit(box.bottom + 4)
  end

  # Those that were pushed below the plot push back.
  defp fit(labels, bottom) do
    labels
    |> Enum.reverse()
    |> Enum.map_reduce(bottom + 17, fn one, below ->
      place = min(one.place, below - 17)
      {%{one | place: place}, place}
    end)
    |> elem(0)
  end

  defp end_label(one, box) do
    left = box.right + 8
    dash = if one.dash, do: ~s( stroke-dasharray="#{one.dash}"), else: ""

    [
      ~s(<path d="M#{n(one.x + 4)} #{n(one.y)}L#{left} #{n(one.place)}" fill="none" ),
      ~s(stroke="#{@grid}" stroke-width="1"/>),
      ~s(<path d="M#{left} #{n(one.place)}h14" stroke="#{one.color}" stroke-width="2.5"#{dash}/>),
      text(left + 19, one.place + 4, one.name, "start", 12, @ink)
    ]
  end

  defp horizontal_grid(y, box) do
    for {value, label} <- y.ticks do
      at = n(y.at.(value))

      [
        ~s(<path d="M#{box.left} #{at}H#{box.right}" stroke="#{@grid}"/>),
        text(box.left - 8, y.at.(value) + 4, label, "end", 11, @soft)
      ]
    end
  end

  defp vertical_grid(x, box) do
    [
      for {value, label} <- x.ticks do
        at = n(x.at.(value))

        [
          ~s(<path d="M#{at} #{box.top}V#{box.bottom}" stroke="#{@grid}"/>),
          text(x.at.(value), box.bottom + 16, label, "middle", 11, @soft)
        ]
      end,
      ~s(<path d="M#{box.left} #{box.bottom}H#{box.right}" stroke="#{@axis}"/>)
    ]
  end

  defp axis_labels(x_axis, y_axis, box) do
    middle = (box.top + box.bottom) / 2

    [
      text((box.left + box.right) / 2, box.bottom + 36, x_axis.label, "middle", 12, @soft),
      ~s(<text transform="translate(13 #{n(middle)}\) rotate(-90\)" text-anchor="middle" ),
      ~s(font-size="12" fill="#{@soft}">#{escape(y_axis.label)}</text>)
    ]
  end

  # ---- dots ---------------------------------------------------------------

  @doc """
  Rows are `%{label, value, text, color, marks: [{kind, value, tip}]}`, kinds
  `:floor`, `:target`, `:limit` and `:published`.
  """
  @spec dots(String.t(), axis, [map]) :: iodata
  def dots(title, axis, rows) do
    left = 268
    right = @width - 110
    row_height = 30
    box = %{left: left, right: right, top: 10, bottom: 10 + row_height * length(rows)}
    values = Enum.flat_map(rows, &[&1.value | Enum.map(&1.marks, fn mark -> elem(mark, 1) end)])
    x = scale(axis, values, {left, right})

    svg(title, box.bottom + 44, [
      vertical_grid(x, box),
      text((left + right) / 2, box.bottom + 36, axis.label, "middle", 12, @soft),
      rows
      |> Enum.with_index()
      |> Enum.map(fn {row, i} -> dot_row(row, box.top + row_height * (i + 0.5), x, box) end)
    ])
  end

  defp dot_row(row, y, x, box) do
    [
      text(box.left - 12, y + 4, row.label, "end", 12, @ink),
      ~s(<path d="M#{box.left} #{n(y)}H#{box.right}" stroke="#{@grid}"/>),
      for({kind, value, tip} <- row.marks, do: mark(kind, x.at.(value), y, tip)),
      ~s(<circle cx="#{n(x.at.(row.value))}" cy="#{n(y)}" r="6" fill="#{row.color}" ),
      ~s(stroke="#fff" stroke-width="1.5"><title>#{escape(row.label <> ": " <> row.text)}</title>),
      "</circle>",
      text(box.right + 12, y + 4, row.text, "start", 12, @ink)
    ]
  end

  @doc "The sign of one kind of mark, at a place."
  @spec mark(atom, number, number, String.t()) :: iodata
  def mark(kind, x, y, tip) do
    shape =
      case kind do
        :floor ->
          ~s(<path d="M#{n(x)} #{n(y - 9)}v18" stroke="#{@soft}" stroke-width="2">)

        :target ->
          ~s(<path d="M#{n(x)} #{n(y - 8)}l7 8l-7 8l-7 -8z" fill="#fff" ) <>
            ~s(stroke="#1a7f37" stroke-width="2">)

        :limit ->
          ~s(<circle cx="#{n(x)}" cy="#{n(y)}" r="4.5" fill="#fff" stroke="#{@soft}" ) <>
            ~s(stroke-width="1.5">)

        :published ->
          ~s(<path d="M#{n(x - 4)} #{n(y - 4)}l8 8m0 -8l-8 8" stroke="#{@soft}" ) <>
            ~s(stroke-width="1.5">)
      end

    tag = shape |> String.split(" ", parts: 2) |> hd() |> String.trim_leading("<")
    [shape, "<title>", escape(tip), "</title></", tag, ">"]
  end

  # ---- scales -------------------------------------------------------------

  @doc "From values to places: `at`, and the `ticks` of the axis."
  @spec scale(map, [number], {number, number}) :: %{at: (number -> float), ticks: list}
  def scale(axis, values, {from, to}) do
    kind = axis[:scale] || :linear
    values = if kind == :log, do: Enum.filter(values, &(&1 > 0)), else: values
    {low, high} = axis[:range] || range(kind, values)
    transform = if kind == :log, do: &:math.log10(max(&1, low) / 1), else: &(&1 / 1)
    {a, b} = {transform.(low), transform.(high)}
    span = if b == a, do: 1.0, else: b - a

    ticks = axis[:ticks] || for v <- ticks(kind, low, high), do: {v, axis.format.(v)}

    %{
      at: fn value -> from + (transform.(value) - a) / span * (to - from) end,
      ticks: Enum.filter(ticks, fn {v, _} -> v >= low and v <= high end)
    }
  end

  @doc "A range with round ends around all values."
  @spec range(:log | :linear, [number]) :: {number, number}
  def range(_kind, []), do: {1, 10}

  def range(:log, values) do
    low = round_down(Enum.min(values) * 0.85)
    high = round_up(Enum.max(values) * 1.15)
    {low, high}
  end

  def range(:linear, values), do: {min(0, Enum.min(values)), Enum.max(values) * 1.05 + 1.0e-9}

  @steps [1, 2, 5]

  defp round_down(value) do
    decade = decade(value)
    @steps |> Enum.map(&(&1 * decade)) |> Enum.filter(&(&1 <= value * 1.000001)) |> Enum.max()
  end

  defp round_up(value) do
    decade = decade(value)

    [1, 2, 5, 10]
    |> Enum.map(&(&1 * decade))
    |> Enum.filter(&(&1 >= value * 0.999999))
    |> Enum.min()
  end

  defp decade(value), do: :math.pow(10, Float.floor(:math.log10(value / 1)))

  defp ticks(:log, low, high) do
    decades = :math.log10(high / low)
    first = trunc(Float.floor(:math.log10(low / 1)))
    last = trunc(Float.ceil(:math.log10(high / 1)))
    steps = if decades <= 2.5, do: @steps, else: [1]
    every = if decades > 8, do: 2, else: 1

    for power <- first..last,
        rem(power, every) == 0,
        step <- steps,
        value = step * :math.pow(10, power),
        value >= low * 0.999 and value <= high * 1.001,
        do: min(max(value, low), high)
  end

  defp ticks(:linear, low, high) do
    step = Enum.find([1, 2, 5], 10, &(&1 * decade((high - low) / 5) >= (high - low) / 6))
    step = step * decade((high - low) / 5)
    first = trunc(Float.ceil(low / step))
    last = trunc(Float.floor(high / step))
    for i <- first..last//1, do: i * step
  end

  # ---- text ---------------------------------------------------------------

  defp svg(title, height, inner) do
    [
      ~s(<svg viewBox="0 0 #{@width} #{height}" role="img" aria-label="#{escape(title)}" ),
      ~s(font-family="inherit">),
      inner,
      "</svg>\n"
    ]
  end

  defp text(x, y, content, anchor, size, color) do
    ~s(<text x="#{n(x)}" y="#{n(y)}" text-anchor="#{anchor}" font-size="#{size}" ) <>
      ~s(fill="#{color}">#{escape(content)}</text>)
  end

  defp n(number), do: :erlang.float_to_binary(number / 1, decimals: 1)
end
