defmodule Snakepit.EncoderTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  alias Snakepit.{Encoder, Native}
  alias Snakepit.Test.Structs.{Account, Endless, Itself, Money, User}

  defmodule Point do
    defstruct [:x, :y, :__meta__]
  end

  # Of the shape of the library's struct, which need not be there.
  defmodule Decimal do
    defstruct [:sign, :coef, :exp]
    def to_string(%{coef: coef, exp: exp}), do: "#{coef}e#{exp}"
  end

  # ISO's calendar by another name.
  defmodule Shifted do
    def naive_datetime_to_iso_days(y, mo, d, h, mi, s, us),
      do: Calendar.ISO.naive_datetime_to_iso_days(y - 100, mo, d, h, mi, s, us)

    def day_rollover_relative_to_midnight_utc, do: {0, 1}
  end

  # One whose days begin at sunset, as far as this test goes.
  defmodule Sunset do
    def day_rollover_relative_to_midnight_utc, do: {3, 4}
    def date_to_string(y, m, d), do: "sunset #{y}/#{m}/#{d}"
  end

  test "what the native part encodes by itself stays as it is" do
    for struct <- [
          ~D[2024-02-29],
          ~T[01:02:03.004],
          ~N[2024-01-02 03:04:05],
          ~U[2024-01-02 03:04:05Z],
          MapSet.new([1]),
          %Decimal{sign: 1, coef: 12, exp: -1},
          %Decimal{sign: -1, coef: :inf, exp: 0}
        ] do
      assert Encoder.plain(struct) === struct
    end

    assert Encoder.plain(MapSet.new([1..2])) == MapSet.new([[1, 2]])
  end

  test "dates that Python does not have are text, other calendars and offsets are turned" do
    assert Encoder.plain(~D[-0001-01-01]) == "-0001-01-01"
    assert Encoder.plain(%{~N[2024-01-02 03:04:05] | year: 0}) == "0000-01-02T03:04:05"
    assert Encoder.plain(%{~D[2124-02-29] | calendar: Shifted}) == ~D[2024-02-29]
    assert Encoder.plain(%{~D[2024-02-29] | calendar: Sunset}) == "sunset 2024/2/29"

    amsterdam = %{
      ~U[1930-01-01 00:19:32Z]
      | utc_offset: 1172,
        time_zone: "Europe/Amsterdam",
        zone_abbr: "AMT"
    }

    assert Encoder.plain(amsterdam) == ~U[1930-01-01 00:00:00Z]
  end

  test "ranges, URIs and versions are what they stand for" do
    assert Encoder.plain(1..3) == [1, 2, 3]
    assert Encoder.plain(URI.parse("http://x/y")) == "http://x/y"
    assert Encoder.plain(Version.parse!("1.2.3")) == "1.2.3"
  end

  test "others become the map of their fields, wherever they are" do
    assert Encoder.plain(%Point{x: 1, y: ~D[2024-01-01]}) == %{x: 1, y: ~D[2024-01-01]}

    assert Encoder.plain(%{"a" => [%Point{x: {1..2}}]}) == %{"a" => [%{x: {[1, 2]}, y: nil}]}
    assert Encoder.plain(%Decimal{sign: 1, coef: :odd, exp: 0}) == %{sign: 1, coef: :odd, exp: 0}
  end

  test "a struct's own form comes first" do
    assert Encoder.plain([%Money{amount: 1}]) == [{1, ~D[2024-01-01]}]
    assert Encoder.plain(%User{name: "n", password: "p"}) == %{name: "n"}
    assert Encoder.plain(%Account{id: 1, secret: "s"}) == %{id: 1}

    capture_io(:stderr, fn ->
      assert_raise ArgumentError, ~r/no fields \[:nmae\]/, fn ->
        Code.eval_string("""
        defmodule Misspelt do
          @derive {Snakepit.Encodable, only: [:nmae]}
          defstruct [:name]
        end
        """)
      end
    end)
  end

  test "a form without an end is refused" do
    for struct <- [%Endless{}, %Itself{}] do
      plain = Encoder.plain(%{a: struct})
      assert {:error, {kind, _path}} = plain |> Native.json_encode() |> without_text()
      assert kind in [:encode, :encode_struct]
    end
  end

  defp without_text({:error, {:encode, path, text}}) do
    assert text =~ "nested too deeply"
    {:error, {:encode, path}}
  end

  defp without_text(other), do: other

  test "plain data stays as it is" do
    for term <- [nil, true, 1, 1.5, "t", :a, [1, [2]], {1, %{2 => 3}}, [1 | 2], self()] do
      assert Encoder.plain(term) === term
    end
  end
end
