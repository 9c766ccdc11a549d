defmodule Snakepit.Bridge.Proto do
  @moduledoc false
  # What proto/snakepit_bridge.proto says of messages. It is read when the
  # modules of Snakepit.Bridge are compiled, and never afterwards.

  @type kind ::
          :string | :bytes | :bool | :integer | :float | :any | :timestamp | {:message, atom}
  @type field :: %{name: atom, kind: kind, label: :one | :list | :map, group: atom | nil}

  @integers ~w(int32 int64 uint32 uint64)

  @doc "The messages in their order, each with its fields."
  @spec messages(String.t()) :: [{atom, [field]}]
  def messages(text) do
    text = String.replace(text, ~r{//[^\n]*}, "")

    # A message has braces inside only around its oneof.
    for [_, name, body] <- Regex.scan(~r/^message (\w+) \{\n(.*?)^\}/ms, text),
        do: {String.to_atom(name), fields(body, nil)}
  end

  defp fields(body, group) do
    ~r/oneof (\w+) \{(.*?)\}|(repeated )?(map<string, )?([\w.]+)>? (\w+) = \d+;/s
    |> Regex.scan(body)
    |> Enum.flat_map(fn
      [_, group, members] -> fields(members, String.to_atom(group))
      [_, "", "", list, map, type, name] -> [field(name, type, label(list, map), group)]
    end)
  end

  defp field(name, type, label, group),
    do: %{name: String.to_atom(name), kind: kind(type), label: label, group: group}

  defp label("", ""), do: :one
  defp label(_repeated, ""), do: :list
  defp label("", _map), do: :map

  defp kind("string"), do: :string
  defp kind("bytes"), do: :bytes
  defp kind("bool"), do: :bool
  defp kind("double"), do: :float
  defp kind(type) when type in @integers, do: :integer
  defp kind("google.protobuf.Any"), do: :any
  defp kind("google.protobuf.Timestamp"), do: :timestamp
  defp kind(message), do: {:message, String.to_atom(message)}
end
