defmodule Snakepit.Error.Device do
  @moduledoc """
  Makes `Snakepit.Error.DeviceMismatch` and `Snakepit.Error.OutOfMemory` errors.
  They emit `[:snakepit, :error, :device]` (metadata `expected_device`,
  `actual_device`, `operation`) and `[:snakepit, :error, :oom]` (measurements
  `requested_bytes`, `available_bytes`; metadata `device`, `operation`).
  """

  alias Snakepit.Error.{DeviceMismatch, OutOfMemory}
  alias Snakepit.Telemetry

  @doc """
  A tensor lies elsewhere than the operation needs it.

      iex> error = Snakepit.Error.Device.device_mismatch(:cpu, {:cuda, 0}, "add")
      iex> Exception.message(error)
      "device mismatch in add: expected cpu, got cuda:0"
  """
  @spec device_mismatch(DeviceMismatch.device(), DeviceMismatch.device(), String.t() | nil) ::
          DeviceMismatch.t()
  def device_mismatch(expected, got, operation) do
    error = %DeviceMismatch{expected: expected, got: got, operation: operation}
    told(%{error | message: DeviceMismatch.message(error)})
  end

  @doc """
  The device is not there or cannot be used.

      iex> Snakepit.Error.Device.device_unavailable({:cuda, 3}, "to").message
      "device cuda:3 is not available for to"
  """
  @spec device_unavailable(DeviceMismatch.device(), String.t()) :: DeviceMismatch.t()
  def device_unavailable(device, operation) do
    text = "device #{DeviceMismatch.name(device)} is not available for #{operation}"
    told(%DeviceMismatch{expected: device, operation: operation, message: text})
  end

  defp told(error) do
    Telemetry.execute([:snakepit, :error, :device], %{}, %{
      expected_device: error.expected,
      actual_device: error.got,
      operation: error.operation
    })

    error
  end

  @doc """
  The device has no memory left; sizes in bytes.

      iex> error = Snakepit.Error.Device.out_of_memory({:cuda, 0}, 2_147_483_648, 1_073_741_824)
      iex> Exception.message(error)
      "out of memory on cuda:0: 2.00 GiB requested, 1.00 GiB available"
  """
  @spec out_of_memory(
          OutOfMemory.device(),
          non_neg_integer,
          non_neg_integer,
          String.t() | nil
        ) :: OutOfMemory.t()
  def out_of_memory(device, requested_bytes, available_bytes, operation \\ nil) do
    error = %OutOfMemory{
      device: device,
      requested_bytes: requested_bytes,
      available_bytes: available_bytes,
      operation: operation,
      suggestions: suggestions(device)
    }

    Telemetry.execute(
      [:snakepit, :error, :oom],
      %{requested_bytes: requested_bytes, available_bytes: available_bytes},
      %{device: device, operation: operation}
    )

    %{error | message: OutOfMemory.message(error)}
  end

  defp suggestions(:cpu),
    do: ["Reduce the batch size", "Use fewer workers, or give them more memory"]

  defp suggestions(device) do
    [
      "Reduce the batch size",
      "Use a smaller data type, such as float16",
      "Let go of tensors that are not needed, and call #{empty_cache(device)}",
      "Move part of the work to the CPU"
    ]
  end

  defp empty_cache(:mps), do: "torch.mps.empty_cache()"
  defp empty_cache(_cuda_or_rocm), do: "torch.cuda.empty_cache()"
end
