defmodule Snakepit.Error.DeviceMismatch do
  @moduledoc """
  Tensors that lie on different devices, or a device that is not there. Made by
  `Snakepit.Error.Device` and `Snakepit.Error.Parser`.
  """

  @type device :: :cpu | :mps | {:cuda, non_neg_integer} | {:rocm, non_neg_integer}
  @type t :: %__MODULE__{
          message: String.t(),
          expected: device | nil,
          got: device | nil,
          operation: String.t() | nil
        }

  defexception [:message, :expected, :got, :operation]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    operation = if error.operation, do: " in #{error.operation}", else: ""
    "device mismatch#{operation}: expected #{name(error.expected)}, got #{name(error.got)}"
  end

  @doc """
  A device as Python writes it.

      iex> Snakepit.Error.DeviceMismatch.name({:cuda, 1})
      "cuda:1"
  """
  @spec name(device | nil) :: String.t()
  def name(nil), do: "unknown"
  def name({kind, index}), do: "#{kind}:#{index}"
  def name(kind) when is_atom(kind), do: Atom.to_string(kind)
end
