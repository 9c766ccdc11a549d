defmodule Snakepit.CborTest do
  # What the native part makes of tags and markers, without a worker.
  use ExUnit.Case, async: false

  import Snakepit.Test.Terms, only: [terms: 3]

  alias Snakepit.Native

  defp decode(hex) do
    hex |> String.replace(" ", "") |> Base.decode16!(case: :mixed) |> Native.cbor_decode()
  end

  defp hex(term) do
    {:ok, bytes} = Native.cbor_encode(term)
    Base.encode16(bytes, case: :lower)
  end

  defp text(tag, text) do
    head = if tag < 24, do: <<6::3, tag::5>>, else: <<0xD9, tag::16>>
    Base.encode16(head <> <<0x78, byte_size(text)>> <> text)
  end

  defp decimals do
    :ok = Native.build_decimals(true)
    on_exit(fn -> Native.build_decimals(false) end)
  end

  test "random terms there and back" do
    decimals()

    for kind <- [:any, :date, :time, :naive, :datetime, :decimal, :any_map, :set],
        term <- terms(kind, 300, 6) do
      {:ok, bytes} = Native.cbor_encode(term)
      assert Native.cbor_decode(bytes) === {:ok, term}
    end
  end

  test "any prefix of a message is an error, any byte changed an error or a value" do
    for term <- terms(:any, 60, 7) do
      {:ok, bytes} = Native.cbor_encode(term)

      for at <- 0..(byte_size(bytes) - 1) do
        {before, <<byte, rest::binary>>} = :erlang.split_binary(bytes, at)
        assert {:error, {:decode, _}} = Native.cbor_decode(before)
        changed = <<before::binary, Bitwise.bxor(byte, 1 + rem(at * 37, 255)), rest::binary>>
        assert elem(Native.cbor_decode(changed), 0) in [:ok, :error]
      end
    end
  end

  test "structs take the tags that are registered for them" do
    assert hex(~D[2024-02-29]) == "d903ec6a" <> Base.encode16("2024-02-29", case: :lower)
    assert hex(~U[2013-03-21 20:04:00Z]) == "c074323031332d30332d32315432303a30343a30305a"
    assert hex(MapSet.new([1])) == "d901028101"
    # RFC 8949, 3.4.4
    assert hex(%{__struct__: Decimal, sign: 1, coef: 27_315, exp: -2}) == "c48221196ab3"
    assert hex(%{__struct__: Decimal, sign: -1, coef: :NaN, exp: 0}) == "d9010c83000005"
  end

  test "what RFC 8949 and 8943 say of dates" do
    assert decode("c074323031332d30332d32315432303a30343a30305a") ==
             {:ok, ~U[2013-03-21 20:04:00Z]}

    assert decode("c11a514b67b0") == {:ok, ~U[2013-03-21 20:04:00Z]}
    assert decode("c1fb41d452d9ec200000") == {:ok, ~U[2013-03-21 20:04:00.500000Z]}
    assert decode("c13903e7") == {:ok, ~U[1969-12-31 23:43:20Z]}
    assert decode("c1f9b800") == {:ok, ~U[1969-12-31 23:59:59.500000Z]}
    assert decode("d903ec6a313934302d31302d3039") == {:ok, ~D[1940-10-09]}
    assert decode("d8643929b3") == {:ok, ~D[1940-10-09]}
    assert decode(text(0, "2024-01-01T00:00:00+05:30")) == {:ok, ~U[2023-12-31 18:30:00Z]}

    assert decode(text(0, "2024-01-01 00:00:00.1234567z")) ==
             {:ok, ~U[2024-01-01 00:00:00.123456Z]}
  end

  test "what is no date is an error" do
    for wrong <- [
          text(0, "2024-01-01T00:00:00"),
          text(0, "2024-01-01T23:59:60Z"),
          text(1004, "2023-02-29"),
          text(40_001, "2024-01-01T00:00:00Z"),
          text(40_002, "25:00:00"),
          "c001",
          "c161" <> "61",
          "c1f97e00",
          "c1f97c00",
          "c11bffffffffffffffff",
          "c11b7fffffffffffffff",
          "d8641b7fffffffffffffff",
          "d864f93c00",
          "c0f6"
        ] do
      assert {:error, {:decode, _}} = decode(wrong)
    end
  end

  test "decimals" do
    assert decode("c48221196ab3") == {:ok, "273.15"}
    assert decode("c482 00 c249010000000000000000") == {:ok, "18446744073709551616"}
    assert decode("c482 01 c349010000000000000000") == {:ok, "-1.8446744073709551617E+20"}
    assert decode("d9010c83200001") == {:ok, "-0.0"}
    decimals()

    assert decode("c4822119 6ab3") ==
             {:ok, %{__struct__: Decimal, sign: 1, coef: 27_315, exp: -2}}

    assert decode("c482 00 c349010000000000000000") ==
             {:ok, %{__struct__: Decimal, sign: -1, coef: 18_446_744_073_709_551_617, exp: 0}}

    assert decode("d9010c83000003") == {:ok, %{__struct__: Decimal, sign: -1, coef: :inf, exp: 0}}

    for wrong <- [
          "c48100",
          "c480",
          "c48300 00 00 00",
          "c482 f93c00 01",
          "c482 00 f93c00",
          "c482 1bffffffffffffffff 00",
          "d9010c83000006",
          "d9010c83002001",
          "c401",
          "c4a0"
        ] do
      assert {:error, {:decode, _}} = decode(wrong)
    end
  end

  # Of RFC 8746: the example of section 3.1.1 without what only a matrix has, and one
  # of each type.
  test "typed arrays" do
    assert decode("d8 28 82 82 02 03 d8 41 4c 000200040008000400100100") ==
             {:ok, [[2, 3], [2, 4, 8, 4, 16, 256]]}

    for {tag, bytes, numbers} <- [
          {64, <<0, 255>>, [0, 255]},
          {65, <<1::16, 65_535::16>>, [1, 65_535]},
          {66, <<1::32>>, [1]},
          {67, <<-1::64>>, [18_446_744_073_709_551_615]},
          {68, <<255>>, [255]},
          {69, <<1::little-16>>, [1]},
          {70, <<1::little-32>>, [1]},
          {71, <<-1::64>>, [18_446_744_073_709_551_615]},
          {72, <<-1, 127>>, [-1, 127]},
          {73, <<-2::16>>, [-2]},
          {74, <<-2::32>>, [-2]},
          {75, <<-2::64>>, [-2]},
          {77, <<-2::little-16>>, [-2]},
          {78, <<-2::little-32>>, [-2]},
          {79, <<-2::little-64>>, [-2]},
          {80, <<0x3C00::16, 0x7C00::16>>, [1.0, "Infinity"]},
          {81, <<1.5::32-float>>, [1.5]},
          {82, <<1.1::64-float>>, [1.1]},
          {83, <<0x3FFF8::20, 0::108>>, [1.5]},
          {84, <<0x3C00::little-16>>, [1.0]},
          {85, <<1.5::little-32-float>>, [1.5]},
          {86, <<1.1::little-64-float, 0xF87F::64>>, [1.1, "NaN"]},
          {87, <<0::104, 0x80FF3F::24>>, [1.5]}
        ] do
      head = <<0xD8, tag, 0x58, byte_size(bytes)>>
      assert {:ok, read} = Native.cbor_decode(head <> bytes)
      assert Enum.zip_with(read, numbers, &close?/2) |> Enum.all?()
      assert length(read) == length(numbers)
      assert Native.cbor_decode(<<0xD8, tag, 0x40>>) == {:ok, []}
    end
  end

  defp close?(a, b) when is_float(b), do: is_float(a) and abs(a - b) <= abs(b) * 1.0e-4
  defp close?(a, b), do: a === b

  test "typed arrays that are none" do
    for size <- [1, 2, 3, 5, 7, 9, 15, 17],
        tag <- [65, 66, 67, 73, 74, 75, 80, 81, 82, 83, 84, 87],
        width =
          %{65 => 2, 66 => 4, 67 => 8, 73 => 2, 74 => 4, 75 => 8, 80 => 2, 81 => 4}[tag] || 8,
        rem(size, if(tag == 84, do: 2, else: width)) != 0 do
      assert {:error, {:decode, _}} =
               Native.cbor_decode(<<0xD8, tag, 0x40 + size, 0::size(size)-unit(8)>>)
    end

    # Text, and what is no string at all.
    assert {:error, {:decode, _}} = decode("d84161" <> "61")
    assert {:error, {:decode, _}} = decode("d8418101")
    # The tag that is reserved says nothing.
    assert decode("d84c4101") == {:ok, <<1>>}
  end

  test "what a map or set has twice is an error" do
    for twice <- ["a2 01 02 01 03", "a2 6161 01 4161 02", "d9010282 01 01", "bf 01 02 01 03 ff"] do
      assert {:error, {:decode, text}} = decode(twice)
      assert text =~ "twice"
    end

    {:ok, large} = Native.cbor_encode(Map.new(1..100, &{&1, &1}))
    <<0xB8, 100, rest::binary>> = large
    assert {:error, {:decode, text}} = Native.cbor_decode(<<0xB8, 101, 1, 0, rest::binary>>)
    assert text =~ "twice"
  end

  test "markers of JSON" do
    for {json, term} <- [
          {~s({"__snakepit_type__":"set","d":[1,[2]]}), MapSet.new([1, [2]])},
          {~s({"__snakepit_type__":"decimal","d":[-2,150]}), "1.50"},
          {~s({"__snakepit_type__":"decimal","d":[0,0,4]}), "NaN"},
          {~s({"__snakepit_type__":"date","d":"2024-02-29"}), ~D[2024-02-29]},
          {~s({"__snakepit_type__":"time","d":"01:02:03"}), ~T[01:02:03]},
          {~s({"d":"2024-01-02T03:04:05","__snakepit_type__":"naive"}), ~N[2024-01-02 03:04:05]},
          {~s({"__snakepit_type__":"datetime","d":"2024-01-02T03:04:05Z"}),
           ~U[2024-01-02 03:04:05Z]},
          # What only looks like one is a map.
          {~s({"__snakepit_type__":"date","d":"x"}),
           %{"__snakepit_type__" => "date", "d" => "x"}},
          {~s({"__snakepit_type__":"set","d":1}), %{"__snakepit_type__" => "set", "d" => 1}},
          {~s({"__snakepit_type__":"unheard","d":1}),
           %{"__snakepit_type__" => "unheard", "d" => 1}},
          # JSON of others, with a key twice: the last one, as ever.
          {~s({"a":1,"a":2}), %{"a" => 2}}
        ] do
      assert Native.json_decode(json) == {:ok, term}
    end

    for json <- [
          ~s({"__snakepit_type__":"map","d":[[1,2],[1,3]]}),
          ~s({"__snakepit_type__":"set","d":[1,1]})
        ] do
      assert {:error, {:decode, text}} = Native.json_decode(json)
      assert text =~ "twice"
    end
  end

  test "structs are text and lists in JSON" do
    for {term, json} <- [
          {~D[2024-02-29], ~s("2024-02-29")},
          {~T[01:02:03.40], ~s("01:02:03.40")},
          {~N[2024-01-02 03:04:05], ~s("2024-01-02T03:04:05")},
          {~U[2024-01-02 03:04:05.000Z], ~s("2024-01-02T03:04:05.000Z")},
          {%{~U[2024-01-02 03:04:05Z] | time_zone: "Europe/London", zone_abbr: "GMT"},
           ~s("2024-01-02T03:04:05+00:00")},
          {MapSet.new([1]), "[1]"},
          {MapSet.new(), "[]"},
          {%{__struct__: Decimal, sign: -1, coef: 12, exp: -1}, ~s("-1.2")}
        ] do
      assert Native.json_encode(term) == {:ok, json}
    end
  end

  test "integers of JSON have a bound, those of CBOR have none" do
    longest = Integer.pow(10, 131_000)
    assert {:ok, json} = Native.json_encode(longest)
    assert Native.json_decode(json) == {:ok, longest}
    assert Native.json_decode("[#{json}, 1]") == {:ok, [longest, 1]}
    # Many that are long enough together.
    many = List.duplicate(Integer.pow(7, 3000), 20)
    assert {:ok, json} = Native.json_encode(many)
    assert Native.json_decode(json) == {:ok, many}

    assert {:error, {:encode, [0], text}} = Native.json_encode([Integer.pow(10, 140_000)])
    assert text =~ "131072 digits"
    assert {:error, {:decode, text}} = Native.json_decode(String.duplicate("9", 131_074))
    assert text =~ "limit"

    beyond = Integer.pow(10, 200_000)
    assert {:ok, cbor} = Native.cbor_encode(beyond)
    assert Native.cbor_decode(cbor) == {:ok, beyond}
  end

  test "handmade structs that are none are left to Elixir" do
    for struct <- [
          %{~D[2024-01-01] | month: 13},
          %{~D[2024-01-01] | day: -1},
          %{~D[2024-01-01] | year: 10_000},
          %{~T[00:00:00] | microsecond: {1_000_000, 6}},
          %{~T[00:00:00] | microsecond: nil},
          %{~T[00:00:00] | hour: 24},
          %{~U[2024-01-01 00:00:00Z] | utc_offset: 30},
          %{~U[2024-01-01 00:00:00Z] | utc_offset: 0x7FFFFFFF, std_offset: 1},
          %{~N[2024-01-01 00:00:00] | calendar: Other},
          %{__struct__: MapSet, map: [1]},
          %{__struct__: MapSet},
          %{__struct__: Decimal, sign: 2, coef: 1, exp: 0},
          %{__struct__: Decimal, sign: 1, coef: -1, exp: 0},
          %{__struct__: Decimal, sign: 1, coef: 1, exp: Integer.pow(2, 64)},
          %{__struct__: "text"}
        ] do
      assert Native.cbor_encode([struct]) == {:error, {:encode_struct, [0]}}
      assert Native.json_encode([struct]) == {:error, {:encode_struct, [0]}}
    end
  end
end
