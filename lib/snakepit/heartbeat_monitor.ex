defmodule Snakepit.HeartbeatMonitor do
  @moduledoc """
  Watches over one worker: pings it at intervals and expects a pong.

  A ping that is not answered within `:timeout_ms` is a miss. A worker from which
  nothing is heard for `:timeout_ms` times `:max_missed_heartbeats` is dead: with
  `dependent: true` (the default) its process gets the exit signal
  `{:shutdown, {:heartbeat_failed, reason}}`, otherwise that is only logged and
  the count begins again.

  Snakepit starts one for each worker whose pool has not
  `heartbeat: %{enabled: false}`. Of your own, for a process that you manage:

      {:ok, monitor} =
        Snakepit.HeartbeatMonitor.start_link(
          worker_pid: worker,
          worker_id: "sensor",
          ping_interval_ms: 1_000,
          timeout_ms: 3_000,
          ping_fun: fn timestamp ->
            send(worker, {:ping, monitor, timestamp})
            :ok
          end
        )

      # in the worker, on {:ping, monitor, timestamp}:
      Snakepit.HeartbeatMonitor.notify_pong(monitor, timestamp)

  `:ping_fun` runs in a process of its own, so it may wait. `{:error, reason}`,
  or an exception, from it is a miss; what else it returns means that the ping is
  on its way. `notify_pong(self(), timestamp)` in it is a pong too.
  """

  use GenServer

  alias Snakepit.{Defaults, Telemetry}

  @type start_option ::
          {:worker_pid, pid}
          | {:worker_id, String.t()}
          | {:ping_interval_ms, pos_integer}
          | {:timeout_ms, pos_integer}
          | {:max_missed_heartbeats, pos_integer}
          | {:initial_delay_ms, non_neg_integer}
          | {:ping_fun, (integer -> :ok | {:ok, term} | {:error, term} | term)}
          | {:dependent, boolean}

  # Besides, for Snakepit's own workers: `:direct?`, the ping does not wait and
  # is made in this process; `:sign`, two functions: what the first says when a
  # ping is long under way is shown to the second when it is a miss, which says
  # :active for a worker that gives another sign of life; `:test_pid`, told of
  # start, stop and failure.

  @doc "A specification for a supervisor; takes the options of `start_link/1`."
  @spec child_spec([start_option] | map) :: Supervisor.child_spec()
  def child_spec(opts) do
    %{id: {__MODULE__, opts[:worker_id]}, start: {__MODULE__, :start_link, [opts]}}
  end

  @doc "Starts a monitor. `:worker_pid`, `:worker_id` and `:ping_fun` are required."
  @spec start_link([start_option] | map) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, Map.new(opts))

  @doc "Says that the worker answered the ping of `timestamp`."
  @spec notify_pong(pid, integer) :: :ok
  def notify_pong(monitor, timestamp), do: GenServer.cast(monitor, {:pong, timestamp})

  @doc """
  What it has seen: `missed_heartbeats`, `pings`, `pongs`, `timeouts`, `failures`,
  `busy` (times that the worker was too busy to answer, which is no miss),
  `last_latency_ms`, and its settings.
  """
  @spec get_status(GenServer.server()) :: map
  def get_status(monitor), do: GenServer.call(monitor, :status)

  # ---- the process --------------------------------------------------------

  @impl true
  def init(opts) do
    _ = Process.flag(:trap_exit, true)

    state = %{
      worker_pid: Map.fetch!(opts, :worker_pid),
      worker_id: Map.fetch!(opts, :worker_id),
      ping_fun: Map.fetch!(opts, :ping_fun),
      interval: opts[:ping_interval_ms] || Defaults.heartbeat_ping_interval_ms(),
      timeout: opts[:timeout_ms] || Defaults.heartbeat_timeout_ms(),
      max_missed: max(opts[:max_missed_heartbeats] || Defaults.heartbeat_max_missed(), 1),
      dependent: Map.get(opts, :dependent, true),
      direct?: Map.get(opts, :direct?, false),
      sign: opts[:sign],
      test_pid: opts[:test_pid],
      # Since when nothing is heard; the ping that is not answered yet, when it
      # was sent and is a miss, whether it was given more time, the process that
      # sends it, what is seen of the worker meanwhile, and the timer for the next.
      heard_at: now(),
      ping: nil,
      sent_at: nil,
      due: nil,
      again?: false,
      sender: nil,
      seen: nil,
      timer: nil,
      missed: 0,
      reason: nil,
      pings: 0,
      pongs: 0,
      timeouts: 0,
      failures: 0,
      busy: 0,
      latency: nil
    }

    _ = Process.monitor(state.worker_pid)
    delay = opts[:initial_delay_ms] || Defaults.heartbeat_initial_delay_ms()
    state = ping_at(state, now() + delay)
    emit(state, :monitor_started, %{})
    tell_test(state, {:heartbeat_monitor_started, state.worker_id, self()})
    {:ok, state}
  end

  @impl true
  def handle_call(:status, _from, state) do
    status = %{
      worker_id: state.worker_id,
      worker_pid: state.worker_pid,
      missed_heartbeats: state.missed,
      pings: state.pings,
      pongs: state.pongs,
      timeouts: state.timeouts,
      failures: state.failures,
      busy: state.busy,
      last_latency_ms: state.latency,
      ping_interval_ms: state.interval,
      timeout_ms: state.timeout,
      max_missed_heartbeats: state.max_missed,
      dependent: state.dependent
    }

    {:reply, status, state}
  end

  @impl true
  # Whichever ping it answers: the worker lives.
  def handle_cast({:pong, timestamp}, state) do
    latency = max(now() - timestamp, 0)
    state = %{state | pongs: state.pongs + 1, latency: latency}
    emit(state, :pong_received, %{pongs: state.pongs, latency_ms: latency})
    {:noreply, heard(state)}
  end

  def handle_cast(_other, state), do: {:noreply, state}

  @impl true
  def handle_info(:ping, state), do: {:noreply, ping(%{state | timer: nil})}

  def handle_info({:look, ping}, %{ping: ping, sign: {look, _judge}} = state),
    do: {:noreply, %{state | seen: look.()}}

  def handle_info({:overdue, ping}, %{ping: ping} = state), do: overdue(state)

  # What came of a ping is told by its sender, unless that was killed.
  def handle_info({:sent, pid, {:error, why}}, %{sender: {pid, _}} = state),
    do: {:noreply, %{state | reason: why}}

  def handle_info({:DOWN, ref, :process, _pid, :normal}, %{sender: {_, ref}} = state),
    do: {:noreply, %{state | sender: nil}}

  def handle_info({:DOWN, ref, :process, _pid, reason}, %{sender: {_, ref}} = state),
    do: {:noreply, %{state | sender: nil, reason: reason}}

  def handle_info({:DOWN, _ref, :process, pid, reason}, %{worker_pid: pid} = state),
    do: {:stop, if(planned?(reason), do: :normal, else: {:shutdown, :worker_down}), state}

  # Whoever started it stops it.
  def handle_info({:EXIT, _pid, reason}, state), do: {:stop, reason, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    _ = stop_sender(state)
    emit(state, :monitor_stopped, %{}, %{reason: reason})
    tell_test(state, {:heartbeat_monitor_stopped, state.worker_id, reason})
  end

  defp planned?(:normal), do: true
  defp planned?(:shutdown), do: true
  defp planned?({:shutdown, _}), do: true
  defp planned?(_), do: false

  # ---- pings --------------------------------------------------------------

  defp ping_at(state, time) do
    _ = state.timer && Process.cancel_timer(state.timer)
    %{state | timer: Process.send_after(self(), :ping, time, abs: true)}
  end

  # Misses are counted from the last sign of life, so that a dead worker is found
  # in `timeout` times `max_missed`; from the ping when pings are rarer.
  defp ping(state) do
    timestamp = now()
    early = if state.interval < state.timeout, do: state.interval, else: 0
    since = max(state.heard_at, timestamp - early)
    heard_at = if state.missed == 0, do: since, else: state.heard_at
    due = heard_at + (state.missed + 1) * state.timeout
    ping = make_ref()
    _ = Process.send_after(self(), {:overdue, ping}, due, abs: true)

    _ =
      state.sign && Process.send_after(self(), {:look, ping}, div(timestamp + due, 2), abs: true)

    state = %{
      state
      | ping: ping,
        sent_at: timestamp,
        due: due,
        again?: false,
        heard_at: heard_at,
        seen: nil,
        reason: nil,
        pings: state.pings + 1
    }

    emit(state, :ping_sent, %{pings: state.pings})
    send_ping(state, timestamp)
  end

  defp send_ping(%{direct?: true} = state, timestamp) do
    case attempt(state.ping_fun, timestamp) do
      :ok -> state
      {:error, why} -> %{state | reason: why}
    end
  end

  defp send_ping(state, timestamp) do
    monitor = self()
    fun = state.ping_fun
    state = stop_sender(state)

    sender =
      spawn_monitor(fn ->
        result = attempt(fun, timestamp)
        forward_pongs(monitor)
        send(monitor, {:sent, self(), result})
      end)

    %{state | sender: sender}
  end

  defp attempt(fun, timestamp) do
    case fun.(timestamp) do
      {:error, why} -> {:error, why}
      :error -> {:error, :error}
      _sent -> :ok
    end
  rescue
    exception -> {:error, exception}
  catch
    kind, reason -> {:error, {kind, reason}}
  end

  # It is "self()" to a ping_fun.
  defp forward_pongs(monitor) do
    receive do
      {:"$gen_cast", {:pong, timestamp}} ->
        notify_pong(monitor, timestamp)
        forward_pongs(monitor)
    after
      0 -> :ok
    end
  end

  defp stop_sender(%{sender: nil} = state), do: state

  defp stop_sender(%{sender: {pid, ref}} = state) do
    true = Process.demonitor(ref, [:flush])
    true = Process.exit(pid, :kill)
    %{state | sender: nil}
  end

  # ---- what comes of them -------------------------------------------------

  defp heard(state) do
    next = max((state.sent_at || now()) + state.interval, now())
    ping_at(%{state | ping: nil, heard_at: now(), missed: 0, reason: nil}, next)
  end

  # Held up itself, it has seen too little of the worker, whose answer may be on its
  # way: once for each ping it looks again.
  defp overdue(state) do
    cond do
      not state.again? and now() - state.due > div(state.timeout, 4) ->
        {:noreply, look_again(state)}

      state.seen != nil and judge(state) == :active ->
        {:noreply, heard(%{state | busy: state.busy + 1})}

      true ->
        missed(state)
    end
  end

  defp look_again(state) do
    due = now() + div(state.timeout, 2)
    _ = Process.send_after(self(), {:overdue, state.ping}, due, abs: true)
    seen = with {look, _judge} <- state.sign, do: look.()
    %{state | again?: true, due: due, heard_at: state.heard_at + due - state.due, seen: seen}
  end

  defp judge(%{sign: {_look, judge}, seen: seen}), do: judge.(seen)

  # Time in which this process itself did not run counts for nothing.
  defp missed(state) do
    late = max(now() - state.due, 0)
    reason = if state.reason, do: {:ping_failed, state.reason}, else: :timeout

    state = %{
      state
      | missed: state.missed + 1,
        timeouts: state.timeouts + 1,
        heard_at: state.heard_at + late,
        ping: nil
    }

    emit(state, :heartbeat_timeout, %{timeouts: state.timeouts, missed: state.missed}, %{
      missed_count: state.missed
    })

    if state.missed >= state.max_missed,
      do: failed(state, reason),
      else: {:noreply, ping(state)}
  end

  defp failed(state, reason) do
    failure = {:heartbeat_failed, failure_text(state, reason)}
    state = %{state | failures: state.failures + 1}
    emit(state, :monitor_failure, %{failures: state.failures}, %{failure_reason: reason})
    tell_test(state, {:heartbeat_monitor_failed, state.worker_id, reason})

    Snakepit.Logger.warning(:worker, fn ->
      "worker #{state.worker_id}: #{elem(failure, 1)}" <>
        if(state.dependent, do: "", else: "; it goes on (dependent: false)")
    end)

    if state.dependent do
      true = Process.exit(state.worker_pid, {:shutdown, failure})
      {:stop, {:shutdown, failure}, state}
    else
      {:noreply, heard(state)}
    end
  end

  defp failure_text(state, reason) do
    why =
      case reason do
        :timeout -> ""
        {:ping_failed, why} -> ": #{inspect(why)}"
      end

    "it answered none of #{state.missed} heartbeats in #{now() - state.heard_at} ms#{why}"
  end

  # ---- events -------------------------------------------------------------

  defp emit(state, name, measurements, more \\ %{}) do
    metadata = %{
      worker_id: state.worker_id,
      worker_pid: state.worker_pid,
      missed_heartbeats: state.missed,
      dependent: state.dependent
    }

    metadata = metadata |> Map.merge(Map.take(measurements, [:latency_ms])) |> Map.merge(more)
    measurements = Map.merge(%{timestamp: System.system_time(), count: 1}, measurements)
    Telemetry.execute([:snakepit, :heartbeat, name], measurements, metadata)
  end

  defp tell_test(%{test_pid: pid}, message) when is_pid(pid), do: send(pid, message)
  defp tell_test(_state, _message), do: :ok

  defp now, do: System.monotonic_time(:millisecond)
end
