defmodule Snakepit.Bridge.SessionVariable do
  @moduledoc false
  # Typed variables of a session, with constraints, as plain data.

  @types %{
    float: "a number",
    integer: "an integer",
    string: "text",
    boolean: "a boolean",
    choice: "one of the choices",
    list: "a list",
    map: "a map",
    any: "anything"
  }
  @constraints [:min, :max, :min_length, :max_length, :choices]

  @type type :: :float | :integer | :string | :boolean | :choice | :list | :map | :any
  @type t :: %{name: String.t(), type: type, value: term, constraints: %{atom => term}}

  @spec new(String.t() | atom, atom, term, map | keyword) :: {:ok, t} | {:error, term}
  def new(name, type, value, constraints) do
    constraints = Map.new(constraints)

    cond do
      not is_map_key(@types, type) ->
        {:error, {:invalid_type, type}}

      unknown = Enum.find(Map.keys(constraints), &(&1 not in @constraints)) ->
        {:error, {:unknown_constraint, unknown}}

      true ->
        put(%{name: to_string(name), type: type, value: nil, constraints: constraints}, value)
    end
  end

  @spec put(t, term) :: {:ok, t} | {:error, term}
  def put(variable, value) do
    with {:ok, value} <- cast(variable.type, value),
         :ok <- constrained(variable.constraints, value) do
      {:ok, %{variable | value: value}}
    end
  end

  defp cast(:float, value) when is_float(value), do: {:ok, value}
  defp cast(:float, value) when is_integer(value), do: {:ok, value / 1}
  defp cast(:integer, value) when is_integer(value), do: {:ok, value}
  defp cast(:boolean, value) when is_boolean(value), do: {:ok, value}
  defp cast(:list, value) when is_list(value), do: {:ok, value}
  defp cast(:map, value) when is_map(value), do: {:ok, value}
  defp cast(type, value) when type in [:any, :choice], do: {:ok, value}

  defp cast(:string, value) when is_binary(value) do
    if String.valid?(value), do: {:ok, value}, else: {:error, {:invalid_value, "not text"}}
  end

  defp cast(type, value),
    do: {:error, {:invalid_value, "#{inspect(value, limit: 5)} is not #{@types[type]}"}}

  defp constrained(constraints, value) do
    case Enum.find(constraints, fn {name, bound} -> not holds?(name, bound, value) end) do
      nil -> :ok
      {name, bound} -> {:error, {:constraint_violation, name, bound}}
    end
  end

  defp holds?(:min, bound, value), do: value >= bound
  defp holds?(:max, bound, value), do: value <= bound
  defp holds?(:min_length, bound, value), do: size(value) >= bound
  defp holds?(:max_length, bound, value), do: size(value) <= bound
  defp holds?(:choices, choices, value), do: value in choices

  defp size(value) when is_binary(value), do: String.length(value)
  defp size(value) when is_list(value), do: length(value)
  defp size(value) when is_map(value), do: map_size(value)
  defp size(_value), do: 0
end
