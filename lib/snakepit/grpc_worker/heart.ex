defmodule Snakepit.GRPCWorker.Heart do
  @moduledoc false
  # The heartbeats of one worker: which ping it gets, and what else shows that it
  # lives when it cannot answer.

  alias Snakepit.{Config, HeartbeatMonitor, Native}
  alias Snakepit.GRPCWorker.State
  alias Snakepit.Worker.Vitals

  import Bitwise, only: [<<<: 2]

  @ping "/snakepit.bridge.BridgeService/Ping"
  # A ping's number on the local carrier is its time, which may be negative.
  @offset 1 <<< 62

  @doc "Starts the monitor that the pool's configuration asks for, linked to this process."
  @spec start(State.t()) :: State.t()
  def start(state) do
    config = config(state)

    if config.enabled do
      {:ok, monitor} = state |> options(config) |> HeartbeatMonitor.start_link()
      %{state | heart: monitor}
    else
      %{state | heart: nil}
    end
  end

  @doc "The same for a worker whose channel is another one now."
  @spec restart(State.t()) :: State.t()
  def restart(%{heart: nil} = state), do: start(state)

  def restart(state) do
    true = Process.unlink(state.heart)
    true = Process.exit(state.heart, :shutdown)
    start(state)
  end

  # A worker that stands alone may have no complete configuration.
  defp config(state), do: Map.merge(Config.heartbeat_defaults(), state.config[:heartbeat] || %{})

  defp options(state, config) do
    {ping_fun, direct?} = ping_fun(state, config)

    [
      worker_pid: self(),
      worker_id: state.id,
      ping_interval_ms: config.ping_interval_ms,
      timeout_ms: config.timeout_ms,
      max_missed_heartbeats: config.max_missed_heartbeats,
      initial_delay_ms: config.initial_delay_ms,
      dependent: config.dependent,
      ping_fun: ping_fun,
      direct?: direct?,
      sign: sign(state),
      test_pid: config[:test_pid]
    ]
  end

  # ---- pings --------------------------------------------------------------

  # A ping of the user's or the adapter's is its own pong.
  defp ping_fun(_state, %{ping_fun: fun}) when is_function(fun, 1),
    do: {answered(fun), false}

  defp ping_fun(%{local: %{link: link}}, _config),
    do: {&Native.local_ping(link, &1 + @offset), true}

  defp ping_fun(state, config) do
    %{channel: channel, session_id: session, adapter: adapter} = state

    cond do
      function_exported?(adapter, :grpc_heartbeat, 3) ->
        {answered(fn _ -> adapter.grpc_heartbeat(channel, session, config) end), false}

      function_exported?(adapter, :grpc_heartbeat, 2) ->
        {answered(fn _ -> adapter.grpc_heartbeat(channel, session) end), false}

      true ->
        {answered(fn _ -> rpc_ping(channel, config.timeout_ms) end), false}
    end
  end

  defp answered(fun) do
    fn timestamp ->
      case fun.(timestamp) do
        {:error, why} -> {:error, why}
        :error -> {:error, :error}
        _ -> HeartbeatMonitor.notify_pong(self(), timestamp)
      end
    end
  end

  defp rpc_ping(channel, timeout) do
    ref = make_ref()
    {:ok, _call} = Native.rpc_unary(channel, ref, @ping, "", timeout, [])

    receive do
      {^ref, {:ok, _pong}} -> :ok
      {^ref, {:error, why}} -> {:error, why}
    end
  end

  # ---- pongs --------------------------------------------------------------

  @doc """
  A pong by the local carrier. It comes from the native part of the worker; that
  Python has let nobody in for long is not a sign of life.
  """
  @spec pong(State.t(), non_neg_integer, non_neg_integer) :: :ok
  def pong(%{heart: nil}, _n, _stuck_ms), do: :ok

  def pong(state, n, stuck_ms) do
    if stuck_ms < config(state).ping_interval_ms,
      do: HeartbeatMonitor.notify_pong(state.heart, n - @offset),
      else: :ok
  end

  # ---- other signs --------------------------------------------------------

  defp sign(%{os_pid: os_pid, slot: slot}) do
    if File.dir?("/proc/self/task"),
      do: {fn -> Vitals.sample(os_pid) end, &sign(&1, os_pid, slot)},
      else: {fn -> slot end, &busy/1}
  end

  # A tool may wait in C and keep Python's lock, as long as its call lasts.
  defp sign(before, os_pid, slot) do
    now = Vitals.sample(os_pid)

    case Vitals.activity(before, now) do
      :idle -> if not now.stopped? and Vitals.waits?(os_pid), do: busy(slot), else: :idle
      other -> other
    end
  end

  # Where the system does not show what a process does, one with a call has the
  # benefit of the doubt: the call's own time ends it.
  defp busy(slot) do
    case slot && Native.slot_load(slot) do
      {:ok, load} when load > 0 -> :active
      _ -> :idle
    end
  end
end
