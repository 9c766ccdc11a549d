defmodule Snakepit.GRPC.Served do
  @moduledoc false
  # What a listener serves: the bridge service, and those by which tools look at a
  # server, grpc.health.v1 and grpc.reflection.

  alias Snakepit.GRPC.{BridgeServer, Health, Reflection}

  @doc "The names of the services."
  @spec services() :: [String.t(), ...]
  def services, do: [BridgeServer.service_name(), Health.service() | Reflection.services()]

  @doc "Their methods, as gRPC names them: `/package.Service/Method`."
  @spec methods() :: [String.t(), ...]
  def methods, do: BridgeServer.methods() ++ Health.methods() ++ Reflection.methods()

  @doc """
  Answers one call, bytes to bytes, to its gRPC `:call` in the context where it
  streams. `:done` when all was sent already.
  """
  @spec handle(method :: String.t(), binary, BridgeServer.context()) ::
          {:ok, binary} | :done | BridgeServer.failure()
  def handle("/grpc.health." <> _ = method, bytes, context),
    do: Health.handle(method, bytes, context.call)

  def handle("/grpc.reflection." <> _ = method, bytes, context),
    do: Reflection.handle(method, bytes, context.call)

  def handle(method, bytes, context), do: BridgeServer.handle(method, bytes, context)
end
