defmodule Snakepit.GRPC.Descriptors do
  @moduledoc false
  # The descriptors that the build made of proto/: which file has which name.
  # They are read once, and not decoded further than that.

  alias Snakepit.Native

  @file_name "snakepit_descriptors.binpb"

  @type t :: %{
          files: %{String.t() => {binary, imports :: [String.t()]}},
          symbols: %{String.t() => file :: String.t()},
          messages: MapSet.t(String.t())
        }

  @spec get() :: t
  def get do
    with nil <- :persistent_term.get(__MODULE__, nil) do
      index = [to_string(Native.ebin()), @file_name] |> Path.join() |> File.read!() |> index()
      :persistent_term.put(__MODULE__, index)
      index
    end
  end

  @doc "The file, and all that it imports."
  @spec with_imports(t, String.t()) :: [binary]
  def with_imports(%{files: files}, name) do
    for name <- closure([name], files, []), do: files |> Map.fetch!(name) |> elem(0)
  end

  defp closure([], _files, done), do: Enum.reverse(done)

  defp closure([name | rest], files, done) do
    if name in done do
      closure(rest, files, done)
    else
      {_bytes, imports} = Map.fetch!(files, name)
      closure(rest ++ imports, files, [name | done])
    end
  end

  # ---- descriptor.proto ---------------------------------------------------

  defp index(set) do
    parsed = for {1, bytes} <- fields(set), do: file(bytes)
    messages = Enum.flat_map(parsed, fn file -> for {:message, name} <- file.names, do: name end)

    %{
      files: Map.new(parsed, &{&1.name, {&1.bytes, &1.imports}}),
      symbols: for(file <- parsed, {_kind, name} <- file.names, into: %{}, do: {name, file.name}),
      messages: MapSet.new(messages)
    }
  end

  # FileDescriptorProto
  defp file(bytes) do
    fields = fields(bytes)
    scope = one(fields, 2)

    names =
      Enum.flat_map(fields, fn
        {4, bytes} -> message(bytes, scope)
        {5, bytes} -> enum(bytes, scope)
        {6, bytes} -> parent(:service, bytes, scope, 2, :method)
        _ -> []
      end)

    %{
      name: one(fields, 1),
      imports: for({3, name} <- fields, do: name),
      bytes: bytes,
      names: names
    }
  end

  # DescriptorProto
  defp message(bytes, scope) do
    fields = fields(bytes)
    name = join(scope, one(fields, 1))

    inner =
      Enum.flat_map(fields, fn
        {2, bytes} -> [{:field, join(name, one(fields(bytes), 1))}]
        {3, bytes} -> message(bytes, name)
        {4, bytes} -> enum(bytes, name)
        _ -> []
      end)

    [{:message, name} | inner]
  end

  # The values of an enum stand beside it, not in it.
  defp enum(bytes, scope) do
    fields = fields(bytes)
    values = for {2, bytes} <- fields, do: {:value, join(scope, one(fields(bytes), 1))}
    [{:enum, join(scope, one(fields, 1))} | values]
  end

  defp parent(kind, bytes, scope, number, of_children) do
    fields = fields(bytes)
    name = join(scope, one(fields, 1))

    children =
      for {^number, bytes} <- fields, do: {of_children, join(name, one(fields(bytes), 1))}

    [{kind, name} | children]
  end

  defp one(fields, number) do
    case List.keyfind(fields, number, 0) do
      {_, bytes} -> bytes
      nil -> ""
    end
  end

  defp join("", name), do: name
  defp join(scope, name), do: scope <> "." <> name

  # ---- the wire -----------------------------------------------------------

  # Only fields with bytes are wanted.
  defp fields(""), do: []

  defp fields(bytes) do
    {tag, rest} = varint(bytes, 0, 0)

    case Bitwise.band(tag, 7) do
      0 ->
        {_value, rest} = varint(rest, 0, 0)
        fields(rest)

      1 ->
        <<_::64, rest::binary>> = rest
        fields(rest)

      2 ->
        {size, rest} = varint(rest, 0, 0)
        {value, rest} = :erlang.split_binary(rest, size)
        [{Bitwise.bsr(tag, 3), value} | fields(rest)]

      5 ->
        <<_::32, rest::binary>> = rest
        fields(rest)
    end
  end

  defp varint(<<0::1, part::7, rest::binary>>, shift, value),
    do: {value + Bitwise.bsl(part, shift), rest}

  defp varint(<<1::1, part::7, rest::binary>>, shift, value),
    do: varint(rest, shift + 7, value + Bitwise.bsl(part, shift))
end
