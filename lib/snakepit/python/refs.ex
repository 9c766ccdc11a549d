defmodule Snakepit.Python.Refs do
  @moduledoc false
  # Lets Python objects go: when the last term for one is gone, and at the end of
  # a session, then also adapters that live as long as it. What is to go is
  # collected for each worker and told to it by a process of its own, one at a
  # time: nobody waits for a worker that is busy.
  use GenServer

  alias Snakepit.Bridge.WorkerTools
  alias Snakepit.{Native, Pool, Python}

  @table __MODULE__
  # `sessions` of which it keeps objects, and all that have `ended`.
  @nothing %{tokens: [], sessions: [], ended: []}
  # A worker that never has time to hear of more has its own end for them.
  @most_ended 100_000

  @type place :: %{
          required(:pool) => atom,
          required(:worker_id) => String.t() | nil,
          optional(atom) => term
        }

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_arg), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  A term whose end releases the objects of these names: in the worker, or,
  where it is not known which one, in all of the pool.
  """
  @spec guard(place, [String.t()]) :: reference
  def guard(place, tokens) do
    where = if place.worker_id, do: {:worker, place.worker_id}, else: {:pool, place.pool}
    # It is gone only with the application, and so are the workers then. After
    # a crash of it, what was guarded stays until its session or worker ends.
    owner = Process.whereis(__MODULE__) || self()
    Native.guard_new(owner, :erlang.term_to_binary({where, tokens}))
  end

  @doc "Does nothing, but its argument is held until then: no call goes away by optimisation."
  @spec keep(term) :: :ok
  def keep(_term), do: :ok

  @doc "The worker keeps something for the session."
  @spec note_session(String.t(), String.t()) :: :ok
  def note_session(session, worker_id) do
    _ = :ets.whereis(@table) != :undefined and :ets.insert(@table, {session, worker_id})
    :ok
  end

  @doc "What is kept for the session goes."
  @spec session_ended(String.t()) :: :ok
  def session_ended(session), do: GenServer.cast(__MODULE__, {:session_ended, session})

  @doc "An object goes; nobody waits for that."
  @spec drop(String.t(), String.t()) :: :ok
  def drop(worker_id, token), do: GenServer.cast(__MODULE__, {:drop, worker_id, token})

  # pending: worker_id => what it is to be told when it has taken what is on its way
  # telling: monitor => worker_id

  @impl true
  def init(nil) do
    :ok = Python.Wire.make_secret()
    _ = :ets.new(@table, [:bag, :public, :named_table, write_concurrency: true])
    {:ok, %{pending: %{}, telling: %{}}}
  end

  @impl true
  def handle_cast({:drop, worker_id, token}, state),
    do: {:noreply, let_go(state, worker_id, :tokens, [token])}

  # Thousands may expire at once.
  def handle_cast({:session_ended, session}, state) do
    ended = other_ended([session])

    kept =
      for session <- ended, {_, worker_id} <- :ets.take(@table, session), do: {worker_id, session}

    state =
      kept
      |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
      |> Enum.reduce(state, fn {worker_id, ids}, state ->
        let_go(state, worker_id, :sessions, ids)
      end)

    {:noreply, Enum.reduce(WorkerTools.session_keepers(), state, &let_go(&2, &1, :ended, ended))}
  end

  defp other_ended(sessions) do
    receive do
      {:"$gen_cast", {:session_ended, session}} -> other_ended([session | sessions])
    after
      0 -> sessions
    end
  end

  @impl true
  def handle_info({:snakepit_guard, bytes}, state) do
    {where, tokens} = :erlang.binary_to_term(bytes)
    {:noreply, Enum.reduce(workers(where), state, &let_go(&2, &1, :tokens, tokens))}
  end

  def handle_info({:DOWN, monitor, :process, _pid, _reason}, state)
      when is_map_key(state.telling, monitor) do
    {worker_id, telling} = Map.pop(state.telling, monitor)
    {:noreply, tell(%{state | telling: telling}, worker_id)}
  end

  # Its result, with which the task has ended.
  def handle_info(_other, state), do: {:noreply, state}

  defp workers({:worker, worker_id}), do: [worker_id]

  defp workers({:pool, pool}) do
    case Pool.list_workers(pool) do
      ids when is_list(ids) -> ids
      {:error, _no_pool} -> []
    end
  end

  defp let_go(state, worker_id, what, names) do
    waiting = Map.get(state.pending, worker_id, @nothing)
    waiting = waiting |> Map.update!(what, &(names ++ &1)) |> bounded(what)
    state = %{state | pending: Map.put(state.pending, worker_id, waiting)}
    if worker_id in Map.values(state.telling), do: state, else: tell(state, worker_id)
  end

  defp bounded(%{ended: ended} = waiting, :ended) when length(ended) > @most_ended,
    do: %{waiting | ended: Enum.take(ended, @most_ended)}

  defp bounded(waiting, _what), do: waiting

  defp tell(state, worker_id) do
    case Map.pop(state.pending, worker_id) do
      {nil, _pending} ->
        state

      {what, pending} ->
        # Until the worker has time, or ends.
        task =
          Task.Supervisor.async_nolink(Snakepit.TaskSupervisor, fn ->
            say(worker_id, what)
          end)

        telling = Map.put(state.telling, task.ref, worker_id)
        %{state | pending: pending, telling: telling}
    end
  end

  defp say(worker_id, what) do
    _ = what.ended != [] and Python.Wire.end_sessions(worker_id, what.ended)

    if what.tokens != [] or what.sessions != [],
      do: Python.Wire.release(worker_id, what.tokens, what.sessions, timeout: :infinity)
  end
end
