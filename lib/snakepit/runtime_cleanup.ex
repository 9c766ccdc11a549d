defmodule Snakepit.RuntimeCleanup do
  @moduledoc """
  Bounded passes that end worker processes. A process is signalled only when
  it still is the one that was started: its number and its start time agree.
  """

  alias Snakepit.{Defaults, Native, OSProcess, ShutdownEvents, Spawner}
  alias Snakepit.Pool.ProcessRegistry

  @type entry :: {worker_id :: String.t(), map}

  @sigterm 15
  @sigkill 9
  @most_grace_ms 2_000

  @doc """
  Ends all workers of this run. While the pools run they start new ones a
  little later. The options are those of `run/2`.
  """
  @spec cleanup_current_run(keyword) :: :ok | {:timeout, [pos_integer]}
  def cleanup_current_run(opts \\ []) do
    if Process.whereis(ProcessRegistry) do
      until = now() + bound(opts)
      entries = ProcessRegistry.current_run_entries()
      stop_workers(bound(opts))
      run(entries, Keyword.put(opts, :timeout_ms, max(until - now(), 0)))
    else
      :ok
    end
  end

  @doc """
  Ends the processes of `entries`, as `Snakepit.Pool.ProcessRegistry.current_run_entries/0`
  gives them: SIGTERM to all, and SIGKILL, with all their descendants, to those
  that are left after half the time, 2 seconds at most.

  `:timeout_ms` (3000) bounds all of it; what is left after it is returned.
  `:poll_interval_ms` (50) is how often it looks.
  """
  @spec run([entry], keyword) :: :ok | {:timeout, [pos_integer]}
  def run(entries, opts \\ []) do
    bound = bound(opts)
    poll = opts[:poll_interval_ms] || Defaults.cleanup_poll_interval_ms()
    processes = for {_id, %{process_pid: pid} = entry} <- entries, do: {pid, entry[:start_time]}

    case survivors(processes) do
      [] -> :ok
      left -> finish(left, now() + bound, min(div(bound, 2), @most_grace_ms), poll)
    end
  end

  defp finish(processes, until, grace, poll) do
    report(:start, processes)
    for {pid, start} <- processes, do: Native.os_signal(pid, start, @sigterm)
    left = await(processes, now() + grace, poll)
    if left != [], do: kill(left)

    case await(left, until, poll) do
      [] ->
        report(:success, processes)

      left ->
        report(:timeout, left)
        {:timeout, Enum.map(left, &elem(&1, 0))}
    end
  end

  # The program waits for their end, which may be longer than we may.
  defp kill(processes) do
    _ =
      spawn(fn ->
        with {:error, _why} <- Spawner.kill_processes(processes),
             do: for({pid, start} <- processes, do: Native.os_signal(pid, start, @sigkill))
      end)

    :ok
  end

  # Those that are left then. Looks at least once.
  defp await(processes, until, poll) do
    left = survivors(processes)
    remaining = until - now()

    if left == [] or remaining <= 0 do
      left
    else
      Process.sleep(min(poll, remaining))
      await(left, until, poll)
    end
  end

  defp survivors(processes),
    do: Enum.filter(processes, fn {pid, t} -> OSProcess.alive?(pid, t) end)

  defp stop_workers(timeout) do
    GenServer.call(Snakepit.Pool, :stop_workers, timeout)
  catch
    # Without pools there is nobody who would start workers again.
    :exit, _ -> :ok
  end

  defp report(what, processes) do
    run_id = if Process.whereis(ProcessRegistry), do: ProcessRegistry.get_beam_run_id()
    ShutdownEvents.emit_count([:cleanup, what], length(processes), run_id)
  end

  defp bound(opts), do: opts[:timeout_ms] || Defaults.cleanup_on_stop_timeout_ms()
  defp now, do: System.monotonic_time(:millisecond)
end
