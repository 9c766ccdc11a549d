defmodule Snakepit.Encoder do
  @moduledoc false
  # Structs to plain data, for arguments that the NIF refused with
  # {:encode_struct, path}. Plain data is passed as it is.

  alias Snakepit.ZeroCopyRef

  @doc "Every struct in `term` replaced. What has no better form becomes the map of its fields."
  @spec plain(term) :: term
  def plain(%Date{} = date), do: Date.to_iso8601(date)
  def plain(%Time{} = time), do: Time.to_iso8601(time)
  def plain(%NaiveDateTime{} = time), do: NaiveDateTime.to_iso8601(time)
  def plain(%DateTime{} = time), do: DateTime.to_iso8601(time)
  def plain(%MapSet{} = set), do: set |> MapSet.to_list() |> plain()
  def plain(%ZeroCopyRef{} = ref), do: ref
  def plain(%Range{} = range), do: Enum.to_list(range)
  def plain(%URI{} = uri), do: URI.to_string(uri)
  def plain(%Version{} = version), do: Version.to_string(version)

  # Decimal's shape, whether or not the library is there: its text is exact.
  def plain(%{__struct__: module, coef: _, exp: _, sign: _} = number) do
    if function_exported?(module, :to_string, 1),
      do: module.to_string(number),
      else: fields(number)
  end

  def plain(%_{} = struct), do: fields(struct)

  def plain(map) when is_map(map), do: Map.new(map, fn {k, v} -> {plain_key(k), plain(v)} end)
  def plain(list) when is_list(list), do: plain_list(list)

  def plain(tuple) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> plain() |> List.to_tuple()

  def plain(other), do: other

  defp fields(struct), do: struct |> Map.from_struct() |> Map.delete(:__meta__) |> plain()

  defp plain_key(key) when is_binary(key) or is_atom(key) or is_number(key), do: key
  defp plain_key(key), do: plain(key)

  # An improper list is left for the NIF to refuse.
  defp plain_list([head | tail]) when is_list(tail), do: [plain(head) | plain_list(tail)]
  defp plain_list([head | tail]), do: [plain(head) | tail]
  defp plain_list([]), do: []
end
