defmodule Snakepit.Pool.ProcessRegistry do
  @moduledoc """
  The OS processes of this run's workers: a worker is reserved before its
  process is started, and activated when it runs.

  What is known is also in a DETS file in `Snakepit.Config.data_dir/0`, which
  outlives this VM. Each VM has a file of its own, named after the instance
  (`:instance_name`, `:instance_token`, else the node) and itself. At start the
  files of this instance whose VM is dead are read, and the processes in them
  that still are those that were started are killed; those of VMs that live
  are never touched. See "What a dead VM leaves" in `guides/workers.md`.

  Without a place to write to, or when the disk is full, there is a warning,
  and all goes on without the file. No request ever comes here.
  """

  use GenServer

  alias Snakepit.{Config, Defaults, Logger, OSProcess, ProcessKiller}
  alias Snakepit.OSProcess.Listing
  alias Snakepit.Pool.ProcessRegistry.{Disk, Orphans, Owner}

  @table :snakepit_pool_process_registry
  @run_id {__MODULE__, :run_id}
  @owner {__MODULE__, :owner}

  @type entry :: map

  @doc false
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc "The identifier of this run, which every worker has on its command line."
  @spec get_beam_run_id() :: String.t()
  def get_beam_run_id, do: :persistent_term.get(@run_id)

  @doc false
  # What marks a worker's environment as ours.
  @spec owner_variable() :: {String.t(), String.t()}
  def owner_variable, do: {Owner.variable(), :persistent_term.get(@owner)}

  @doc """
  Notes that a process for this worker is about to be started. Returns when
  that would be known even if this VM were killed.
  """
  @spec reserve_worker(String.t()) :: :ok
  def reserve_worker(worker_id) do
    entry = %{status: :reserved, reserved_at: now(), reserved_by: self()}
    put(worker_id, entry)
  end

  @doc "Notes a worker's process, as durably."
  @spec activate_worker(String.t(), pid, pos_integer, String.t(), keyword) :: :ok
  def activate_worker(worker_id, elixir_pid, process_pid, fingerprint, opts \\ []) do
    pgid = Listing.pgid(process_pid)

    entry = %{
      status: :active,
      elixir_pid: elixir_pid,
      process_pid: process_pid,
      fingerprint: fingerprint,
      start_time: OSProcess.start_time(process_pid),
      pgid: pgid,
      process_group?: pgid == process_pid,
      registered_at: now()
    }

    put(worker_id, Map.merge(entry, Map.new(opts)))
  end

  @doc """
  Notes the process group of a worker, if its process still is `process_pid`.
  """
  @spec update_process_group(String.t(), pos_integer, pos_integer) :: :ok
  def update_process_group(worker_id, process_pid, pgid),
    do: GenServer.call(__MODULE__, {:update_group, worker_id, process_pid, pgid}, :infinity)

  @doc """
  Forgets a worker, known or not. While its OS process still runs it stays on
  record, marked as `terminating?`.
  """
  @spec unregister_worker(String.t()) :: :ok
  def unregister_worker(worker_id),
    do: GenServer.call(__MODULE__, {:delete, worker_id}, :infinity)

  @doc "What is known of a worker."
  @spec get_worker_info(String.t()) :: {:ok, entry} | {:error, :not_found}
  def get_worker_info(worker_id) do
    case :ets.lookup(@table, worker_id) do
      [{_, %{terminating?: true}}] -> {:error, :not_found}
      [{_, entry}] -> {:ok, entry}
      [] -> {:error, :not_found}
    end
  end

  @doc "Whether a worker is known."
  @spec worker_registered?(String.t()) :: boolean
  def worker_registered?(worker_id), do: match?({:ok, _}, get_worker_info(worker_id))

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
        not Map.has_key?(entry, :terminating?),
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

  @doc "The workers whose OS process is gone."
  @spec validate_workers() :: [{String.t(), entry}]
  def validate_workers,
    do: Enum.filter(list_all_workers(), fn {_id, entry} -> gone?(entry) end)

  @doc "Forgets them, and says how many they were. Done by itself every 30 seconds."
  @spec cleanup_dead_workers() :: non_neg_integer
  def cleanup_dead_workers, do: GenServer.call(__MODULE__, :cleanup_dead_workers, :infinity)

  @doc "Ends what dead VMs of this instance left behind, as is done at start."
  @spec manual_orphan_cleanup() :: :ok
  def manual_orphan_cleanup do
    _ = Orphans.run(GenServer.call(__MODULE__, :context, :infinity))
    :ok
  end

  @doc "How many workers are in the file; 0 without one."
  @spec dets_table_size() :: non_neg_integer
  def dets_table_size, do: GenServer.call(__MODULE__, :dets_table_size, :infinity)

  @doc "What is in the file, `{id, entry}` each; the run is `:beam_run_id`."
  @spec debug_show_all_entries() :: [{String.t(), entry}]
  def debug_show_all_entries, do: GenServer.call(__MODULE__, :dets_entries, :infinity)

  @doc "Counts, and whether they are in a file."
  @spec get_stats() :: map
  def get_stats do
    entries = list_all_workers()
    active = Enum.count(entries, fn {_id, entry} -> entry.status == :active end)

    %{
      total_registered: length(entries),
      active: active,
      reserved: length(entries) - active,
      beam_run_id: get_beam_run_id(),
      file: GenServer.call(__MODULE__, :file, :infinity)
    }
  end

  # ---- the owner of the tables --------------------------------------------

  @impl true
  def init(_opts) do
    _ = Process.flag(:trap_exit, true)
    _ = :ets.new(@table, [:named_table, :protected, read_concurrency: true])
    run_id = :persistent_term.get(@run_id, nil) || Snakepit.RunID.generate()
    :persistent_term.put(@run_id, run_id)

    {dir, key} = {Config.data_dir(), Owner.key()}
    owner = Owner.this(run_id, dir, key)
    :persistent_term.put(@owner, Owner.to_text(owner))

    state = %{
      context: %{dir: dir, key: key, owner: owner},
      disk: nil,
      waiting: [],
      cleaner: nil
    }

    {:ok, %{state | disk: open(state.context)}, {:continue, :start}}
  end

  # What a former registry of this VM knew, and what dead VMs left.
  @impl true
  def handle_continue(:start, state) do
    for {id, entry} <- if(state.disk, do: Disk.entries(state.disk), else: []) do
      true = :ets.insert(@table, {id, entry})
      watch(entry)
      if entry[:terminating?], do: check(self(), id, entry, 0)
    end

    _ = later(:sweep, Defaults.process_registry_cleanup_interval())
    {:noreply, state |> sweep() |> start_cleaner()}
  end

  defp open(%{dir: dir, key: key, owner: owner}) do
    case Disk.open(dir, key, owner) do
      {:ok, disk} ->
        disk

      {:error, why} ->
        Logger.warning(
          :startup,
          "workers are not recorded on disk: #{why}. " <>
            "Set config :snakepit, data_dir: or SNAKEPIT_DATA_DIR to a directory that can be written"
        )

        nil
    end
  end

  # Unlinked: no fault of it is one of ours. It takes as long as the processes
  # take to end, and nobody has to wait for that.
  defp start_cleaner(state) do
    context = state.context
    %{state | cleaner: spawn_monitor(fn -> Orphans.run(context) end)}
  end

  @impl true
  def handle_call({:put, worker_id, entry}, from, state) do
    state = keep_former(state, worker_id)
    watch(entry)
    {:noreply, state |> write(worker_id, entry) |> reply_when_written(from)}
  end

  def handle_call({:update_group, worker_id, process_pid, pgid}, from, state) do
    case :ets.lookup(@table, worker_id) do
      [{_, %{process_pid: ^process_pid} = entry}] ->
        entry = %{entry | pgid: pgid, process_group?: true}
        {:noreply, state |> write(worker_id, entry) |> reply_when_written(from)}

      _ ->
        {:reply, :ok, state}
    end
  end

  def handle_call({:delete, worker_id}, from, state) do
    case :ets.lookup(@table, worker_id) do
      [{_, entry}] ->
        {:noreply, state |> retire(worker_id, entry) |> reply_when_written(from)}

      [] ->
        {:reply, :ok, state}
    end
  end

  def handle_call(:cleanup_dead_workers, _from, state) do
    before = :ets.info(@table, :size)
    state = sweep(state)
    {:reply, before - :ets.info(@table, :size), state}
  end

  def handle_call(:context, _from, state), do: {:reply, state.context, state}

  def handle_call(:dets_table_size, _from, state),
    do: {:reply, if(state.disk, do: Disk.size(state.disk), else: 0), state}

  def handle_call(:dets_entries, _from, state),
    do: {:reply, if(state.disk, do: Disk.entries(state.disk), else: []), state}

  def handle_call(:file, _from, state),
    do: {:reply, state.disk && state.disk.path, state}

  # All that waited is written at once: a hundred workers that start together
  # wait for one write.
  @impl true
  def handle_info(:flush, state) do
    state = if state.disk, do: checked(state, Disk.flush(state.disk)), else: state
    for from <- state.waiting, do: GenServer.reply(from, :ok)
    {:noreply, %{state | waiting: []}}
  end

  def handle_info(:sweep, state) do
    _ = later(:sweep, Defaults.process_registry_cleanup_interval())
    _ = state.disk && File.touch(state.disk.path)
    {:noreply, sweep(state)}
  end

  def handle_info({:DOWN, ref, :process, pid, reason}, %{cleaner: {pid, ref}} = state) do
    if reason != :normal,
      do: Logger.error(:startup, "cleaning up after dead VMs failed: #{inspect(reason)}")

    {:noreply, %{state | cleaner: nil}}
  end

  # A worker's process that could not say good-bye: its OS process is being
  # ended by the spawner, and is forgotten when that is done.
  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    state =
      Enum.reduce(list_all_workers(), state, fn
        {id, %{status: :active, elixir_pid: ^pid} = entry}, state -> retire(state, id, entry)
        {id, %{status: :reserved, reserved_by: ^pid}}, state -> erase(state, id)
        _other, state -> state
      end)

    {:noreply, state}
  end

  def handle_info({:check, worker_id, process_pid, tries}, state) do
    case :ets.lookup(@table, worker_id) do
      [{_, %{process_pid: ^process_pid} = entry}] ->
        if gone?(entry) do
          {:noreply, erase(state, worker_id)}
        else
          check(self(), worker_id, entry, tries)
          {:noreply, state}
        end

      _ ->
        {:noreply, state}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    with {pid, _ref} <- state.cleaner, do: Process.exit(pid, :kill)
    state = sweep(state)
    for from <- state.waiting, do: GenServer.reply(from, :ok)

    cond do
      state.disk == nil ->
        :ok

      # What could not be ended is the next start's.
      Enum.any?(list_all_workers(), fn {_, e} -> e.status == :active end) ->
        Disk.close(state.disk)

      true ->
        Disk.remove(state.disk)
    end
  end

  # ---- entries ------------------------------------------------------------

  defp put(worker_id, entry) do
    common = %{beam_run_id: get_beam_run_id(), beam_os_pid: System.pid()}
    GenServer.call(__MODULE__, {:put, worker_id, Map.merge(common, entry)}, :infinity)
  end

  defp write(state, worker_id, entry) do
    true = :ets.insert(@table, {worker_id, entry})
    if state.disk, do: checked(state, Disk.put(state.disk, worker_id, entry)), else: state
  end

  defp erase(state, worker_id) do
    true = :ets.delete(@table, worker_id)
    if state.disk, do: checked(state, Disk.delete(state.disk, worker_id)), else: state
  end

  # Forgotten at once if its process is gone, else as soon as that is seen.
  defp retire(state, worker_id, entry) do
    cond do
      entry.status == :reserved or gone?(entry) ->
        erase(state, worker_id)

      entry[:terminating?] ->
        state

      true ->
        entry = Map.merge(entry, %{terminating?: true, terminated_at: now()})
        check(self(), worker_id, entry, 0)
        write(state, worker_id, entry)
    end
  end

  # A worker that starts again has the id of the one before, whose process may
  # still be ending.
  defp keep_former(state, worker_id) do
    case :ets.lookup(@table, worker_id) do
      [{_, %{process_pid: pid, terminating?: true} = entry}] ->
        former = "#{worker_id}~#{pid}"
        check(self(), former, entry, 0)
        write(state, former, entry)

      _ ->
        state
    end
  end

  defp check(server, worker_id, %{process_pid: pid}, tries) do
    if tries < Defaults.process_registry_unregister_cleanup_attempts() do
      # The first look comes soon: most often it is a matter of milliseconds.
      delay = if tries == 0, do: 20, else: Defaults.process_registry_unregister_cleanup_delay()
      _ = Process.send_after(server, {:check, worker_id, pid, tries + 1}, delay)
      :ok
    else
      Logger.error(:worker, fn -> "OS process #{pid} of worker #{worker_id} does not end" end)
    end
  end

  defp sweep(state) do
    Enum.reduce(validate_workers(), state, fn {id, _entry}, state -> erase(state, id) end)
  end

  defp watch(%{status: :active, elixir_pid: pid}), do: Process.monitor(pid)
  defp watch(%{reserved_by: pid}), do: Process.monitor(pid)

  defp gone?(%{status: :active, process_pid: pid, start_time: nil}),
    do: Listing.linux?() or not ProcessKiller.process_alive?(pid)

  defp gone?(%{status: :active, process_pid: pid, start_time: time}),
    do: not OSProcess.alive?(pid, time)

  defp gone?(_reserved), do: false

  # ---- the file -----------------------------------------------------------

  defp reply_when_written(%{disk: nil} = state, from) do
    GenServer.reply(from, :ok)
    state
  end

  defp reply_when_written(state, from) do
    if state.waiting == [], do: send(self(), :flush)
    %{state | waiting: [from | state.waiting]}
  end

  defp checked(state, :ok), do: state

  defp checked(state, {:error, why}) do
    Logger.warning(
      :worker,
      "workers are no more recorded on disk: #{state.disk.path}: #{inspect(why)}. " <>
        "Free space there; the next start records again"
    )

    # What is in it is still true, or names processes that are gone.
    :ok = Disk.close(state.disk)
    %{state | disk: nil}
  end

  defp later(what, delay), do: Process.send_after(self(), what, delay)
  defp now, do: System.system_time(:second)
end
