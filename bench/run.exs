# The bench: each figure beside its limit, in one run.
#
#     make bench                (QUICK=1: in a minute)
#     mix run --no-start bench/run.exs [options]
#
#   --quick              fewer points, shorter
#   --only NAME          latency, throughput, sessions, streams, payload, handover, callback,
#                        telemetry, deadlines, concurrency, scale, start or memory; may be
#                        given several times
#   --transport NAME     auto (each that there is), local or grpc
#   --out DIR            for bench.html and bench.json (_build/bench)

modules = ~w(stats format machine recorder pools raw load targets
  figures/latency figures/throughput figures/sessions figures/streams figures/payload
  figures/handover
  figures/callback figures/telemetry figures/deadlines figures/concurrency figures/start
  figures/scale figures/memory
  report/json report/table report/svg report/plots report/html options)

for name <- modules, do: Code.require_file("#{name}.ex", __DIR__)

defmodule Bench do
  alias Bench.{Figures, Machine, Options, Pools, Raw, Recorder, Report}

  # In this order few pools have to be started.
  @groups [
    latency: {"Latency", Figures.Latency},
    sessions: {"Sessions", Figures.Sessions},
    streams: {"Streams", Figures.Streams},
    payload: {"Payloads", Figures.Payload},
    handover: {"Memory that is handed over", Figures.Handover},
    callback: {"Python to Elixir", Figures.Callback},
    telemetry: {"Telemetry", Figures.Telemetry},
    deadlines: {"Deadlines", Figures.Deadlines},
    concurrency: {"Several calls in one process", Figures.Concurrency},
    throughput: {"Throughput", Figures.Throughput},
    scale: {"Scale", Figures.Scale},
    start: {"Start and replacement", Figures.Start},
    memory: {"Memory", Figures.Memory}
  ]

  def main(argv) do
    case Options.parse(argv, Keyword.keys(@groups)) do
      {:ok, options} ->
        run(options)

      {:error, message} ->
        IO.puts(:stderr, message)
        System.halt(2)
    end
  end

  defp run(options) do
    start = System.monotonic_time(:second)
    {:ok, _} = Recorder.start_link(if(options.quick, do: 8_000, else: 120_000))
    Raw.build()
    facts = Machine.facts(Raw.python())
    for {name, text} <- facts, do: IO.puts("#{String.pad_trailing(name, 10)} #{text}")

    try do
      measure(options)
    after
      Pools.stop()
    end

    report(options, facts, System.monotonic_time(:second) - start)
  end

  defp measure(options) do
    carriers = Pools.carriers(options.transport)
    if carriers == [], do: raise("there is nothing to measure: no carrier works")

    for {name, {title, module}} <- @groups, name in options.only, carrier <- carriers do
      Recorder.heading("#{title}, #{carrier}")
      module.run(carrier, options)
    end

    :ok
  end

  defp report(options, facts, seconds) do
    run = %{facts: facts, quick: options.quick, seconds: seconds}
    results = Map.merge(Recorder.results(), run)
    File.mkdir_p!(options.out)
    html = Path.join(options.out, "bench.html")
    json = Path.join(options.out, "bench.json")
    File.write!(html, Report.Html.page(results))
    File.write!(json, Report.Json.text(results))
    IO.puts(["\n", Report.Table.text(results)])
    IO.puts("\n#{seconds} s; #{html} has the plots, #{json} the figures.")
  end
end

# Workers are killed here on purpose.
Logger.configure(level: :critical)
Bench.main(System.argv())
