defmodule Snakepit.GRPCWorker.State do
  @moduledoc false

  alias Snakepit.Config
  alias Snakepit.GRPCWorker.{LogRecord, Output}
  alias Snakepit.Spawner.Settings

  @shown_lines 15
  @shown_bytes 4_096

  defstruct [
    :id,
    :adapter,
    :pool,
    :config,
    :session_id,
    :started_at,
    :os_id,
    :os_pid,
    :program,
    :ready_file,
    :deadline,
    :port,
    :channel,
    # Of a worker that may come, or has come, over the local carrier.
    :local,
    :ping,
    :slot,
    :direct,
    :direct_slot,
    :suspect,
    # While the process is being made.
    :spec,
    :prefork,
    # The process that pings it.
    :heart,
    # The process that reads its telemetry, of a gRPC worker.
    :telemetry,
    # When its channel was made, in native units, of a gRPC worker.
    :connected_at,
    # Of one that is being replaced: why, since and until when.
    :retiring,
    # For the end of its taint.
    :taint_timer,
    # Whether it tells when it is ready.
    tells?: false,
    # Whether it tells of itself before it takes calls, and has done so.
    announces?: false,
    announced?: false,
    # Whether it was Snakepit that killed it.
    killed?: false,
    served: 0,
    # Of a gRPC worker that takes arguments as CBOR.
    cbor?: false,
    phase: :launching,
    fork_failed?: false,
    checks: %{},
    # What the kernel said of the process at its end.
    usage: %{},
    output: %Output{},
    # Of what Python's logging may say.
    budget: LogRecord.budget()
  ]

  @type t :: %__MODULE__{}

  @doc "Keeps the bytes, and logs records, and other lines when that is wanted."
  @spec output(t, :stdout | :stderr, binary) :: t
  def output(state, stream, bytes) do
    {output, lines} = Output.add(state.output, stream, bytes, lines?())
    Enum.reduce(lines, %{state | output: output}, &log/2)
  end

  @doc "Logs what the process wrote last without an end of line."
  @spec output_ended(t) :: :ok
  def output_ended(state) do
    state = state.output |> Output.rest(lines?()) |> Enum.reduce(state, &log/2)
    tell_dropped(state, LogRecord.dropped(state.budget))
  end

  defp lines?, do: Application.get_env(:snakepit, :log_python_output, false)

  defp log({:record, record}, state) do
    if Snakepit.Logger.should_log?(record.level, :worker),
      do: log_record(record, state),
      else: state
  end

  defp log({level, stream, line}, state) do
    write(level, fn -> "#{state.id}: #{line}" end, [{:stream, stream} | metadata(state)])
    state
  end

  # The log may be slow, and this process has more to do.
  defp log_record(record, state) do
    {log?, dropped, budget} =
      LogRecord.take(state.budget, record.level, System.monotonic_time(:millisecond))

    :ok = tell_dropped(state, dropped)

    if log? do
      text = fn -> "#{state.id}: #{record.logger}: #{record.message}" end
      write(record.level, text, record.metadata ++ metadata(state))
    end

    %{state | budget: budget}
  end

  defp tell_dropped(_state, {0, _level}), do: :ok

  defp tell_dropped(state, {count, level}) do
    text = "#{state.id}: #{count} log records of Python came too quickly and are not here"
    write(level, fn -> text end, metadata(state))
  end

  defp metadata(state), do: [worker_id: state.id, pool: state.pool, os_pid: state.os_pid]

  defp write(:debug, text, metadata), do: Snakepit.Logger.debug(:worker, text, metadata)
  defp write(:info, text, metadata), do: Snakepit.Logger.info(:worker, text, metadata)
  defp write(:warning, text, metadata), do: Snakepit.Logger.warning(:worker, text, metadata)
  defp write(:error, text, metadata), do: Snakepit.Logger.error(:worker, text, metadata)

  @doc "The last lines of the output: plain, and as the end of a message."
  @spec last_lines(t) :: {String.t(), String.t()}
  def last_lines(state) do
    lines =
      state.output
      |> Output.last(@shown_bytes)
      |> Output.printable()
      |> String.split("\n", trim: true)
      |> Enum.take(-@shown_lines)

    case lines do
      [] -> {"", ""}
      lines -> {Enum.join(lines, "\n"), ". Its last output:\n  " <> Enum.join(lines, "\n  ")}
    end
  end

  @doc "What callers are told about the end of the process."
  @spec exit_info(t, term) :: map
  def exit_info(state, how) do
    {tail, shown} = last_lines(state)
    why = if state.suspect && not match?({:lost, _}, how), do: " (#{state.suspect})", else: ""

    known = %{
      worker_id: state.id,
      os_pid: state.os_pid,
      exit: exit_cause(how),
      stderr: tail,
      usage: Map.take(state.usage, [:utime_us, :stime_us, :max_rss_kb]),
      core_dumped: Map.get(state.usage, :core_dumped, false),
      oom: Map.get(state.usage, :oom),
      text: "OS process #{state.os_pid} #{exit_text(how)}#{cause_text(state, how)}#{why}#{shown}"
    }

    known = if state.killed?, do: Map.put(known, :killed, true), else: known

    case how do
      {:status, status} -> Map.put(known, :exit_status, status)
      {:signal, signal} -> Map.put(known, :signal, signal)
      _ -> known
    end
  end

  @spec exit_text(term) :: String.t()
  def exit_text({:status, status}), do: "exited with status #{status}"
  def exit_text({:signal, signal}), do: "was killed by signal #{signal}#{signal_name(signal)}"
  def exit_text(:spawner_lost), do: "was lost with its spawner"
  def exit_text(:stopped), do: "was stopped"
  def exit_text({:retired, reason}), do: "was stopped, as it had to be replaced (#{reason})"
  def exit_text({:lost, text}), do: "is killed: #{text}"
  def exit_text({:crashed, reason}), do: "was stopped: #{inspect(reason)}"

  @spec exit_cause(term) :: term
  def exit_cause({:status, status}), do: {:exit_status, status}
  def exit_cause({:lost, _text}), do: :not_responding
  def exit_cause(other), do: other

  @spec info(t) :: map
  def info(state) do
    %{
      id: state.id,
      worker_id: state.id,
      pool_name: state.pool,
      adapter: state.adapter,
      phase: state.phase,
      port: state.port,
      process_pid: state.os_pid,
      session_id: state.session_id,
      capacity: capacity(state.config),
      uptime_ms: System.monotonic_time(:millisecond) - state.started_at
    }
  end

  @doc "How many calls it gets at a time."
  @spec capacity(map) :: pos_integer
  def capacity(config) do
    cond do
      config[:capacity_strategy] == :profile -> 1
      Config.thread_profile?(config) -> config[:threads_per_worker] || 1
      true -> config[:concurrency] || 1
    end
  end

  @doc "What the kernel, or a limit of the pool, had to do with it."
  @spec cause_text(t, term) :: String.t()
  def cause_text(state, how) do
    [
      if(state.usage[:core_dumped], do: " (core dumped)"),
      oom_text(state),
      limit_text(state, how),
      if(state.usage[:process_limit], do: "; it had met its limit of processes")
    ]
    |> Enum.join()
  end

  defp oom_text(%{usage: %{oom: :cgroup}} = state) do
    "; it was out of memory (limits: [memory: #{inspect(limit(state, :memory))}])"
  end

  defp oom_text(%{usage: %{oom: :perhaps}}),
    do: "; perhaps by the kernel, which has killed for lack of memory meanwhile"

  defp oom_text(_state), do: nil

  defp limit_text(state, {:signal, 24}) do
    "; it has used up its processor time (limits: [cpu_seconds: " <>
      "#{inspect(limit(state, :cpu_seconds))}])"
  end

  defp limit_text(state, {:signal, 25}) do
    "; it has written too large a file (limits: [file_size: " <>
      "#{inspect(limit(state, :file_size))}])"
  end

  defp limit_text(_state, _how), do: nil

  defp limit(state, name), do: Settings.limit_of(state.config || %{}, name)

  @names %{
    1 => "HUP",
    2 => "INT",
    4 => "ILL",
    6 => "ABRT",
    7 => "BUS",
    8 => "FPE",
    9 => "KILL",
    11 => "SEGV",
    13 => "PIPE",
    15 => "TERM",
    24 => "XCPU",
    25 => "XFSZ",
    31 => "SYS"
  }

  defp signal_name(signal) do
    case @names do
      %{^signal => name} -> " (SIG#{name})"
      _ -> ""
    end
  end

  # A worker's output and arguments have no place in a crash report.
  defimpl Inspect do
    def inspect(state, _opts),
      do: "#Snakepit.GRPCWorker<#{state.id}, #{state.phase}, OS process #{state.os_pid}>"
  end
end
