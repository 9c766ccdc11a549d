for name <- ~w(stats machine format recorder targets options
      report/json report/table report/svg report/plots report/html) do
  Code.require_file("../../bench/#{name}.ex", __DIR__)
end

defmodule Snakepit.BenchReportTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  alias Bench.{Format, Machine, Options, Recorder, Stats, Targets}
  alias Bench.Report.{Html, Json, Plots, Svg, Table}

  describe "percentile/2" do
    test "is a sample, by nearest rank" do
      samples = Enum.shuffle(1..100)
      assert Stats.percentile(samples, 50) == 50
      assert Stats.percentile(samples, 99) == 99
      assert Stats.percentile(samples, 99.9) == 100
      assert Stats.percentile(samples, 0) == 1
      assert Stats.percentile(samples, 100) == 100
    end

    test "of one sample is that sample" do
      for p <- [0, 50, 99.9, 100], do: assert(Stats.percentile([7.5], p) == 7.5)
    end

    test "is never between two samples, and never falls" do
      samples = [3, 1, 1000, 2]
      values = for p <- 0..100, do: Stats.percentile(samples, p)
      assert values == Enum.sort(values)
      assert Enum.uniq(values) == [1, 2, 3, 1000]
    end
  end

  test "a curve leaves out what too few samples cannot say" do
    assert Stats.curve(Enum.to_list(1..100), [0, 50, 99, 99.9]) == [{0, 1}, {50, 50}, {99, 99}]
    assert {99.9, 999} in Stats.curve(Enum.to_list(1..1000))
  end

  test "a ratio needs both its sides" do
    assert Stats.ratio(30, 10) == 3.0
    assert Stats.ratio(30, nil) == nil
    assert Stats.ratio(nil, 10) == nil
    assert Stats.ratio(30, 0) == nil
  end

  describe "disturbance" do
    test "is what others had of the processors" do
      before = cpu(1000, 500, 10, 100)
      later = cpu(1200, 600, 12, 190)
      assert Stats.load(before, later) == %{steal: 1.0, foreign: 5.0}
    end

    test "is never negative, and unknown where nothing can be read" do
      assert Stats.load(cpu(0, 0, 0, 0), cpu(100, 20, 0, 25)) == %{steal: 0.0, foreign: 0.0}
      assert Stats.load(cpu(5, 0, 0, 0), cpu(5, 0, 0, 0)) == nil
      assert Stats.load(nil, nil) == nil
    end

    test "begins above the bounds" do
      refute Stats.disturbed?(%{steal: 2.0, foreign: 5.0})
      assert Stats.disturbed?(%{steal: 2.1, foreign: 0.0})
      assert Stats.disturbed?(%{steal: 0.0, foreign: 5.1})
      refute Stats.disturbed?(nil)
    end

    test "decides between tries, and not their results" do
      tries = [
        {:fast, %{steal: 0.0, foreign: 50.0}},
        {:calm, %{steal: 1.0, foreign: 3.0}},
        {:slow, %{steal: 9.0, foreign: 0.0}}
      ]

      assert {:calm, _load} = Stats.least_disturbed(tries)
    end

    test "is read from the system, where it says" do
      case {File.exists?("/proc/stat"), Machine.cpu(), Machine.cpu()} do
        {true, before, later} ->
          assert before.own > 0
          assert later.total >= before.total
          assert later.own >= before.own

        {false, before, later} ->
          assert {before, later} == {nil, nil}
      end
    end
  end

  describe "measure/2" do
    setup do
      {:ok, counter} = Agent.start_link(fn -> 0 end)
      %{next: fn -> Agent.get_and_update(counter, &{&1 + 1, &1 + 1}) end}
    end

    test "takes what is undisturbed at the first try", %{next: next} do
      start_supervised!({Recorder, 60_000})
      cpu = readings([cpu(0, 0, 0, 0), cpu(100, 10, 0, 10)])

      assert {1, %{tries: 1, disturbed: false, load: %{foreign: +0.0}}} =
               Recorder.measure(next, cpu)
    end

    test "repeats what is disturbed until it is not", %{next: next} do
      start_supervised!({Recorder, 60_000})

      cpu =
        readings([cpu(0, 0, 0, 0), cpu(100, 50, 0, 10), cpu(100, 50, 0, 10), cpu(200, 60, 0, 20)])

      assert {2, %{tries: 2, disturbed: false}} = Recorder.measure(next, cpu)
    end

    test "gives up, and takes the least disturbed", %{next: next} do
      start_supervised!({Recorder, 60_000})
      zero = cpu(0, 0, 0, 0)

      cpu =
        readings([
          zero,
          cpu(100, 90, 0, 0),
          zero,
          cpu(100, 30, 0, 0),
          zero,
          cpu(100, 60, 0, 0)
        ])

      assert {2, %{tries: 3, disturbed: true, load: %{foreign: 30.0}}} =
               Recorder.measure(next, cpu)
    end

    test "does not repeat beyond the time for that" do
      start_supervised!({Recorder, 0})
      cpu = readings([cpu(0, 0, 0, 0), cpu(100, 90, 0, 0)])

      # Longer than nothing: it waits for a clock that has moved on.
      slow = fn -> wait_past(System.monotonic_time(:millisecond) + 2) end
      assert {:ok, %{tries: 1, disturbed: true}} = Recorder.measure(slow, cpu)
    end

    test "keeps figures in their order, with their ratio" do
      start_supervised!({Recorder, 0})
      conditions = %{load: %{steal: 0.0, foreign: 1.0}, tries: 1, disturbed: false}

      shown =
        capture_io(fn ->
          for {label, value} <- [{"one", 30}, {"two", 5}] do
            Recorder.figure(
              %{
                id: label,
                group: :test,
                label: label,
                carrier: :grpc,
                value: value,
                unit: :us,
                limit: %{name: "raw", value: 10}
              },
              conditions
            )
          end
        end)

      assert shown =~ "30.0 µs  3.00 × of 10.0 µs"

      assert [%{label: "one", ratio: 3.0}, %{label: "two", ratio: 0.5}] =
               Recorder.results().figures
    end
  end

  test "numbers are short and have their units" do
    assert Format.value(0.31, :us) == "310 ns"
    assert Format.value(12.34, :us) == "12.3 µs"
    assert Format.value(4_500, :us) == "4.50 ms"
    assert Format.value(2_080_000, :us) == "2.08 s"
    assert Format.value(216_000, :per_s) == "216,000/s"
    assert Format.value(1.25, :factor) == "1.25 ×"
    assert Format.value(nil, :us) == "–"
    assert Format.tick(10_000, :us) == "10 ms"
    assert Format.tick(500, :us) == "500 µs"
    assert Format.ratio(0.5, :per_s) == "50 %"
    assert Format.ratio(2.5, :us) == "2.50 ×"
    assert Format.bytes(64) == "64 B"
    assert Format.bytes(16_777_216) == "16 MiB"
  end

  describe "targets" do
    test "are held against the faster carrier that was measured" do
      figures = [figure("ping_p50", 250.0, carrier: :grpc), figure("ping_p50", 9.0)]
      assert [first, for_grpc] = Targets.rows(figures)
      assert %{carrier: :local, floor_met: true, target_met: true, own: false} = first
      assert %{carrier: :grpc, floor: 600, floor_met: true, own: true} = for_grpc
    end

    test "take the other carrier where the faster one lacks the figure" do
      figures = [figure("ping_p50", 9.0), figure("floats", 90_000.0, carrier: :grpc)]
      assert [%{carrier: :local}, %{id: "floats", carrier: :grpc}] = Targets.rows(figures)
    end

    test "may depend on the limit" do
      limit = %{name: "2 × memcpy", value: 150.0}
      assert [row] = Targets.rows([figure("echo_1048576", 200.0, limit: limit)])
      assert %{floor: 250.0, floor_met: true, target: 60, target_met: false} = row
    end

    test "of rates are met from above, of times from below" do
      assert [%{floor_met: true, target_met: false}] =
               Targets.rows([figure("calls_c32_w2", 100_000.0, unit: :per_s)])

      assert [%{floor_met: false, target_met: false}] =
               Targets.rows([figure("stream_first", 1_001.0)])

      assert [%{floor_met: true, target_met: false}] =
               Targets.rows([figure("calls_kept", 0.95, unit: :factor)])

      assert Targets.times_better(figure("x", 50.0), 100) == 2.0
      assert Targets.times_better(figure("x", 50.0, unit: :per_s), 100) == 0.5
    end

    test "without a figure are not there" do
      assert Targets.rows([]) == []
      assert Targets.rows([figure("no_such_target", 1.0)]) == []
    end
  end

  describe "the report" do
    test "as a page is whole and needs nothing else" do
      page = IO.iodata_to_binary(Html.page(results()))
      assert String.starts_with?(page, "<!DOCTYPE html>")
      assert String.ends_with?(page, "</html>\n")
      refute page =~ ~r/\b(src|href)=|https?:|@import|url\(/
      assert page =~ "2 of 4</b><span>floors met"
      assert page =~ "1 of 4</b><span>figures disturbed"
      assert page =~ "zero copy: not &lt;yet&gt; &amp; so"
      refute page =~ "not <yet>"
      assert page =~ "quick run"
    end

    test "as a page closes what it opens" do
      page = results() |> Html.page() |> IO.iodata_to_binary()
      assert length(Regex.scan(~r/<svg/, page)) > 5

      open =
        for [_, closing, name, single] <- Regex.scan(~r{<(/?)([a-zA-Z]\w*)[^>]*?(/?)>}, page),
            name not in ["meta"],
            single == "",
            reduce: [] do
          open -> nest(open, closing, name)
        end

      assert open == []
    end

    test "has a plot for each family that was measured" do
      titles = for {title, _text, _svg} <- Plots.all(results()), do: title

      assert titles == [
               "One caller",
               "Throughput, grpc",
               "Calls, sessions, streams",
               "Single times"
             ]

      assert Plots.all(%{figures: [], curves: [], left_out: []}) == []
    end

    test "of nothing at all is still a page" do
      empty = %{facts: [], quick: false, seconds: 0, figures: [], curves: [], left_out: []}
      assert IO.iodata_to_binary(Html.page(empty)) =~ "0 of 0</b><span>floors met"
      assert {:ok, %{"figures" => []}} = decoded(empty)
      assert IO.iodata_to_binary(Table.text(empty)) =~ "measured"
    end

    test "as JSON can be read again" do
      assert {:ok, json} = decoded(results())

      assert %{
               "format" => 1,
               "quick" => true,
               "seconds" => 41,
               "machine" => %{"processor" => "a \"fast\" one"},
               "left_out" => [%{"what" => "zero copy", "why" => "not <yet> & so"}]
             } = json

      assert %{
               "id" => "calls_c32_w2",
               "value" => 4000.0,
               "unit" => "per_s",
               "at" => %{"callers" => 32},
               "limit" => %{"name" => "C", "value" => 200_000.0},
               "ratio" => 0.02,
               "foreign_percent" => 30.5,
               "steal_percent" => +0.0,
               "disturbed" => true,
               "tries" => 3,
               "note" => nil
             } = Enum.find(json["figures"], &(&1["id"] == "calls_c32_w2"))

      assert %{"points" => [[0, 200.0], [50, 250.0], [99, 900.0]]} = hd(json["curves"])
      assert Enum.map(json["targets"], & &1["floor_met"]) == [false, true, false, true]
    end

    test "as a table marks what is met, missed and disturbed" do
      lines = results() |> Table.text() |> IO.iodata_to_binary() |> String.split("\n")
      assert Enum.find(lines, &(&1 =~ "for grpc")) =~ ~r/600 µs +met/
      assert Enum.find(lines, &(&1 =~ "calls_c32_w2")) =~ ~r"80,000/s +not met.*!$"
      assert List.last(lines) == "! 1 of 4 figures were disturbed by other work"
    end
  end

  describe "scales" do
    test "map their ends to their ends" do
      axis = %{label: "", scale: :log, format: &inspect/1, range: {1, 1000}}
      scale = Svg.scale(axis, [], {0, 300})
      assert_in_delta scale.at.(1), 0, 1.0e-9
      assert_in_delta scale.at.(10), 100, 1.0e-9
      assert_in_delta scale.at.(1000), 300, 1.0e-9
      assert Enum.map(scale.ticks, &elem(&1, 0)) == [1.0, 10.0, 100.0, 1000.0]
    end

    test "have round ends that hold all values" do
      for values <- [[3.0], [0.04, 7], [99, 101], [1, 1_000_000], [5, 5]] do
        {low, high} = Svg.range(:log, values)
        assert low < Enum.min(values) and high > Enum.max(values)
        scale = Svg.scale(%{label: "", scale: :log, format: &inspect/1}, values, {0, 100})
        assert length(scale.ticks) >= 2
      end
    end

    test "take zeros and single values" do
      scale = Svg.scale(%{label: "", scale: :log, format: &inspect/1}, [0, 10], {0, 100})
      assert scale.at.(0) >= 0
      linear = Svg.scale(%{label: "", format: &inspect/1}, [0], {0, 100})
      assert linear.at.(0) == 0.0
    end
  end

  describe "options" do
    test "have defaults" do
      assert {:ok, %{quick: false, only: [:a, :b], transport: :auto, out: out}} =
               Options.parse([], [:a, :b])

      assert out == Path.expand("_build/bench")
    end

    test "are read" do
      argv = ~w(--quick --only b --transport grpc --out some/where)

      assert Options.parse(argv, [:a, :b]) ==
               {:ok, %{quick: true, only: [:b], transport: :grpc, out: Path.expand("some/where")}}
    end

    test "that are wrong are told" do
      assert {:error, "--only c: it is one of a, b"} = Options.parse(~w(--only c), [:a, :b])

      assert {:error, "--transport pigeon: it is one of auto, local, grpc"} =
               Options.parse(~w(--transport pigeon), [:a])

      assert {:error, "latency: not an option. " <> _} = Options.parse(~w(latency), [:a])
      assert {:error, "--fast: unknown" <> _} = Options.parse(~w(--fast), [:a])
    end
  end

  # ---- fixed input --------------------------------------------------------

  defp results do
    %{
      facts: [{"processor", "a \"fast\" one"}],
      quick: true,
      seconds: 41,
      figures: [
        figure("ping_p50", 250.0,
          carrier: :grpc,
          group: :latency,
          limit: %{name: "grpcio to our worker", value: 300.0}
        ),
        figure("calls_c32_w2", 4000.0,
          carrier: :grpc,
          unit: :per_s,
          at: %{callers: 32},
          limit: %{name: "C", value: 200_000.0},
          load: %{steal: 0.0, foreign: 30.5},
          tries: 3,
          disturbed: true
        ),
        figure("stream_first", 600.0, carrier: :grpc, load: nil),
        figure("raw_port_p50", 9.0, carrier: :grpc)
      ],
      curves: [
        curve(:latency, "execute, grpc", :grpc, [{0, 200.0}, {50, 250.0}, {99, 900.0}]),
        curve(:latency, "C program behind a port", :limit, [{0, 8.0}, {50, 9.0}]),
        curve(:throughput, "grpc, 2", :grpc, [{1, 2000.0}, {32, 4000.0}]),
        curve(:throughput, "limit", :limit, [{1, 20_000.0}, {32, 200_000.0}])
      ],
      left_out: [%{what: "zero copy", why: "not <yet> & so"}]
    }
  end

  defp figure(id, value, overrides \\ []) do
    figure =
      Map.merge(
        %{
          id: id,
          group: :test,
          label: id,
          carrier: :local,
          at: %{},
          value: value,
          unit: :us,
          limit: nil,
          load: %{steal: 0.0, foreign: 0.0},
          tries: 1,
          disturbed: false,
          note: nil
        },
        Map.new(overrides)
      )

    Map.put(figure, :ratio, figure.limit && Stats.ratio(value, figure.limit.value))
  end

  defp curve(group, name, carrier, points),
    do: %{group: group, name: name, carrier: carrier, points: points}

  defp cpu(total, busy, steal, own), do: %{total: total, busy: busy, steal: steal, own: own}

  # One reading after the other.
  defp readings(list) do
    {:ok, agent} = Agent.start_link(fn -> list end)
    fn -> Agent.get_and_update(agent, fn [next | rest] -> {next, rest} end) end
  end

  defp wait_past(time) do
    if System.monotonic_time(:millisecond) > time, do: :ok, else: wait_past(time)
  end

  defp nest(open, "", name), do: [name | open]

  defp nest(open, "/", name) do
    assert [^name | rest] = open
    rest
  end

  defp decoded(results) do
    results |> Json.text() |> IO.iodata_to_binary() |> Snakepit.Native.json_decode()
  end
end
