defmodule Snakepit.Pool.ApplicationCleanup do
  @moduledoc """
  The last to stop: makes sure that no worker process is left, and removes
  this run's temporary directory.
  """

  use GenServer

  alias Snakepit.{Defaults, OSProcess, RuntimeCleanup, ShutdownEvents}
  alias Snakepit.Pool.ProcessRegistry

  @key {__MODULE__, :run_dir}

  @doc false
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc false
  # Only this user can look into it.
  @spec run_dir() :: Path.t()
  def run_dir, do: :persistent_term.get(@key)

  @doc false
  # A directory that everybody may write to, and nobody but us may list.
  @spec open_dir() :: Path.t()
  def open_dir do
    dir = run_dir() <> "-open"
    _ = File.mkdir(dir)
    :ok = File.chmod(dir, 0o733)
    dir
  end

  @impl true
  def init(_opts) do
    _ = Process.flag(:trap_exit, true)
    dir = Path.join(System.tmp_dir!(), "snakepit-#{System.pid()}-#{random()}")

    with :ok <- File.mkdir(dir),
         :ok <- File.chmod(dir, 0o700) do
      :persistent_term.put(@key, dir)
      {:ok, dir}
    else
      {:error, why} -> {:stop, {:no_temporary_directory, dir, why}}
    end
  end

  @impl true
  def terminate(_reason, dir) do
    entries = ProcessRegistry.current_run_entries()
    if Application.get_env(:snakepit, :cleanup_on_stop, true), do: clean_up(entries)
    _ = File.rm_rf(dir)
    _ = File.rm_rf(dir <> "-open")
    :persistent_term.erase(@key)
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

  defp random, do: Base.url_encode64(:crypto.strong_rand_bytes(9))
end
