defprotocol Snakepit.Encodable do
  @moduledoc """
  What a struct of yours is for a worker.

  Without an implementation a struct is sent as the map of its fields (but for
  `:__meta__`, which is Ecto's own). An implementation says otherwise:

      defimpl Snakepit.Encodable, for: MyApp.Money do
        def to_wire(money), do: {money.amount, to_string(money.currency)}
      end

  It may return anything that can be sent, other structs too. Where only some
  of the fields are meant, deriving it is enough:

      defmodule MyApp.User do
        @derive {Snakepit.Encodable, only: [:id, :name]}   # or: except: [:password]
        defstruct [:id, :name, :password]
      end

  `Date`, `Time`, `NaiveDateTime`, `DateTime`, `MapSet` and structs with the
  fields of `Decimal` have a form on the wire and do not come here; see the
  guide *Values*.
  """

  @fallback_to_any true

  @doc "The plain data that is sent in place of `struct`."
  @spec to_wire(t) :: term
  def to_wire(struct)
end

defimpl Snakepit.Encodable, for: Any do
  defmacro __deriving__(module, struct, options) do
    fields = fields(module, Map.keys(struct) -- [:__struct__, :__meta__], options)

    quote do
      defimpl Snakepit.Encodable, for: unquote(module) do
        def to_wire(struct), do: Map.take(struct, unquote(fields))
      end
    end
  end

  def to_wire(struct), do: struct |> Map.from_struct() |> Map.delete(:__meta__)

  defp fields(module, all, options) do
    {chosen, fields} =
      case options do
        [only: only] -> {only, only}
        [except: except] -> {except, all -- except}
        [] -> {[], all}
      end

    case chosen -- all do
      [] ->
        fields

      unknown ->
        raise ArgumentError,
              "@derive Snakepit.Encodable: #{inspect(module)} has no fields #{inspect(unknown)}"
    end
  end
end

defimpl Snakepit.Encodable, for: Range do
  def to_wire(range), do: Enum.to_list(range)
end

defimpl Snakepit.Encodable, for: [URI, Version] do
  def to_wire(struct), do: @for.to_string(struct)
end
