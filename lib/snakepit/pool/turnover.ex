defmodule Snakepit.Pool.Turnover do
  @moduledoc false
  # Workers that come for others, and workers that go. Functions on the state of
  # Snakepit.Pool, whose part `turnover` this keeps.
  #
  # A replacement is started first. When it is ready the old worker retires: gets
  # nothing new, finishes, ends. In one pool one replacement starts at a time, and
  # few workers retire at a time, so that it hardly grows meanwhile.

  alias Snakepit.{Config, GRPCWorker, Native}
  alias Snakepit.Pool.{Roster, WorkerSupervisor}
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Worker.LifecycleConfig

  # One in so many workers of a pool may be on its way out for others to follow.
  @share 8

  @type job :: %{pool: atom, old: String.t(), reason: term, notify: pid}
  @type t :: %{starting: %{String.t() => job}, waiting: [job]}

  @spec new() :: t
  def new, do: %{starting: %{}, waiting: []}

  # ---- starting -----------------------------------------------------------

  @doc "Starts a worker as its pool's profile wants it; its supervisor, or its process."
  @spec start_worker(Roster.t(), String.t()) :: {:ok, pid} | {:error, term} | :gone
  def start_worker(roster, id) when not is_map_key(roster.workers, id), do: :gone

  def start_worker(%{name: name, config: config}, id) do
    case Config.get_profile_module(config) do
      profile when profile in [Snakepit.WorkerProfile.Process, Snakepit.WorkerProfile.Thread] ->
        arg = {id, GRPCWorker, config.adapter_module, name, config}
        WorkerSupervisor.start_starter(arg)

      profile ->
        name
        |> LifecycleConfig.ensure(config)
        |> LifecycleConfig.to_worker_config(id)
        |> start_by(profile, id)
    end
  end

  # It is the user's code.
  defp start_by(config, profile, id) do
    case profile.start_worker(config) do
      {:ok, worker} when is_pid(worker) ->
        with {:error, :not_found} <- Snakepit.Pool.Worker.StarterRegistry.get_starter_pid(id),
             do: {:ok, worker}

      {:error, why} ->
        {:error, why}

      other ->
        {:error, {:bad_return, profile, other}}
    end
  rescue
    exception -> {:error, exception}
  catch
    kind, why -> {:error, {kind, why}}
  end

  # ---- replacing ----------------------------------------------------------

  @doc "Notes that a worker is to be replaced; `next/1` does it."
  @spec replace(map, atom, String.t(), term, pid) :: map
  def replace(state, name, old, reason, notify) do
    job = %{pool: name, old: old, reason: reason, notify: notify}
    turnover = state.turnover

    cond do
      not ready?(state, job) ->
        tell(job, {:error, :worker_not_found})
        state

      Enum.any?(Map.values(turnover.starting) ++ turnover.waiting, &(&1.old == old)) ->
        state

      true ->
        put_in(state.turnover.waiting, turnover.waiting ++ [job])
    end
  end

  defp ready?(state, job) do
    roster = state.pools[job.pool]
    roster != nil and match?({:ready, _}, roster.workers[job.old])
  end

  @doc "Begins what may begin; the ids to be started by pool."
  @spec next(map) :: {map, [{atom, [String.t()]}]}
  def next(state) do
    Enum.reduce(state.turnover.waiting, {state, []}, fn job, {state, started} ->
      cond do
        not ready?(state, job) ->
          # It ended by itself; another one has come for it.
          tell(job, {:error, :worker_not_found})
          {drop(state, job), started}

        busy?(state, job.pool) ->
          {state, started}

        true ->
          {roster, [id]} = Roster.add(state.pools[job.pool], 1, :later)
          state = put_in(state.pools[job.pool], roster)
          state = put_in(state.turnover.starting[id], job)
          {drop(state, job), [{job.pool, [id]} | started]}
      end
    end)
  end

  defp drop(state, job),
    do: update_in(state.turnover.waiting, &Enum.reject(&1, fn other -> other.old == job.old end))

  defp busy?(state, name) do
    roster = state.pools[name]
    leaving = length(Roster.in_state(roster, :retiring))

    leaving >= max(div(roster.size, @share), 1) or
      replacements(state, name) != []
  end

  @doc "Those that are on their way."
  @spec replacements(map, atom) :: [String.t()]
  def replacements(state, name),
    do: for({id, %{pool: ^name}} <- state.turnover.starting, do: id)

  @doc "A worker is ready: whom it came for retires."
  @spec ready(map, atom, String.t()) :: map
  def ready(state, name, id) do
    case Map.pop(state.turnover.starting, id) do
      {nil, _} ->
        dismiss(state, name, id)

      {job, starting} ->
        state = put_in(state.turnover.starting, starting)
        there? = ready?(state, job)
        state = retire(state, name, [job.old], job.reason)
        tell(job, if(there?, do: :done, else: {:error, :worker_not_found}))
        state
    end
  end

  # More than are wanted: the size changed while it started.
  defp dismiss(state, name, id) do
    roster = state.pools[name]
    places = map_size(roster.workers) - length(Roster.in_state(roster, :retiring))

    if places > roster.size + length(replacements(state, name)),
      do: retire(state, name, [id], :resized),
      else: state
  end

  @doc "A worker is gone for good: if it came for another one, that stays."
  @spec gone(map, String.t()) :: map
  def gone(state, id) do
    case Map.pop(state.turnover.starting, id) do
      {nil, _} ->
        state

      {job, starting} ->
        tell(job, {:error, :replacement_failed})
        put_in(state.turnover.starting, starting)
    end
  end

  defp tell(job, what), do: send(job.notify, {:snakepit_replace, job.old, what})

  # ---- retiring -----------------------------------------------------------

  @doc "Lets workers go, whatever they are doing."
  @spec retire(map, atom, [String.t()], term) :: map
  def retire(state, name, ids, reason) do
    Enum.reduce(ids, state, fn id, state ->
      case state.pools[name].workers[id] do
        {:ready, pid} ->
          :ok = retire_worker(id, pid, reason)
          update_in(state.pools[name], &Roster.retire(&1, id))

        # Nothing of it is there yet: whoever would start it finds that out.
        :waiting ->
          update_in(state.pools[name], &Roster.gone(&1, id))

        there when there in [:starting, :failed] ->
          # It may be ready, and run something, before it is known to be: then
          # it finishes that. What it is not yet it will not be.
          :ok = retire_or_stop(id, reason)
          state = update_in(state.pools[name], &Roster.retire(&1, id))
          %{state | starting: MapSet.delete(state.starting, id)}

        _ ->
          state
      end
    end)
  end

  # It gets nothing more at once: who hears that it has retired relies on it.
  defp retire_worker(id, pid, reason) do
    with {:ok, %{slot: slot}} when slot != nil <- Workers.get_worker_metadata(id),
         do: Native.slot_set_state(slot, :draining)

    GRPCWorker.retire(pid, reason)
  end

  defp retire_or_stop(id, reason) do
    case Workers.get_worker_pid(id) do
      {:ok, pid} -> retire_worker(id, pid, reason)
      {:error, :not_found} -> stop_later(id)
    end
  end

  # Stopping takes as long as the process has to end.
  defp stop_later(id) do
    {:ok, _pid} =
      Task.Supervisor.start_child(Snakepit.TaskSupervisor, fn ->
        WorkerSupervisor.stop_worker(id)
      end)

    :ok
  end
end
