defmodule Snakepit.GRPC.ClientImpl do
  @moduledoc """
  The older name of `Snakepit.GRPC.Client`.
  """

  alias Snakepit.GRPC.Client

  @type channel :: Client.channel()
  @type result :: Client.result()

  @doc "See `Snakepit.GRPC.Client.connect/2`."
  @spec connect(Client.target(), keyword) :: {:ok, channel} | {:error, term}
  defdelegate connect(port, opts \\ []), to: Client

  @doc "See `Snakepit.GRPC.Client.ping/3`."
  @spec ping(channel, String.t(), keyword) :: result
  defdelegate ping(channel, message, opts \\ []), to: Client

  @doc "See `Snakepit.GRPC.Client.initialize_session/4`."
  @spec initialize_session(channel, String.t(), map, keyword) :: result
  defdelegate initialize_session(channel, session_id, config \\ %{}, opts \\ []), to: Client

  @doc "See `Snakepit.GRPC.Client.cleanup_session/4`."
  @spec cleanup_session(channel, String.t(), boolean, keyword) :: result
  defdelegate cleanup_session(channel, session_id, force \\ false, opts \\ []), to: Client

  @doc "See `Snakepit.GRPC.Client.get_session/3`."
  @spec get_session(channel, String.t(), keyword) :: result
  defdelegate get_session(channel, session_id, opts \\ []), to: Client

  @doc "See `Snakepit.GRPC.Client.heartbeat/3`."
  @spec heartbeat(channel, String.t(), keyword) :: result
  defdelegate heartbeat(channel, session_id, opts \\ []), to: Client

  @doc "See `Snakepit.GRPC.Client.execute_tool/5`."
  @spec execute_tool(channel, String.t(), String.t(), map, keyword) :: result
  defdelegate execute_tool(channel, session_id, tool_name, parameters, opts \\ []), to: Client

  @doc "See `Snakepit.GRPC.Client.execute_streaming_tool/5`."
  @spec execute_streaming_tool(channel, String.t(), String.t(), map, keyword) ::
          {:ok, Enumerable.t()} | {:error, term}
  defdelegate execute_streaming_tool(channel, session_id, tool_name, parameters, opts \\ []),
    to: Client
end
