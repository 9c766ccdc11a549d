defmodule Snakepit.GRPC.Auth do
  @moduledoc false
  # Who may call what at a listener: whoever shows the token, and, at an internal
  # listener, the processes of our workers. Whether a server is there and what it
  # serves anyone may ask.

  alias Snakepit.GRPC.{BridgeServer, Health, Peer, Reflection, Token}
  alias Snakepit.Native

  @unauthenticated 16

  @type address :: {:inet.ip_address(), :inet.port_number()}
  @type check ::
          (String.t(), [{String.t(), binary}], Native.handle() ->
             :ok | BridgeServer.failure())

  @doc """
  The check of one listener. `token` nil lets everyone in; `local` are the addresses
  whose connections the kernel is asked about.
  """
  @spec new(String.t() | nil, [address]) :: check
  # A function: what it holds is in no crash report.
  def new(nil, _local), do: fn _method, _headers, _call -> :ok end

  def new(token, local) do
    memory = Peer.new_memory()
    fn method, headers, call -> check(method, headers, call, token, local, memory) end
  end

  @doc "Methods that anyone may call."
  @spec open?(String.t()) :: boolean
  def open?(method), do: method in open()

  defp open do
    ["/#{BridgeServer.service_name()}/Ping" | Health.methods() ++ Reflection.methods()]
  end

  defp check(method, headers, call, token, local, memory) do
    if open?(method) or Token.shown?(headers, token) or ours?(call, local, memory),
      do: :ok,
      else: {:error, @unauthenticated, refusal(method, headers)}
  end

  defp ours?(_call, [], _memory), do: false

  defp ours?(call, local, memory) do
    peer = Native.server_peer(call)
    Enum.any?(local, &Peer.worker?(peer, &1, memory))
  end

  defp refusal(method, headers) do
    if List.keymember?(headers, "authorization", 0),
      do: "the token in the metadata `authorization` is not this server's",
      else:
        "#{method} wants a token: send what #{Token.variable()} holds as the metadata " <>
          "`authorization: Bearer <token>`"
  end
end
