defmodule Snakepit.Encoder do
  @moduledoc false
  # Structs to plain data, for arguments that the NIF refused with
  # {:encode_struct, path}. What the NIF encodes by itself stays as it is.

  alias Snakepit.{Encodable, ZeroCopyRef}
  alias Snakepit.ZeroCopy.{Tensor, Wire}

  # What nests deeper is left for the NIF to refuse: an Encodable that never
  # gets plain ends there too.
  @max_depth 512

  @doc "Every struct in `term` replaced. What has no better form becomes the map of its fields."
  @spec plain(term) :: term
  def plain(term), do: plain(term, @max_depth)

  defp plain(term, 0), do: term
  defp plain(%module{} = struct, depth), do: struct(module, struct, depth - 1)

  defp plain(map, depth) when is_map(map),
    do: Map.new(map, fn {k, v} -> {plain_key(k, depth - 1), plain(v, depth - 1)} end)

  defp plain(list, depth) when is_list(list), do: plain_list(list, depth - 1)

  defp plain(tuple, depth) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> plain_list(depth - 1) |> List.to_tuple()

  defp plain(other, _depth), do: other

  defp struct(module, time, _depth) when module in [Date, Time, NaiveDateTime, DateTime],
    do: time(module, time)

  defp struct(MapSet, set, depth), do: MapSet.new(set, &plain(&1, depth))

  # Decimal's shape, whether or not the library is there. An exponent beyond 64
  # bits is one that nobody can reckon with.
  defp struct(_module, %{coef: coef, exp: exp, sign: sign} = decimal, _depth)
       when ((is_integer(coef) and coef >= 0) or coef in [:NaN, :inf]) and sign in [1, -1] and
              exp in -0x8000000000000000..0x7FFFFFFFFFFFFFFF,
       do: decimal

  # The NIF encodes those with bytes; without anything to hand over it refuses them.
  defp struct(ZeroCopyRef, ref, _depth), do: on_wire(Wire.handle(ref), ref)

  defp struct(module, tensor, _depth) when module in [Nx.Tensor, Tensor],
    do: on_wire(Wire.tensor(tensor), tensor)

  defp struct(_module, struct, depth), do: plain(Encodable.to_wire(struct), depth)

  defp on_wire({:ok, map}, _struct), do: map
  defp on_wire(:error, struct), do: struct

  # Every struct that the NIF takes, and text for those that Python has not.
  defp time(module, time) do
    case module.convert(time, Calendar.ISO) do
      {:ok, iso} -> iso |> whole_minutes() |> fits(module)
      {:error, :incompatible_calendars} -> to_string(time)
    end
  end

  # Mean solar time has offsets with seconds, which no text of RFC 3339 shows.
  defp whole_minutes(%{utc_offset: offset, std_offset: saving} = time)
       when rem(offset + saving, 60) != 0,
       do: DateTime.shift_zone!(time, "Etc/UTC", Calendar.UTCOnlyTimeZoneDatabase)

  defp whole_minutes(time), do: time

  defp fits(%{year: year} = time, module) when year not in 1..9999, do: module.to_iso8601(time)
  defp fits(time, _module), do: time

  defp plain_key(key, _depth) when is_binary(key) or is_atom(key) or is_number(key), do: key
  defp plain_key(key, depth), do: plain(key, depth)

  # An improper list is left for the NIF to refuse.
  defp plain_list([head | tail], depth) when is_list(tail),
    do: [plain(head, depth) | plain_list(tail, depth)]

  defp plain_list([head | tail], depth), do: [plain(head, depth) | tail]
  defp plain_list([], _depth), do: []
end
