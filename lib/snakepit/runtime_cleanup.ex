defmodule Snakepit.RuntimeCleanup do
  @moduledoc """
  Bounded passes that end worker processes. A process is killed only when it
  still is the one that was started: its number and its start time agree.
  """

  alias Snakepit.{Defaults, OSProcess, Spawner}
  alias Snakepit.Pool.ProcessRegistry

  @type entry :: {worker_id :: String.t(), map}

  @doc "Ends all workers of this run. While the pools run they start new ones a little later."
  @spec cleanup_current_run(keyword) :: :ok | {:timeout, [pos_integer]}
  def cleanup_current_run(opts \\ []) do
    if Process.whereis(ProcessRegistry) do
      entries = ProcessRegistry.current_run_entries()
      stop_workers()
      run(entries, opts)
    else
      :ok
    end
  end

  @doc """
  Waits for the processes of `entries` to be gone, and kills those that are
  not. `:timeout_ms` bounds the wait; what is left after it is returned.
  """
  @spec run([entry], keyword) :: :ok | {:timeout, [pos_integer]}
  def run(entries, opts \\ []) do
    bound = opts[:timeout_ms] || Defaults.cleanup_on_stop_timeout_ms()
    processes = for {_id, %{process_pid: pid} = entry} <- entries, do: {pid, entry[:start_time]}

    case survivors(processes) do
      [] ->
        :ok

      left ->
        _ = Spawner.kill_processes(left)
        await(left, System.monotonic_time(:millisecond) + bound)
    end
  end

  defp await(processes, until) do
    case survivors(processes) do
      [] ->
        :ok

      left ->
        if System.monotonic_time(:millisecond) >= until do
          {:timeout, Enum.map(left, &elem(&1, 0))}
        else
          Process.sleep(Defaults.cleanup_poll_interval_ms())
          await(left, until)
        end
    end
  end

  defp survivors(processes),
    do: Enum.filter(processes, fn {pid, t} -> OSProcess.alive?(pid, t) end)

  defp stop_workers do
    GenServer.call(Snakepit.Pool, :stop_workers, :infinity)
  catch
    # Without pools there is nobody who would start workers again.
    :exit, _ -> :ok
  end
end
