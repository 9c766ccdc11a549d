defmodule Snakepit.GRPC.Health do
  @moduledoc false
  # grpc.health.v1: the server as a whole serves while all pools do, a pool while it
  # takes calls and has a worker; services serve because they are there. A
  # listener that stops ends the watches with UNAVAILABLE.

  alias Snakepit.GRPC.{BridgeServer, Incoming, Served}
  alias Snakepit.Native
  alias Snakepit.Pool.{Changes, RuntimeSupervisor, Targets}

  @service "grpc.health.v1.Health"
  @check "/#{@service}/Check"
  @watch "/#{@service}/Watch"

  @pool "snakepit.pool."

  @serving 1
  @not_serving 2
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
      {:ok, %{service: service}} -> answer(method, service, call)
      {:error, {:decode, text}} -> {:error, @invalid_argument, text}
    end
  end

  defp answer(@check, service, _call) do
    case serving(service) do
      :unknown -> {:error, @not_found, "there is no service #{inspect(service)}"}
      serving? -> {:ok, status(code(serving?))}
    end
  end

  # Until the client ends it.
  defp answer(@watch, service, call) do
    :ok = Changes.listen()
    watch(service, call, nil)
  end

  defp watch(service, call, last) do
    now = code(serving(service))

    with :ok <- if(now == last, do: :ok, else: Incoming.send(call, status(now))) do
      :ok = Changes.await()
      watch(service, call, now)
    else
      {:error, :cancelled} -> :done
    end
  end

  defp serving(""), do: not starting?() and Enum.all?(Targets.all(), &Targets.serves?/1)

  defp serving(@pool <> name) do
    case Targets.find(name) do
      {:ok, target} -> Targets.serves?(target)
      {:error, _, _} -> :unknown
    end
  end

  defp serving(service), do: service in Served.services() or :unknown

  # There are to be pools, and none is there yet.
  defp starting?, do: Process.whereis(RuntimeSupervisor) != nil and Targets.names() == []

  defp code(true), do: @serving
  defp code(false), do: @not_serving
  defp code(:unknown), do: @service_unknown

  defp status(status) do
    {:ok, bytes} = Native.message_encode(:HealthCheckResponse, %{status: status})
    bytes
  end
end
