defmodule Snakepit.GRPCWorker.Remote do
  @moduledoc false
  # A worker that comes by gRPC: where it listens, and its channel.

  alias Snakepit.{Defaults, Native}
  alias Snakepit.GRPCWorker.{Launch, State}

  @ping "/snakepit.bridge.BridgeService/Ping"
  @ping_timeout_ms 2_000
  @first_poll_ms 3
  @slowest_poll_ms 50
  # Where the look is for the case that what the worker tells gets lost.
  @told_poll_ms 500

  @doc "Has this process look at the ready file again, or ping again."
  @spec poll(State.t()) :: State.t()
  def poll(state) do
    _ = Process.send_after(self(), {:poll, state.os_id}, next_poll(state))
    state
  end

  # So that the look that finds it comes late by an eighth at most.
  defp next_poll(%State{phase: :waiting} = state) do
    left = max(state.deadline - System.monotonic_time(:millisecond), 0)
    passed = Defaults.grpc_server_ready_timeout() - left

    if state.tells?,
      do: min(@told_poll_ms, left + 1),
      else: passed |> div(8) |> max(@first_poll_ms) |> min(@slowest_poll_ms)
  end

  defp next_poll(_state), do: @slowest_poll_ms

  @spec read_port(Path.t()) :: {:ok, :inet.port_number()} | :not_yet
  def read_port(path) do
    with {:ok, text} <- File.read(path),
         {port, _rest} when port > 0 and port < 65_536 <- Integer.parse(String.trim(text)) do
      _ = File.rm(path)
      {:ok, port}
    else
      _ -> :not_yet
    end
  end

  @spec connect(State.t()) :: State.t()
  def connect(state) do
    channel = Native.channel_open("127.0.0.1:#{state.port}", Launch.shown())
    if state.cbor?, do: :ok = Native.channel_takes_cbor(channel)
    %{state | channel: channel}
  end

  @doc "From its first answer: workers that are not ours do not say what they take, and get JSON."
  @spec learn(State.t(), binary) :: State.t()
  def learn(state, pong) do
    case Native.message_decode(:PingResponse, pong) do
      {:ok, %{accepts_cbor: true}} ->
        :ok = Native.channel_takes_cbor(state.channel)
        %{state | cbor?: true}

      _ ->
        state
    end
  end

  @doc "A new channel, where there is one."
  @spec reconnect(State.t()) :: State.t()
  def reconnect(%State{local: nil} = state) do
    :ok = Native.channel_close(state.channel)
    connect(state)
  end

  def reconnect(state), do: state

  @spec ping(State.t()) :: State.t()
  def ping(state), do: %{state | ping: send_ping(state, @ping_timeout_ms)}

  @spec send_ping(State.t(), pos_integer) :: reference
  def send_ping(state, timeout) do
    ref = make_ref()
    # A message without fields has no bytes.
    {:ok, _call} = Native.rpc_unary(state.channel, ref, @ping, "", timeout, [])
    ref
  end
end
