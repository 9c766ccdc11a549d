defmodule Snakepit.Test.ValuePools do
  @moduledoc false
  import ExUnit.Assertions
  import Snakepit.Test.Pools

  def start(env \\ [], settings \\ []) do
    settings =
      Keyword.merge(
        [
          adapter_args: ["--adapter", "snakepit_value_tools.ValueTools"],
          adapter_env: test_env() ++ env
        ],
        settings
      )

    start_pools(settings)
    :ok
  end

  # Decimals as structs, though the library is not there.
  def decimals do
    :ok = Snakepit.Native.build_decimals(true)
    ExUnit.Callbacks.on_exit(fn -> Snakepit.Native.build_decimals(false) end)
  end

  def run(tool, args) do
    assert {:ok, result} = Snakepit.execute(tool, args)
    result
  end

  def echo(value), do: run("echo", %{value: value})
  def show(value), do: run("show", %{value: value})
  def make(name), do: run("make", %{name: name})
end

defmodule Snakepit.ValuesTest do
  # With Snakepit.Test.Pools, over each carrier.
  use ExUnit.Case, async: false

  import Snakepit.Test.Terms
  import Snakepit.Test.ValuePools

  alias Snakepit.Error

  setup_all do
    start()
  end

  for kind <- [:integer, :big, :float, :text, :bytes, nil, :tuple, :list, :map, :any_map, :set] do
    test "round trip: #{inspect(kind)}" do
      for values <- Enum.chunk_every(terms(unquote(kind), 400, 1), 40),
          do: assert(echo(values) === values)
    end
  end

  test "round trip: any, each by itself" do
    for value <- terms(:any, 200, 2), do: assert(echo(value) === value)
  end

  test "round trip: decimals" do
    decimals()
    for decimal <- terms(:decimal, 200, 3), do: assert(echo(decimal) === decimal)
  end

  test "empty containers" do
    empty = [[], {}, %{}, MapSet.new(), "", [[]], {{}}, %{{} => %{}}, MapSet.new([MapSet.new()])]
    for value <- empty, do: assert(echo(value) === value)
  end

  test "dates arrive as such and come back as text, as published" do
    for {value, shown, text} <- [
          {~D[2024-02-29], "datetime.date(2024, 2, 29)", "2024-02-29"},
          {~T[01:02:03.004], "datetime.time(1, 2, 3, 4000)", "01:02:03.004000"},
          {~N[2024-01-02 03:04:05], "datetime.datetime(2024, 1, 2, 3, 4, 5)",
           "2024-01-02T03:04:05"},
          {~U[2024-01-02 03:04:05Z],
           "datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)",
           "2024-01-02T03:04:05+00:00"}
        ] do
      assert show(value) == shown
      assert echo(value) == text
    end
  end

  test "a time zone is an offset in Python" do
    winter = %{
      ~U[2024-01-02 03:04:05Z]
      | time_zone: "America/St_Johns",
        zone_abbr: "NST",
        utc_offset: -12_600
    }

    assert echo(winter) == "2024-01-02T03:04:05-03:30"
    assert echo(%{winter | std_offset: 3600}) == "2024-01-02T03:04:05-02:30"
    # A mean solar time: no text has its seconds.
    assert echo(%{winter | utc_offset: -12_652}) == "2024-01-02T06:34:57+00:00"
  end

  test "dates before Python's are text" do
    assert show(~D[0000-12-31]) == "'0000-12-31'"
    assert show([~N[-0044-03-15 12:00:00]]) == "['-0044-03-15T12:00:00']"
    assert show(~D[9999-12-31]) == "datetime.date(9999, 12, 31)"
  end

  test "decimals" do
    for {sign, coef, exp, shown} <- [
          {1, 150, -2, "1.50"},
          {-1, 0, -1, "-0.0"},
          {1, 12, 30, "1.2E+31"},
          {1, 1, -10, "1E-10"},
          {-1, 12, -5, "-0.00012"},
          {1, :NaN, 0, "NaN"},
          {-1, :inf, 0, "-Infinity"}
        ] do
      decimal = %{__struct__: Decimal, sign: sign, coef: coef, exp: exp}
      assert show(decimal) == "Decimal('#{shown}')"
      # Without the library they come as the text that Python shows.
      assert echo(decimal) == shown
    end

    decimals()
    assert make("decimal") == %{__struct__: Decimal, sign: 1, coef: 150, exp: -2}
  end

  test "what only Python has" do
    assert make("array_f") == [1.5, "Infinity", -2.0]
    assert make("array_q") == [-0x8000000000000000, 0x7FFFFFFFFFFFFFFF]
    assert make("array_B") == [0, 255]
    assert make("enum") == ["red", {1, nil}]
    assert make("uuid") == "12345678-1234-5678-1234-567812345678"
    assert make("nan") == ["NaN", "Infinity", "-Infinity"]
    assert make("tokyo") == "2024-01-02T03:04:05.000006+09:00"

    for name <- ["complex", "timedelta"],
        do: assert(%{"__ffi_unserializable__" => true} = make(name))
  end

  test "structs by their own form, at any depth" do
    assert echo(%{at: [1..2, %URI{path: "/x"}]}) == %{"at" => [[1, 2], "/x"]}
    assert {:error, %Error{message: message}} = Snakepit.execute("echo", ~D[2024-01-01])
    assert message =~ "arguments are a map"
  end

  test "a key twice is refused and named" do
    for args <- [%{:value => 1, "value" => 2}, %{value: [%{:b => 1, "b" => 2}]}] do
      assert {:error, %Error{message: message}} = Snakepit.execute("echo", args)
      assert message =~ "a key that is there as an atom and as text at value"
    end

    # One key for Python.
    assert {:error, error} = Snakepit.execute("echo", %{value: %{1 => :a, 1.0 => :b}})
    assert Exception.message(error) =~ "twice"
    assert {:error, error} = Snakepit.execute("echo", %{value: MapSet.new([1, 1.0])})
    assert Exception.message(error) =~ "twice"
    # And one for Elixir.
    assert {:error, error} = Snakepit.execute("make", %{name: "duplicate"})
    assert Exception.message(error) =~ "twice"
  end

  test "a binary parameter replaces an argument of its name" do
    given = [binary_parameters: %{b: <<1, 255>>}]
    expected = {:ok, %{"a" => 1, "b" => <<1, 255>>}}
    assert Snakepit.execute("all", %{:a => 1, "b" => "text"}, given) == expected
    assert Snakepit.execute("all", %{a: 1, b: "text"}, given) == expected
  end

  test "what Python cannot send or take is an error that says why" do
    for {name, text} <- [
          {"loop", "contains itself"},
          {"deep", "nested too deeply"},
          {"surrogate", "lone surrogate"}
        ] do
      assert {:error, error} = Snakepit.execute("make", %{name: name})
      assert Exception.message(error) =~ text
    end

    assert {:error, error} = Snakepit.execute("echo", %{value: %{[1] => 2}})
    assert Exception.message(error) =~ "list"
    deep = Enum.reduce(1..600, [], fn _, list -> [list] end)
    assert {:error, %Error{message: message}} = Snakepit.execute("echo", %{value: deep})
    assert message =~ "nested too deeply"
  end

  test "as deep as is allowed" do
    # The arguments themselves are the first level.
    deep = Enum.reduce(1..511, 1, fn _, tuple -> {tuple} end)
    assert echo(deep) === deep
    decimals()
    innermost = %{__struct__: Decimal, sign: 1, coef: 1, exp: 0}
    deep = Enum.reduce(1..510, innermost, fn _, tuple -> {tuple} end)
    assert echo(deep) === deep
  end

  test "chunks of any kind" do
    items = [[1, {2}], MapSet.new([1]), %{"a" => {1}}, 3, nil, "text"]

    assert {:ok, chunks} = collect("chunks", %{items: items})

    assert Enum.map(chunks, &Map.drop(&1, ["is_final", "_metadata"])) ==
             [
               %{"data" => [1, {2}]},
               %{"data" => MapSet.new([1])},
               %{"a" => {1}},
               %{"data" => 3},
               %{},
               %{"raw_data_base64" => Base.encode64("text")},
               %{}
             ]
  end

  defp collect(tool, args) do
    test = self()
    ref = make_ref()
    with :ok <- Snakepit.execute_stream(tool, args, &send(test, {ref, &1})), do: {:ok, all(ref)}
  end

  defp all(ref) do
    receive do
      {^ref, chunk} -> [chunk | all(ref)]
    after
      0 -> []
    end
  end
