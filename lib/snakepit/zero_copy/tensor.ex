defmodule Snakepit.ZeroCopy.Tensor do
  @moduledoc """
  A tensor without Nx: what `Snakepit.ZeroCopy.from_dlpack/2` gives where that is not installed.

  `data` are the elements in row-major order, in the byte order of this machine, `dtype` is NumPy's
  name of their type, `shape` a tuple. As an argument of a call it arrives as a NumPy array.
  """

  alias Snakepit.ZeroCopy.DType

  @type t :: %__MODULE__{data: binary, dtype: String.t(), shape: tuple}

  @enforce_keys [:data, :dtype, :shape]
  defstruct [:data, :dtype, :shape]

  @doc """
  The elements as nested lists, a number for a tensor without dimensions.

      iex> tensor = %Snakepit.ZeroCopy.Tensor{data: <<1, 2, 3, 4>>, dtype: "uint8", shape: {2, 2}}
      iex> Snakepit.ZeroCopy.Tensor.to_list(tensor)
      {:ok, [[1, 2], [3, 4]]}

  `{:error, :no_numbers}` for types that Elixir has no numbers for: complex ones and bfloat16.
  NaN and infinities are texts, as in other results.
  """
  @spec to_list(t) :: {:ok, list | number | boolean | String.t()} | {:error, :no_numbers}
  def to_list(%__MODULE__{data: data, dtype: dtype, shape: shape}) do
    with {:ok, numbers} <- DType.decode(data, dtype),
         do: {:ok, nested(numbers, shape |> Tuple.to_list() |> Enum.reverse())}
  end

  defp nested([number], []), do: number
  defp nested(numbers, [_only]), do: numbers

  defp nested(numbers, [last | others]) do
    inner = if last == 0, do: empty(others), else: Enum.chunk_every(numbers, last)
    nested(inner, others)
  end

  # Of size 0 in the last dimension: as many empty lists as the others say.
  defp empty(others), do: List.duplicate([], Enum.product(others))
end
