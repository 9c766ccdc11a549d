defmodule Snakepit.Test.Terms do
  @moduledoc false
  # Random terms that come back from Python as they went.

  @doc "`count` terms of a kind, the same ones for the same seed."
  def terms(kind, count, seed) do
    _ = :rand.seed(:exsss, {seed, count, :erlang.phash2(kind)})
    for _ <- 1..count, do: term(kind)
  end

  @scalars [:integer, :big, :float, :text, :bytes, nil]

  def term(:integer), do: number(-70_000, 70_000)
  # Also those around the bounds of machine words.
  def term(:big), do: sign() * (Integer.pow(2, number(0, 400)) + number(-2, 2))
  # Never whole: Python holds 1 and 1.0 for one key.
  def term(:float), do: sign() * (number(0, 1_000_000) + 0.5) * :math.pow(2, number(-900, 900))
  def term(:text), do: for(_ <- 1..number(1, 9)//1, into: "", do: <<point()::utf8>>)
  def term(:bytes), do: <<255>> <> :rand.bytes(number(0, 20))
  def term(nil), do: Enum.random([nil, true, false])
  def term(:date), do: Date.add(~D[0001-01-01], number(0, 3_652_058))
  def term(:time), do: Time.add(~T[00:00:00], number(0, 86_399)) |> fraction()

  def term(:naive), do: NaiveDateTime.new!(term(:date), term(:time))
  def term(:datetime), do: DateTime.from_naive!(term(:naive), "Etc/UTC")

  def term(:decimal) do
    coef = Enum.random([0, number(0, 9_999), abs(term(:big)), :inf, :NaN])
    exp = if is_atom(coef), do: 0, else: number(-50, 50)
    %{__struct__: Decimal, sign: sign(), coef: coef, exp: exp}
  end

  def term(:tuple), do: :any |> some() |> List.to_tuple()
  def term(:list), do: some(:any)
  def term(:map), do: Map.new(some(:any), &{term(:text), &1})
  def term(:any_map), do: Map.new(some(:any), &{term(:key), &1})
  def term(:set), do: MapSet.new(some(:key))

  # What Python can have as a key; nil and the booleans are text as keys.
  def term(:key), do: shrink([:integer, :big, :float, :text, :bytes, :key_tuple, :key_set])
  def term(:key_tuple), do: :key |> some() |> List.to_tuple()
  def term(:key_set), do: term(:set)
  def term(:any), do: shrink(@scalars ++ [:tuple, :list, :map, :any_map, :set])

  # Deeper is rarer, so that it ends.
  defp shrink(kinds) do
    depth = Process.get(__MODULE__, 0)
    kinds = if depth > 3, do: Enum.take(kinds, 5), else: kinds
    Process.put(__MODULE__, depth + 1)
    made = kinds |> Enum.random() |> term()
    Process.put(__MODULE__, depth)
    made
  end

  defp some(kind), do: for(_ <- 1..number(0, 4)//1, do: term(kind))
  defp sign, do: Enum.random([1, -1])
  defp number(low, high), do: low + :rand.uniform(high - low + 1) - 1

  defp point do
    case number(0, 0x10FFFF) do
      surrogate when surrogate in 0xD800..0xDFFF -> ?s
      point -> Enum.random([point, rem(point, 128)])
    end
  end

  # Python shows all six digits of a fraction, or none.
  defp fraction(time) do
    case Enum.random([0, number(1, 999_999)]) do
      0 -> time
      micro -> %{time | microsecond: {micro, 6}}
    end
  end
end
