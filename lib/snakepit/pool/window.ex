defmodule Snakepit.Pool.Window do
  @moduledoc false
  # How many chunks of a stream may be under way: what the worker may send before
  # its consumer has taken any. Half of them are given back at a time. Small chunks
  # get a wider window, for which worker and consumer wait for each other less often;
  # large ones the first again, since what is under way lies in memory.

  alias Snakepit.Native

  # As the native part has it.
  @first 16
  @most 64
  @small 4096

  @enforce_keys [:taken, :size]
  defstruct [:taken, :size]

  @type t :: %__MODULE__{taken: non_neg_integer, size: pos_integer}

  @spec new() :: t
  def new, do: %__MODULE__{taken: 0, size: @first}

  @doc false
  # The consumer is done with a chunk of so many bytes.
  @spec take(t, Native.handle(), non_neg_integer) :: t
  def take(%{taken: taken, size: size} = window, _call, _bytes) when 2 * (taken + 1) < size,
    do: %{window | taken: taken + 1}

  def take(%{taken: taken, size: size}, call, bytes) do
    next = next(size, taken + 1, bytes)
    more = taken + 1 + next - size
    if more > 0, do: :ok = Native.call_credit(call, more)
    %__MODULE__{taken: 0, size: next}
  end

  @doc false
  # Of a chunk's message, with what came beside it.
  @spec size(Native.message()) :: non_neg_integer
  def size({bytes, more}), do: byte_size(bytes) + Enum.sum(Enum.map(more, &byte_size/1))
  def size(bytes), do: byte_size(bytes)

  defp next(size, _taken, bytes) when bytes <= @small, do: min(2 * size, @most)
  defp next(size, taken, _bytes), do: max(size - taken, @first)
end
