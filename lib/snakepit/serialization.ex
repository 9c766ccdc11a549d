defmodule Snakepit.Serialization do
  @moduledoc """
  Recognises what Python could not send: an object without a plain form arrives
  as a map that marks its place.

      iex> marker = %{"__ffi_unserializable__" => true, "__type__" => "threading.Lock"}
      iex> Snakepit.Serialization.unserializable?(marker)
      true
      iex> Snakepit.Serialization.unserializable_info(marker)
      {:ok, %{type: "threading.Lock", repr: nil}}
      iex> Snakepit.Serialization.unserializable_info(%{"a" => 1})
      :error

  How much it says is up to the worker's environment:
  `SNAKEPIT_UNSERIALIZABLE_DETAIL` is `none` (default), `type`,
  `repr_truncated` or `repr_redacted_truncated`, and
  `SNAKEPIT_UNSERIALIZABLE_REPR_MAXLEN` the length of a repr (500, at most 2000).
  """

  @doc "Whether `term` is such a marker."
  @spec unserializable?(term) :: boolean
  def unserializable?(%{"__ffi_unserializable__" => true}), do: true
  def unserializable?(_term), do: false

  @doc "What the marker says about the object; nil where it says nothing."
  @spec unserializable_info(term) ::
          {:ok, %{type: String.t() | nil, repr: String.t() | nil}} | :error
  def unserializable_info(%{"__ffi_unserializable__" => true} = marker),
    do: {:ok, %{type: text(marker["__type__"]), repr: text(marker["__repr__"])}}

  def unserializable_info(_term), do: :error

  defp text(value) when is_binary(value), do: value
  defp text(_other), do: nil
end
