defmodule Snakepit.Pool.ApplicationCleanup do
  @moduledoc """
  The last to stop: makes sure that no worker process is left, and removes
  this run's temporary directory.
  """

  use GenServer

  alias Snakepit.{Defaults, OSProcess, RuntimeCleanup, ShutdownEvents}
  alias Snakepit.Pool.{ProcessRegistry, RunDir}

  @key {__MODULE__, :run_dir}

  @doc false
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc false
  # Only this user can look into it. A VM without pools has none until it is asked
  # for.
  @spec run_dir() :: Path.t()
  def run_dir do
    with nil <- :persistent_term.get(@key, nil) do
      {:ok, dir} = make_run_dir()
      dir
    end
  end

  @doc false
  @spec make_run_dir() :: {:ok, Path.t()} | {:error, String.t()}
  def make_run_dir, do: GenServer.call(__MODULE__, :make_run_dir)

  @doc false
  # A directory that everybody may write to, and nobody but us may list.
  @spec open_dir() :: Path.t()
  def open_dir, do: RunDir.make_open(run_dir())

  @impl true
  def init(_opts) do
    _ = Process.flag(:trap_exit, true)
    {:ok, nil}
  end

  @impl true
  def handle_call(:make_run_dir, _from, state), do: {:reply, find_or_make(), state}

  defp find_or_make do
    with nil <- :persistent_term.get(@key, nil),
         {:ok, dir} <- RunDir.make() do
      :persistent_term.put(@key, dir)
      {:ok, _} = Task.Supervisor.start_child(Snakepit.TaskSupervisor, RunDir, :sweep, [dir])
      {:ok, dir}
    else
      {:error, why} -> {:error, why}
      dir -> {:ok, dir}
    end
  end

  @impl true
  def terminate(_reason, _state) do
    entries = ProcessRegistry.current_run_entries()
    if Application.get_env(:snakepit, :cleanup_on_stop, true), do: clean_up(entries)

    with dir when dir != nil <- :persistent_term.get(@key, nil) do
      :ok = RunDir.remove(dir)
      :persistent_term.erase(@key)
    end
  end

  # The workers have stopped by now; what is left is what went wrong.
  defp clean_up(entries) do
    left =
      for {_id, %{process_pid: pid, start_time: time}} <- entries, OSProcess.alive?(pid, time) do
        pid
      end

    _ = left != [] && report(:orphaned_processes_found, left)

    case RuntimeCleanup.run(entries, timeout_ms: Defaults.cleanup_on_stop_timeout_ms()) do
      :ok ->
        report(:cleanup_success, left)

      {:timeout, pids} ->
        report(:emergency_cleanup, pids)
        Snakepit.Logger.error(:shutdown, "OS processes are left: #{inspect(pids)}")
    end
  end

  defp report(what, pids) do
    run_id = ProcessRegistry.get_beam_run_id()
    ShutdownEvents.emit_count([:application_cleanup, what], length(pids), run_id)
  end
end
