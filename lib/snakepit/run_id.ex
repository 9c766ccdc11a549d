defmodule Snakepit.RunID do
  @moduledoc """
  Identifiers of one run of the VM: seven characters of base 36, five of the
  time and two that tell runs of the same second apart.
  """

  @digits "0123456789abcdefghijklmnopqrstuvwxyz"
  @time_span 60_466_176
  @rest_span 1_296

  @doc """
  A new identifier.

      iex> String.length(Snakepit.RunID.generate())
      7
  """
  @spec generate() :: String.t()
  def generate do
    time = rem(System.system_time(:second), @time_span)

    # Counted within this VM, from a start that two VMs rarely share.
    rest = rem(offset() + System.unique_integer([:positive, :monotonic]), @rest_span)
    base36(time, 5) <> base36(rest, 2)
  end

  @doc """
  Finds the identifier in a worker's command line.

      iex> Snakepit.RunID.extract_from_command("python3 grpc_server.py --run-id k3x9a2p")
      {:ok, "k3x9a2p"}
      iex> Snakepit.RunID.extract_from_command("python3 other.py")
      {:error, :not_found}
  """
  @spec extract_from_command(String.t()) :: {:ok, String.t()} | {:error, :not_found}
  def extract_from_command(command) when is_binary(command) do
    case Regex.run(~r/(?:^|\s)--(?:snakepit-)?run-id\s+([0-9a-z]{7})(?=\s|$)/, command) do
      [_, id] -> {:ok, id}
      nil -> {:error, :not_found}
    end
  end

  defp offset do
    <<a, b, c, d>> = binary_part(:erlang.md5([System.pid(), inspect(node())]), 0, 4)
    rem(a * 16_777_216 + b * 65_536 + c * 256 + d, @rest_span)
  end

  defp base36(number, width) do
    number
    |> Integer.digits(36)
    |> Enum.map(&:binary.at(@digits, &1))
    |> List.to_string()
    |> String.pad_leading(width, "0")
  end
end
