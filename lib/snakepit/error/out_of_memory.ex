defmodule Snakepit.Error.OutOfMemory do
  @moduledoc """
  A device had no memory left. Made by `Snakepit.Error.Device.out_of_memory/4`
  and `Snakepit.Error.Parser`. Sizes are in bytes, 0 where unknown;
  `:suggestions` say what to try.
  """

  @type device :: :cpu | :mps | {:cuda, non_neg_integer} | {:rocm, non_neg_integer}
  @type t :: %__MODULE__{
          message: String.t(),
          device: device,
          requested_bytes: non_neg_integer,
          available_bytes: non_neg_integer,
          operation: String.t() | nil,
          suggestions: [String.t()]
        }

  defexception [
    :message,
    :device,
    :operation,
    requested_bytes: 0,
    available_bytes: 0,
    suggestions: []
  ]

  alias Snakepit.Error.DeviceMismatch

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    operation = if error.operation, do: " in #{error.operation}", else: ""

    "out of memory on #{DeviceMismatch.name(error.device)}#{operation}: " <>
      "#{size(error.requested_bytes)} requested, #{size(error.available_bytes)} available"
  end

  @units [{"GiB", 1_073_741_824}, {"MiB", 1_048_576}, {"KiB", 1024}]

  defp size(bytes) do
    case Enum.find(@units, fn {_unit, factor} -> bytes >= factor end) do
      {unit, factor} -> "#{:erlang.float_to_binary(bytes / factor, decimals: 2)} #{unit}"
      nil -> "#{bytes} bytes"
    end
  end
end
