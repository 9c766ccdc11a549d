defmodule Bench.Report.Plots do
  @moduledoc false
  # Which figures go into which plot.

  alias Bench.{Format, Targets}
  alias Bench.Report.Svg

  @colors %{local: "#1f6feb", grpc: "#d9602b"}
  @shades %{
    local: ["#8bb8f8", "#1f6feb", "#0b3d91"],
    grpc: ["#f2b08c", "#d9602b", "#8f3410"]
  }
  @limit "#6e7781"
  @dashes ["2 3", "6 4", "10 4 2 4", "1 5"]

  @doc "Plots with a title and a line of explanation; those without figures are left out."
  @spec all(map) :: [{String.t(), String.t(), iodata}]
  def all(results) do
    [
      latency(results),
      throughput(results, :local),
      throughput(results, :grpc),
      rates(results),
      single_times(results),
      payload(results),
      handover(results),
      crossing(results),
      start(results),
      scale(results, :scale_callers, "callers"),
      scale(results, :scale_workers, "workers")
    ]
    |> Enum.reject(&is_nil/1)
  end

  @doc "All targets on one axis: how far from each."
  @spec headline([Targets.row()]) :: iodata
  def headline(rows) do
    axis = %{
      label: "times as good as the target (1 is the target; right is better)",
      scale: :log,
      format: &factor/1
    }

    rows = for row <- rows, row.target, do: headline_row(row)
    if rows == [], do: [], else: Svg.dots("figures by target", axis, rows)
  end

  defp headline_row(row) do
    as_good = &Targets.times_better(%{row | value: &1}, row.target)
    tip = fn name, value -> "#{name}: #{Format.value(value, row.unit)}" end

    marks =
      [{:target, 1, tip.("target", row.target)}] ++
        if(row.floor, do: [{:floor, as_good.(row.floor), tip.("floor", row.floor)}], else: []) ++
        if row.published,
          do: [{:published, as_good.(row.published), tip.("0.13", row.published)}],
          else: []

    %{
      label: short(row),
      value: as_good.(row.value),
      text: Format.value(row.value, row.unit),
      color: @colors[row.carrier],
      marks: marks
    }
  end

  @names %{
    "ping_p50" => "ping, p50",
    "ping_p99" => "ping, p99",
    "calls_c32_w2" => "calls, 32 callers, 2 workers",
    "calls_kept" => "calls, 1024 callers by 32",
    "sessions_32" => "calls in strict sessions",
    "stream_chunks" => "stream chunks",
    "stream_first" => "first chunk",
    "callback_p50" => "Python to Elixir, p50",
    "echo_1048576" => "1 MiB there and back",
    "echo_16777216" => "16 MiB there and back",
    "handover" => "memory to Python",
    "handover_back" => "memory from Python",
    "floats" => "100,000 floats there and back",
    "start_rate" => "workers ready",
    "replacement" => "replacement of a killed one",
    "memory" => "memory of one more worker",
    "cost_sessions" => "cost, 100,000 sessions by 10",
    "cost_workers" => "cost, many workers by 2",
    "cost_callers" => "cost, 10,000 callers by 32"
  }

  defp short(%{own: true} = row), do: "#{Map.fetch!(@names, row.id)}, for #{row.carrier}"
  defp short(row), do: "#{Map.get(@names, row.id, row.label)} (#{row.carrier})"

  # ---- lines --------------------------------------------------------------

  defp latency(results) do
    percents = [0, 50, 90, 99, 99.9, 99.99]

    x = %{
      label: "percent of the calls that took at most so long",
      format: &"#{percent(&1)} %",
      ticks: for(p <- percents, do: {nines(p), "#{p}"})
    }

    y = %{label: "time there and back", scale: :log, format: &Format.tick(&1, :us)}

    series =
      for series <- series(results, :latency),
          do: %{series | points: for({p, us} <- series.points, do: {nines(p), us})}

    plot(series, "One caller", "execute(\"ping\") and its limits, one call at a time.", x, y)
  end

  defp nines(p), do: -:math.log10(1 - min(p, 99.999) / 100)
  defp percent(nines), do: Float.round(100 * (1 - :math.pow(10, -nines)), 3)

  defp throughput(results, carrier) do
    own =
      for {series, shade} <-
            results.curves
            |> Enum.filter(&(&1.group == :throughput and &1.carrier == carrier))
            |> Enum.map(&{workers(&1.name), &1.points})
            |> Enum.sort()
            |> Enum.zip(shades(carrier)) do
        {workers, points} = series
        %{name: plural(workers, "worker"), color: shade, points: points}
      end

    limit =
      for curve <- results.curves, curve.group == :throughput and curve.carrier == :limit do
        %{name: "limit: 2 C programs", color: @limit, dash: "6 4", points: curve.points}
      end

    x = %{label: "callers", scale: :log, format: &count/1}
    y = %{label: "calls per second", scale: :log, format: &count/1}
    text = "Calls per second of ping over #{carrier}; C programs behind ports as the limit."

    if own != [], do: plot(own ++ limit, "Throughput, #{carrier}", text, x, y)
  end

  defp workers(name), do: name |> String.split(" ") |> List.last() |> String.to_integer()
  defp plural(1, word), do: "1 #{word}"
  defp plural(n, word), do: "#{n} #{word}s"

  defp shades(carrier), do: @shades[carrier]

  defp payload(results) do
    x = %{
      label: "size",
      scale: :log,
      format: &Format.bytes(round(&1)),
      ticks:
        for(n <- [64, 1024, 16_384, 262_144, 4_194_304, 67_108_864], do: {n, Format.bytes(n)})
    }

    y = %{label: "time there and back", scale: :log, format: &Format.tick(&1, :us)}

    results
    |> series(:payload)
    |> plot("Bytes there and back", "A binary to a tool that gives it back.", x, y)
  end

  defp handover(results) do
    y = %{label: "time of one way", scale: :log, format: &Format.tick(&1, :us)}

    results
    |> series(:handover)
    |> plot(
      "Memory that is handed over",
      "Until a tool has it, or the caller; copying it, and JSON and pickles through a pipe, beside.",
      sizes([1024, 65_536, 1_048_576, 16_777_216, 268_435_456]),
      y
    )
  end

  defp crossing(results) do
    y = %{label: "time of a call, best tenth", scale: :log, format: &Format.tick(&1, :us)}

    results
    |> series(:crossing)
    |> plot(
      "From where on segments pay",
      "The same binaries in the message and by segment; the threshold lies where the lines cross.",
      sizes([4096, 16_384, 65_536, 262_144, 1_048_576]),
      y
    )
  end

  defp sizes(ticks) do
    %{
      label: "size",
      scale: :log,
      format: &Format.bytes(round(&1)),
      ticks: for(n <- ticks, do: {n, Format.bytes(n)})
    }
  end

  defp start(results) do
    x = %{label: "milliseconds since the application was started", format: &count/1}
    y = %{label: "workers ready", format: &count/1}

    results
    |> series(:start)
    |> Enum.map(&Map.put(&1, :step, true))
    |> plot("Workers from nothing", "How many were ready when.", x, y)
  end

  defp scale(results, group, what) do
    x = %{label: what, scale: :log, format: &count/1}
    series = series(results, group)
    most = series |> Enum.flat_map(& &1.points) |> Enum.map(&elem(&1, 1)) |> Enum.max(fn -> 1 end)

    y = %{
      label: "time of the machine per call",
      format: &Format.tick(&1, :us),
      range: {0, most * 1.15}
    }

    plot(series, "Cost by #{what}", "The time between two answers, all of them busy.", x, y)
  end

  defp series(results, group) do
    {limits, own} =
      results.curves
      |> Enum.filter(&(&1.group == group))
      |> Enum.split_with(&(&1.carrier == :limit))

    own = for curve <- own, do: %{name: curve.name, color: color(curve), points: curve.points}

    limits =
      for {curve, dash} <- Enum.zip(limits, Stream.cycle(@dashes)),
          do: %{name: curve.name, color: @limit, dash: dash, points: curve.points}

    own ++ limits
  end

  defp color(curve), do: Map.fetch!(@colors, curve.carrier)

  defp plot([], _title, _text, _x, _y), do: nil
  defp plot(series, title, text, x, y), do: {title, text, Svg.lines(title, x, y, series)}

  # ---- dots ---------------------------------------------------------------

  defp rates(results) do
    axis = %{label: "per second", scale: :log, format: &count/1}
    ids = ["calls_c32_w2", "sessions_32", "stream_chunks"]

    dots(
      results,
      ids,
      axis,
      "Calls, sessions, streams",
      "32 callers, 32 strict sessions, one stream."
    )
  end

  defp single_times(results) do
    axis = %{label: "time", scale: :log, format: &Format.tick(&1, :us)}
    ids = ["stream_first", "callback_p50", "floats", "replacement"]
    dots(results, ids, axis, "Single times", "Medians; a replacement is from kill to answer.")
  end

  defp dots(results, ids, axis, title, text) do
    targets = Targets.rows(results.figures)

    rows =
      for id <- ids, figure <- results.figures, figure.id == id do
        %{
          label: short(figure),
          value: figure.value,
          text: Format.value(figure.value, figure.unit),
          color: @colors[figure.carrier],
          marks: marks(figure, Enum.find(targets, &(&1.id == id)))
        }
      end

    if rows != [], do: {title, text, Svg.dots(title, axis, rows)}
  end

  defp marks(figure, target) do
    bounds = target || %{floor: nil, target: nil, published: nil}

    for {kind, name, value} <- [
          {:published, "0.13", bounds.published},
          {:limit, figure.limit && figure.limit.name, figure.limit && figure.limit.value},
          {:floor, "floor", bounds.floor},
          {:target, "target", bounds.target}
        ],
        value != nil,
        do: {kind, value, "#{name}: #{Format.value(value, figure.unit)}"}
  end

  defp factor(n) when n >= 1, do: "#{count(n)} ×"
  defp factor(n), do: "1/#{Format.commas(round(1 / n))}"

  defp count(n) when n >= 1_000_000, do: "#{trim(n / 1_000_000)} M"
  defp count(n) when n >= 10_000, do: "#{trim(n / 1000)} k"
  defp count(n), do: trim(n)

  defp trim(n) do
    rounded = Float.round(n / 1, 1)
    if rounded == trunc(rounded), do: Format.commas(trunc(rounded)), else: "#{rounded}"
  end
end
