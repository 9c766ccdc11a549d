defmodule Snakepit.Pool.ProcessRegistry do
  @moduledoc """
  The OS processes of this run's workers: a worker is reserved before its
  process is started, and activated when it runs.
  """

  use GenServer

  alias Snakepit.{Defaults, OSProcess}

  @table :snakepit_pool_process_registry
  @run_id {__MODULE__, :run_id}

  @type entry :: map

  @doc false
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc "The identifier of this run, which every worker has on its command line."
  @spec get_beam_run_id() :: String.t()
  def get_beam_run_id, do: :persistent_term.get(@run_id)

  @doc "Notes that a process for this worker is about to be started."
  @spec reserve_worker(String.t()) :: :ok
  def reserve_worker(worker_id) do
    put(worker_id, %{status: :reserved, reserved_at: System.system_time(:second)})
  end

  @doc "Notes a worker's process."
  @spec activate_worker(String.t(), pid, pos_integer, String.t(), keyword) :: :ok
  def activate_worker(worker_id, elixir_pid, process_pid, fingerprint, opts \\ []) do
    entry = %{
      status: :active,
      elixir_pid: elixir_pid,
      process_pid: process_pid,
      fingerprint: fingerprint,
      start_time: OSProcess.start_time(process_pid),
      registered_at: System.system_time(:second)
    }

    put(worker_id, Map.merge(entry, Map.new(opts)))
  end

  @doc "Forgets a worker, known or not."
  @spec unregister_worker(String.t()) :: :ok
  def unregister_worker(worker_id) do
    GenServer.call(__MODULE__, {:delete, worker_id})
  end

  @doc "What is known of a worker."
  @spec get_worker_info(String.t()) :: {:ok, entry} | {:error, :not_found}
  def get_worker_info(worker_id) do
    case :ets.lookup(@table, worker_id) do
      [{_, entry}] -> {:ok, entry}
      [] -> {:error, :not_found}
    end
  end

  @doc "Whether a worker is known."
  @spec worker_registered?(String.t()) :: boolean
  def worker_registered?(worker_id), do: :ets.member(@table, worker_id)

  @doc "All workers, `{id, entry}` each."
  @spec list_all_workers() :: [{String.t(), entry}]
  def list_all_workers, do: :ets.tab2list(@table)

  @doc "Those of this run."
  @spec current_run_entries() :: [{String.t(), entry}]
  def current_run_entries do
    run_id = get_beam_run_id()
    Enum.filter(list_all_workers(), fn {_id, entry} -> entry.beam_run_id == run_id end)
  end

  @doc "The OS processes of workers whose Elixir process lives."
  @spec get_active_process_pids() :: [pos_integer]
  def get_active_process_pids do
    for {_id, %{status: :active} = entry} <- list_all_workers(),
        Process.alive?(entry.elixir_pid),
        do: entry.process_pid
  end

  @doc "All OS processes that are known."
  @spec get_all_process_pids() :: [pos_integer]
  def get_all_process_pids do
    for {_id, %{process_pid: pid}} <- list_all_workers(), do: pid
  end

  @doc "Workers of one kind."
  @spec get_workers_by_fingerprint(String.t()) :: [{String.t(), entry}]
  def get_workers_by_fingerprint(fingerprint) do
    Enum.filter(list_all_workers(), fn {_id, entry} -> entry[:fingerprint] == fingerprint end)
  end

  @doc "Counts."
  @spec get_stats() :: map
  def get_stats do
    entries = list_all_workers()
    active = Enum.count(entries, fn {_id, entry} -> entry.status == :active end)

    %{
      total_registered: length(entries),
      active: active,
      reserved: length(entries) - active,
      beam_run_id: get_beam_run_id()
    }
  end

  # ---- the owner of the table ---------------------------------------------

  @impl true
  def init(_opts) do
    _ = :ets.new(@table, [:named_table, :protected, read_concurrency: true])
    :persistent_term.put(@run_id, Snakepit.RunID.generate())
    {:ok, nil}
  end

  @impl true
  def handle_call({:put, worker_id, entry}, _from, state) do
    true = :ets.insert(@table, {worker_id, entry})
    _ = entry[:elixir_pid] && Process.monitor(entry.elixir_pid)
    {:reply, :ok, state}
  end

  def handle_call({:delete, worker_id}, _from, state) do
    true = :ets.delete(@table, worker_id)
    {:reply, :ok, state}
  end

  # A worker's process that could not say good-bye: its OS process is being
  # ended by the spawner, and is forgotten when that is done.
  @impl true
  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    for {worker_id, %{elixir_pid: ^pid}} <- list_all_workers(), do: check(worker_id, pid, 0)
    {:noreply, state}
  end

  def handle_info({:check, worker_id, pid, tries}, state) do
    check(worker_id, pid, tries)
    {:noreply, state}
  end

  defp check(worker_id, pid, tries) do
    case get_worker_info(worker_id) do
      {:ok, %{elixir_pid: ^pid} = entry} -> check_entry(worker_id, entry, tries)
      _ -> :ok
    end
  end

  defp check_entry(worker_id, entry, tries) do
    cond do
      not OSProcess.alive?(entry.process_pid, entry.start_time) ->
        true = :ets.delete(@table, worker_id)
        :ok

      tries < Defaults.process_registry_unregister_cleanup_attempts() ->
        delay = Defaults.process_registry_unregister_cleanup_delay()
        _ = Process.send_after(self(), {:check, worker_id, entry.elixir_pid, tries + 1}, delay)
        :ok

      true ->
        Snakepit.Logger.error(:worker, fn ->
          "OS process #{entry.process_pid} of worker #{worker_id} does not end"
        end)
    end
  end

  defp put(worker_id, entry) do
    common = %{beam_run_id: get_beam_run_id(), beam_os_pid: System.pid()}
    GenServer.call(__MODULE__, {:put, worker_id, Map.merge(common, entry)})
  end
end
