defmodule Snakepit.GRPC.Health do
  @moduledoc false
  # grpc.health.v1: what is served, is well. A listener that stops ends the
  # watches with UNAVAILABLE.

  alias Snakepit.GRPC.{BridgeServer, Incoming, Served}
  alias Snakepit.Native

  @service "grpc.health.v1.Health"
  @check "/#{@service}/Check"
  @watch "/#{@service}/Watch"

  @serving 1
  @service_unknown 3
  @invalid_argument 3
  @not_found 5

  @spec service() :: String.t()
  def service, do: @service

  @spec methods() :: [String.t()]
  def methods, do: [@check, @watch]

  @spec handle(String.t(), binary, Incoming.t()) ::
          {:ok, binary} | :done | BridgeServer.failure()
  def handle(method, bytes, call) do
    case Native.message_decode(:HealthCheckRequest, bytes) do
      {:ok, %{service: service}} -> answer(method, service, known?(service), call)
      {:error, {:decode, text}} -> {:error, @invalid_argument, text}
    end
  end

  defp known?(service), do: service in ["" | Served.services()]

  defp answer(@check, _service, true, _call), do: {:ok, status(@serving)}

  defp answer(@check, service, false, _call),
    do: {:error, @not_found, "there is no service #{inspect(service)}"}

  # It never changes; the client ends it.
  defp answer(@watch, _service, known?, call) do
    with :ok <- Incoming.send(call, status(if known?, do: @serving, else: @service_unknown)) do
      receive do
        :never -> :done
      end
    else
      {:error, :cancelled} -> :done
    end
  end

  defp status(status) do
    {:ok, bytes} = Native.message_encode(:HealthCheckResponse, %{status: status})
    bytes
  end
end