end

defmodule Snakepit.TypedDatesTest do
  # Snakepit.Test.Pools with SNAKEPIT_DATES=typed.
  use ExUnit.Case, async: false

  import Snakepit.Test.Terms
  import Snakepit.Test.ValuePools

  setup_all do
    start([{"SNAKEPIT_DATES", "typed"}])
  end

  for kind <- [:date, :time, :naive, :datetime] do
    test "round trip: #{kind}" do
      values = terms(unquote(kind), 300, 4)
      assert echo(values) === values
      assert echo(MapSet.new(values)) === MapSet.new(values)
    end
  end

  test "an instant comes in UTC, with the offset that it had taken off" do
    assert make("tokyo") == ~U[2024-01-01 18:04:05.000006Z]
    # Elixir has no time of day with a zone.
    assert make("tokyo_time") == "01:02:03+09:00"
  end

  test "the first and the last day" do
    for date <- [~D[0001-01-01], ~D[9999-12-31]], do: assert(echo(date) == date)
    early = %{~U[0001-01-01 00:00:00Z] | utc_offset: 3600, time_zone: "X", zone_abbr: "X"}
    assert echo(early) == ~U[0000-12-31 23:00:00Z]
  end
end

defmodule Snakepit.TextDatesTest do
  # Snakepit.Test.Pools with SNAKEPIT_DATES=text.
  use ExUnit.Case, async: false

  import Snakepit.Test.ValuePools

  setup_all do
    start([{"SNAKEPIT_DATES", "text"}])
  end

  test "dates are text in both directions, as published" do
    assert show(~D[2024-02-29]) == "'2024-02-29'"
    assert show([~U[2024-01-02 03:04:05.5Z]]) == "['2024-01-02T03:04:05.5Z']"
    assert make("tokyo") == "2024-01-02T03:04:05.000006+09:00"
  end
