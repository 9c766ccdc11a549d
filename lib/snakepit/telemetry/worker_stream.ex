defmodule Snakepit.Telemetry.WorkerStream do
  @moduledoc false
  # The telemetry stream of one gRPC worker: opened, read, and opened again when it
  # is lost, for as long as the process lives that started this one.

  use GenServer, restart: :temporary

  alias Snakepit.Bridge.TelemetryControl
  alias Snakepit.Native
  alias Snakepit.Telemetry.{Control, Folding, GrpcStream}

  @method "/snakepit.bridge.BridgeService/StreamTelemetry"
  @unimplemented 12
  # A stream begins with 16 credits; they are given back by so many.
  @credit 8
  @first_wait_ms 100
  @longest_wait_ms 5_000
  @attach_again_ms 100

  @spec start_link(reference, GrpcStream.worker_ctx()) :: GenServer.on_start()
  def start_link(channel, ctx), do: GenServer.start_link(__MODULE__, {channel, ctx, self()})

  @doc "Also when it has ended."
  @spec stop(pid | nil) :: :ok
  def stop(nil), do: :ok

  def stop(pid) do
    _ = Process.unlink(pid)
    _ = Process.exit(pid, :kill)
    :ok
  end

  @impl true
  def init({channel, ctx, owner}) do
    {:ok,
     %{
       # Whose end may be a normal one, of which a link says nothing.
       owner: Process.monitor(owner),
       channel: channel,
       ctx: ctx,
       server: GrpcStream.attach(:grpc, ctx),
       settings: nil,
       ref: nil,
       rpc: nil,
       taken: 0,
       wait: @first_wait_ms
     }}
  end

  @impl true
  def handle_info({:snakepit_telemetry, settings, nil}, %{ref: nil} = state),
    do: {:noreply, open(%{state | settings: settings})}

  # The server was replaced, and with it the settings.
  def handle_info({:snakepit_telemetry, settings, nil}, state) do
    state = %{state | settings: settings}
    {:noreply, Enum.reduce(messages(settings), state, &tell(&2, &1))}
  end

  def handle_info({:snakepit_telemetry, settings, message}, state),
    do: {:noreply, tell(%{state | settings: settings}, message)}

  def handle_info(:snakepit_telemetry_over, state), do: {:stop, :normal, state}

  def handle_info({ref, {:chunk, bytes}}, %{ref: ref} = state) do
    :ok = Folding.message(bytes, state.ctx)
    {:noreply, credited(%{state | wait: @first_wait_ms})}
  end

  # A worker without telemetry.
  def handle_info({ref, {:error, {:grpc, @unimplemented, _text}}}, %{ref: ref} = state),
    do: {:stop, :normal, state}

  def handle_info({ref, _ended}, %{ref: ref} = state) do
    _ = Process.send_after(self(), :open, state.wait)
    {:noreply, %{state | ref: nil, rpc: nil, wait: min(2 * state.wait, @longest_wait_ms)}}
  end

  def handle_info(:open, %{ref: nil} = state), do: {:noreply, open(state)}

  def handle_info({:DOWN, ref, :process, _, _}, %{owner: ref} = state),
    do: {:stop, :normal, state}

  def handle_info({:DOWN, ref, :process, _, _}, %{server: ref} = state) do
    _ = Process.send_after(self(), :attach, @attach_again_ms)
    {:noreply, state}
  end

  def handle_info(:attach, state),
    do: {:noreply, %{state | server: GrpcStream.attach(:grpc, state.ctx)}}

  def handle_info(_other, state), do: {:noreply, state}

  defp open(state) do
    ref = make_ref()
    [first | rest] = messages(state.settings)
    bytes = TelemetryControl.encode(first)
    {:ok, rpc} = Native.rpc_bidi(state.channel, ref, @method, bytes, :infinity, [])
    Enum.reduce(rest, %{state | ref: ref, rpc: rpc, taken: 0}, &tell(&2, &1))
  end

  # What the worker has to hear when it knows nothing.
  defp messages(settings) do
    sampling = [Control.sampling(settings.rate) | Enum.map(settings.rates, &of_pattern/1)]
    filter = Control.filter(allow: settings.allow, deny: settings.deny)
    sampling ++ [filter, Control.toggle(settings.enabled)]
  end

  defp of_pattern({pattern, rate}), do: Control.sampling(rate, [pattern])

  defp tell(%{rpc: nil} = state, _message), do: state

  # One that does not read what it is told is asked anew from the start.
  defp tell(state, message) do
    with {:error, :full} <- Native.rpc_send(state.rpc, TelemetryControl.encode(message)),
         do: Native.call_cancel(state.rpc)

    state
  end

  defp credited(%{taken: taken} = state) when taken + 1 == @credit do
    :ok = Native.call_credit(state.rpc, @credit)
    %{state | taken: 0}
  end

  defp credited(state), do: %{state | taken: state.taken + 1}
end
