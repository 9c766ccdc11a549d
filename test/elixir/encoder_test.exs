defmodule Snakepit.EncoderTest do
  use ExUnit.Case, async: true

  alias Snakepit.Encoder

  defmodule Point do
    defstruct [:x, :y, :__meta__]
  end

  # Of the shape of the library's struct, which need not be there.
  defmodule Decimal do
    defstruct [:sign, :coef, :exp]
    def to_string(%{coef: coef, exp: exp}), do: "#{coef}e#{exp}"
  end

  test "known structs get their usual text" do
    assert Encoder.plain(~D[2024-02-29]) == "2024-02-29"
    assert Encoder.plain(~T[01:02:03.004]) == "01:02:03.004"
    assert Encoder.plain(~N[2024-01-02 03:04:05]) == "2024-01-02T03:04:05"
    assert Encoder.plain(~U[2024-01-02 03:04:05Z]) == "2024-01-02T03:04:05Z"
    assert Encoder.plain(MapSet.new([1])) == [1]
    assert Encoder.plain(1..3) == [1, 2, 3]
    assert Encoder.plain(%Decimal{sign: 1, coef: 12, exp: -1}) == "12e-1"
  end

  test "others become the map of their fields, wherever they are" do
    assert Encoder.plain(%Point{x: 1, y: ~D[2024-01-01]}) == %{x: 1, y: "2024-01-01"}

    assert Encoder.plain(%{"a" => [%Point{x: {~D[2024-01-01]}}]}) ==
             %{"a" => [%{x: {"2024-01-01"}, y: nil}]}
  end

  test "plain data stays as it is" do
    for term <- [nil, true, 1, 1.5, "t", :a, [1, [2]], {1, %{2 => 3}}, [1 | 2], self()] do
      assert Encoder.plain(term) === term
    end
  end
end