end

defmodule Snakepit.JsonValuesTest do
  # A gRPC worker that does not offer CBOR, as those of others.
  use ExUnit.Case, async: false

  import Snakepit.Test.Terms
  import Snakepit.Test.ValuePools

  setup_all do
    start([{"SNAKEPIT_ENCODING", "json"}], transport: :grpc)
  end

  for kind <- [:integer, :big, :float, :text, :bytes, nil] do
    test "round trip: #{inspect(kind)}" do
      for values <- Enum.chunk_every(terms(unquote(kind), 200, 5), 40),
          do: assert(echo(values) === values)
    end
  end

  test "structs arrive as the published package sent them" do
    assert show(~D[2024-02-29]) == "'2024-02-29'"
    assert show(~U[2024-01-02 03:04:05Z]) == "'2024-01-02T03:04:05Z'"
    assert show(MapSet.new([1])) == "[1]"
    assert show(%{__struct__: Decimal, sign: 1, coef: 150, exp: -2}) == "'1.50'"
  end

  test "what Python sends keeps its kind" do
    assert echo({1, {2}, %{1 => "x"}}) === {1, {2}, %{1 => "x"}}
    assert make("decimal") == "1.50"
    assert make("array_f") == [1.5, "Infinity", -2.0]
    assert make("uuid") == "12345678-1234-5678-1234-567812345678"
    assert make("enum") == ["red", {1, nil}]
  end

  test "an integer with more digits than JSON may have is refused" do
    assert {:error, %Snakepit.Error{message: message}} =
             Snakepit.execute("echo", %{value: Integer.pow(10, 131_072)})

    assert message =~ "131072 digits"
  end
end
