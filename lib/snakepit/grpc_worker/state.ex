defmodule Snakepit.GRPCWorker.State do
  @moduledoc false

  alias Snakepit.Config

  # What is kept of a process's output for the report of its end.
  @kept_bytes 65_536
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
    # Of one that is being replaced: why, since and until when.
    :retiring,
    served: 0,
    # Of a gRPC worker that takes arguments as CBOR.
    cbor?: false,
    phase: :launching,
    fork_failed?: false,
    checks: %{},
    output: [],
    output_bytes: 0,
    line: ""
  ]

  @type t :: %__MODULE__{}

  @doc "Keeps the bytes, and logs whole lines when that is wanted."
  @spec output(t, :stdout | :stderr, binary) :: t
  def output(state, _stream, bytes) do
    state
    |> keep(bytes)
    |> log(bytes, Application.get_env(:snakepit, :log_python_output, false))
  end

  @doc "The last lines of the output: plain, and as the end of a message."
  @spec last_lines(t) :: {String.t(), String.t()}
  def last_lines(state) do
    lines =
      state
      |> kept()
      |> printable()
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
      text: "OS process #{state.os_pid} #{exit_text(how)}#{why}#{shown}"
    }

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
    if Config.thread_profile?(config) and config[:capacity_strategy] != :profile,
      do: config[:threads_per_worker] || 1,
      else: 1
  end

  @names %{1 => "HUP", 2 => "INT", 6 => "ABRT", 9 => "KILL", 11 => "SEGV", 15 => "TERM"}

  defp signal_name(signal) do
    case @names do
      %{^signal => name} -> " (SIG#{name})"
      _ -> ""
    end
  end

  # Newest first; joined only when there is much more than is kept.
  defp keep(state, bytes) do
    output = [bytes | state.output]
    size = state.output_bytes + byte_size(bytes)

    if size > 2 * @kept_bytes do
      all = output |> Enum.reverse() |> IO.iodata_to_binary()
      rest = :binary.copy(binary_part(all, size - @kept_bytes, @kept_bytes))
      %{state | output: [rest], output_bytes: @kept_bytes}
    else
      %{state | output: output, output_bytes: size}
    end
  end

  defp kept(state) do
    all = state.output |> Enum.reverse() |> IO.iodata_to_binary()
    size = min(byte_size(all), @shown_bytes)
    binary_part(all, byte_size(all) - size, size)
  end

  defp log(state, bytes, true) do
    {lines, [rest]} = (state.line <> bytes) |> String.split("\n") |> Enum.split(-1)

    for line <- lines, line != "" do
      Snakepit.Logger.info(:worker, fn -> "#{state.id}: #{printable(line)}" end)
    end

    %{state | line: rest}
  end

  defp log(state, _bytes, _), do: state

  # Whatever a process writes, a log and an error hold text.
  defp printable(bytes) do
    bytes
    |> String.chunk(:valid)
    |> Enum.map_join(&if String.valid?(&1), do: &1, else: String.duplicate("?", byte_size(&1)))
  end

  # A worker's output and arguments have no place in a crash report.
  defimpl Inspect do
    def inspect(state, _opts),
      do: "#Snakepit.GRPCWorker<#{state.id}, #{state.phase}, OS process #{state.os_pid}>"
  end
end
