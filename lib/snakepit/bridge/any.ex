defmodule Snakepit.Bridge.Any do
  @moduledoc false
  # Values in google.protobuf.Any: JSON under a StringValue URL. What some clients
  # send instead, a packed StringValue or BoolValue, is understood too.

  alias Snakepit.{Encoder, Native}

  @url "type.googleapis.com/google.protobuf.StringValue"

  @type t :: %{type_url: String.t(), value: binary}

  @spec encode(term) :: {:ok, t} | {:error, term}
  def encode(term) do
    case Native.json_encode(term) do
      {:ok, json} -> {:ok, from_json(json)}
      {:error, {:encode_struct, _path}} -> term |> Encoder.plain() |> again()
      {:error, reason} -> {:error, reason}
    end
  end

  defp again(term) do
    with {:ok, json} <- Native.json_encode(term), do: {:ok, from_json(json)}
  end

  @spec from_json(binary) :: t
  def from_json(json), do: %{type_url: @url, value: json}

  @spec decode(t | nil) :: {:ok, term} | {:error, term}
  def decode(nil), do: {:ok, nil}

  def decode(%{type_url: url, value: value}) do
    case packed(type(url), value) do
      :json -> Native.json_decode(value)
      unpacked -> unpacked
    end
  end

  defp type(url), do: url |> String.split("/") |> List.last()

  # A packed message is told from JSON by its bytes: the length it begins with is
  # that of the rest.
  defp packed("google.protobuf.StringValue", ""), do: {:ok, ""}

  defp packed("google.protobuf.StringValue", <<0x0A, rest::binary>>) do
    with {length, text} when length == byte_size(text) <- varint(rest, 0, 0),
         true <- String.valid?(text) do
      {:ok, text}
    else
      _ -> :json
    end
  end

  defp packed("google.protobuf.BoolValue", ""), do: {:ok, false}

  defp packed("google.protobuf.BoolValue", <<0x08, value>>) when value < 128,
    do: {:ok, value != 0}

  defp packed(_type, _value), do: :json

  defp varint(<<0::1, part::7, rest::binary>>, shift, value),
    do: {value + Bitwise.bsl(part, shift), rest}

  defp varint(<<1::1, part::7, rest::binary>>, shift, value) when shift < 28,
    do: varint(rest, shift + 7, value + Bitwise.bsl(part, shift))

  defp varint(_bytes, _shift, _value), do: :error
end
