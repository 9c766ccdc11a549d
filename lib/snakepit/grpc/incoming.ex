defmodule Snakepit.GRPC.Incoming do
  @moduledoc false
  # A call of the gRPC server, in the process that answers it.

  alias Snakepit.Native

  @type t :: Native.handle()

  @doc "Sends one message of several; waits while the client is behind."
  @spec send(t, iodata) :: :ok | {:error, :cancelled}
  def send(call, bytes) do
    case Native.server_send(call, bytes) do
      :ok -> :ok
      :wait -> await(call)
      {:error, :cancelled} -> {:error, :cancelled}
    end
  end

  # When the client goes meanwhile, this process is told to exit.
  defp await(call) do
    receive do
      {:snakepit_rpc_ready, ^call} -> :ok
    end
  end

  @doc "The client's next message; nil when it sends no more."
  @spec read(t) :: {:ok, binary} | nil | {:error, :cancelled}
  def read(call) do
    with :ok <- Native.server_read(call) do
      receive do
        {:snakepit_rpc_message, ^call, nil} -> nil
        {:snakepit_rpc_message, ^call, bytes} -> {:ok, bytes}
      end
    else
      {:error, _} -> {:error, :cancelled}
    end
  end
end
