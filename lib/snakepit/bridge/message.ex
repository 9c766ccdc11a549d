defmodule Snakepit.Bridge.Message do
  @moduledoc """
  The messages of the protocol as structs, one module for each message of
  `proto/snakepit_bridge.proto`: `Snakepit.Bridge.PingRequest` and so on.

      iex> alias Snakepit.Bridge.{TelemetryControl, TelemetryToggle}
      iex> control = %TelemetryControl{control: {:toggle, %TelemetryToggle{enabled: true}}}
      iex> bytes = TelemetryControl.encode(control)
      iex> TelemetryControl.decode(bytes) == control
      true

  Fields have the names and defaults of protocol buffers: texts, numbers, lists
  and maps are empty, messages that are not set are nil. A oneof is one field:
  nil or `{member, value}`. A `google.protobuf.Any` is `%{type_url: _, value: _}`,
  a Timestamp `%{seconds: _, nanos: _}`.

  Each module has `new/1`, `encode/1`, which raises `ArgumentError` where a value
  is not what its field takes, and `decode/1`, which raises it for bytes that are
  no such message.
  """

  alias Snakepit.Native

  @types %{
    string: quote(do: String.t()),
    bytes: quote(do: binary),
    bool: quote(do: boolean),
    integer: quote(do: integer),
    float: quote(do: float | :nan | :infinity | :neg_infinity),
    any: quote(do: %{type_url: String.t(), value: binary}),
    timestamp: quote(do: %{seconds: integer, nanos: integer})
  }

  @defaults %{string: "", bytes: "", bool: false, integer: 0, float: 0.0}

  @doc false
  # The body of a message's module.
  @spec module(atom, [Snakepit.Bridge.Proto.field()]) :: Macro.t()
  def module(name, fields) do
    members = Enum.chunk_by(fields, &(&1.group || &1.name))
    struct = Enum.map(members, &default/1)
    types = Enum.map(members, &type/1)

    quote do
      @moduledoc "The message `#{unquote(name)}`; see `Snakepit.Bridge.Message`."

      defstruct unquote(Macro.escape(struct))
      @type t :: %__MODULE__{unquote_splicing(types)}

      @doc "The message with these fields."
      @spec new(keyword | map) :: t
      def new(fields \\ []), do: struct!(__MODULE__, fields)

      @doc "Its bytes."
      @spec encode(t) :: binary
      def encode(%__MODULE__{} = message), do: unquote(__MODULE__).encode(message)

      @doc "The message of these bytes."
      @spec decode(binary) :: t
      def decode(bytes), do: unquote(__MODULE__).decode!(__MODULE__, bytes)

      @doc false
      def __message__, do: {unquote(name), unquote(Macro.escape(fields))}
    end
  end

  defp default([%{group: group} | _]) when group != nil, do: {group, nil}
  defp default([%{name: name, label: :list}]), do: {name, []}
  defp default([%{name: name, label: :map}]), do: {name, %{}}
  defp default([%{name: name, kind: kind}]), do: {name, Map.get(@defaults, kind)}

  defp type([%{group: group} | _] = members) when group != nil do
    types = for member <- members, do: {member.name, kind(member.kind)}

    {group,
     Enum.reduce([nil | types], fn type, all -> quote(do: unquote(all) | unquote(type)) end)}
  end

  defp type([%{name: name, kind: kind, label: :list}]), do: {name, [kind(kind)]}

  defp type([%{name: name, kind: kind, label: :map}]),
    do: {name, quote(do: %{optional(String.t()) => unquote(kind(kind))})}

  defp type([%{name: name, kind: kind}]) when is_map_key(@defaults, kind), do: {name, kind(kind)}
  defp type([%{name: name, kind: kind}]), do: {name, quote(do: unquote(kind(kind)) | nil)}

  defp kind({:message, name}), do: quote(do: unquote(struct_module(name)).t())
  defp kind(kind), do: Map.fetch!(@types, kind)

  defp struct_module(name), do: Module.concat(Snakepit.Bridge, name)

  # ---- bytes --------------------------------------------------------------

  @doc false
  @spec encode(struct) :: binary
  def encode(%module{} = message) do
    {name, _fields} = module.__message__()

    case Native.message_encode(name, to_map(message)) do
      {:ok, bytes} ->
        bytes

      {:error, {:encode, path, text}} ->
        raise ArgumentError, "#{Enum.join([name | path], ".")} #{text}"
    end
  end

  @doc false
  @spec decode!(module, binary) :: struct
  def decode!(module, bytes) do
    case decode(module, bytes) do
      {:ok, message} -> message
      {:error, {:decode, text}} -> raise ArgumentError, text
    end
  end

  @doc false
  @spec decode(module, binary) :: {:ok, struct} | {:error, term}
  def decode(module, bytes) do
    {name, _fields} = module.__message__()
    with {:ok, map} <- Native.message_decode(name, bytes), do: {:ok, from_map(module, map)}
  end

  @doc false
  # As the native part takes it: members of oneofs have their own names.
  @spec to_map(struct | map) :: map
  def to_map(%module{} = message) do
    {_name, fields} = module.__message__()
    Enum.reduce(fields, %{}, &put(&1, message, &2))
  end

  def to_map(map), do: map

  defp put(%{group: nil} = field, message, map),
    do: Map.put(map, field.name, down(field, Map.fetch!(message, field.name)))

  defp put(%{group: group, name: name} = field, message, map) do
    case Map.fetch!(message, group) do
      {^name, value} -> Map.put(map, name, down(field, value))
      _ -> map
    end
  end

  defp down(%{label: :list} = field, list) when is_list(list), do: Enum.map(list, &one(field, &1))

  defp down(%{label: :map} = field, map) when is_map(map),
    do: Map.new(map, fn {key, value} -> {key, one(field, value)} end)

  defp down(field, value), do: one(field, value)

  defp one(%{kind: {:message, _}}, %_{} = message), do: to_map(message)
  defp one(_field, value), do: value

  @doc false
  @spec from_map(module, map) :: struct
  def from_map(module, map) do
    {_name, fields} = module.__message__()

    pairs =
      for %{name: name} = field <- fields, is_map_key(map, name) do
        value = up(field, Map.fetch!(map, name))
        if field.group, do: {field.group, {name, value}}, else: {name, value}
      end

    struct!(module, pairs)
  end

  defp up(_field, nil), do: nil

  defp up(%{kind: {:message, name}, label: label}, value) do
    module = struct_module(name)

    case label do
      :one -> from_map(module, value)
      :list -> Enum.map(value, &from_map(module, &1))
      :map -> Map.new(value, fn {key, map} -> {key, from_map(module, map)} end)
    end
  end

  defp up(_field, value), do: value
end
