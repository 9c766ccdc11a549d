defmodule Snakepit.Bridge.SessionStore.Server do
  @moduledoc false
  # The process of `Snakepit.Bridge.SessionStore`: it owns the tables, does updates
  # one after the other, and removes what has expired.

  use GenServer

  alias Snakepit.Bridge.{Session, SessionEvents, SessionStore, SessionVariable, ToolRegistry}
  alias Snakepit.Bridge.SessionStore.{Adapter, Rows}
  alias Snakepit.{Defaults, Logger}
  alias Snakepit.Pool.Sessions
  alias Snakepit.Python.Refs

  @table :snakepit_sessions

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)
    application? = Keyword.get(opts, :name, SessionStore) == SessionStore
    configured = configured()
    configured = if application?, do: configured, else: Map.delete(configured, :adapter)
    options = Map.merge(configured, Map.new(opts))
    get = fn key, default -> Map.get(options, key, default) end

    case Adapter.start(options[:adapter], configured) do
      {:ok, adapter} -> {:ok, state(adapter, get)}
      {:error, reason} -> {:stop, reason}
    end
  end

  defp state(adapter, get) do
    tables = %{
      adapter: adapter && adapter.module,
      ttl: get.(:default_ttl, Defaults.session_default_ttl()),
      max: get.(:max_sessions, Defaults.session_max_sessions()),
      due: Rows.never_due(),
      sessions: :ets.new(get.(:table_name, @table), table_options(get)),
      extras: :ets.new(:snakepit_session_extras, [:set, :protected, read_concurrency: true])
    }

    name = get.(:name, SessionStore)
    if name == SessionStore, do: Rows.publish(tables)

    schedule(%{
      name: name,
      tables: tables,
      adapter: adapter,
      interval: get.(:cleanup_interval, Defaults.session_cleanup_interval()),
      ttl: tables.ttl,
      max: tables.max,
      threshold: get.(:warning_threshold, Defaults.session_warning_threshold()),
      strict?: get.(:strict_mode, false),
      registry: get.(:tool_registry, if(name == SessionStore, do: ToolRegistry)),
      warned?: false,
      stats: %{sessions_created: 0, sessions_deleted: 0, sessions_expired: 0, cleanup_runs: 0}
    })
  end

  # A second store beside the one of the application has its table unnamed.
  defp table_options(get) do
    named =
      if get.(:name, SessionStore) == SessionStore or get.(:table_name, nil), do: [:named_table]

    [:set, :protected, read_concurrency: true] ++ (named || [])
  end

  # A module alone is the adapter.
  defp configured do
    case Application.get_env(:snakepit, :session_store) || %{} do
      adapter when is_atom(adapter) -> %{adapter: adapter}
      settings -> Map.new(settings)
    end
  end

  @impl true
  def handle_call(:tables, _from, state), do: {:reply, state.tables, state}

  def handle_call({:create, id, opts}, _from, state) do
    {reply, state} = create(id, opts, nil, state)
    {:reply, reply, state}
  end

  def handle_call({:update, id, fun}, _from, state) do
    with {_id, session, clock} <- Rows.live(state.tables.sessions, id, Rows.now_ms()),
         {:ok, session} <- apply_update(fun, Rows.with_time(session, Rows.now_ms())) do
      {:reply, {:ok, Rows.put(state.tables, session, clock)}, state}
    else
      nil -> {:reply, {:error, :not_found}, state}
      error -> {:reply, error, state}
    end
  end

  def handle_call({:delete, id}, _from, state) do
    known? = :ets.member(state.tables.sessions, id)
    remove(id, state)
    if known?, do: SessionEvents.destroyed(id, :deleted)
    {:reply, :ok, if(known?, do: count(state, :sessions_deleted, 1), else: state)}
  end

  def handle_call({:store_workers, workers}, _from, state),
    do: {:reply, :ok, Enum.reduce(workers, state, &store_worker/2)}

  def handle_call(:cleanup, _from, state) do
    {removed, state} = sweep(state)
    {:reply, removed, state}
  end

  def handle_call(:stats, _from, state) do
    table = state.tables.sessions
    words = :ets.info(table, :memory) + :ets.info(state.tables.extras, :memory)

    stats =
      Map.merge(state.stats, %{
        current_sessions: :ets.info(table, :size),
        memory_usage_bytes: words * :erlang.system_info(:wordsize),
        table_info: :ets.info(table)
      })

    {:reply, stats, state}
  end

  def handle_call({:put_global, id, data}, _from, state) do
    :ets.insert(state.tables.extras, {{:program, id}, data})
    {:reply, :ok, state}
  end

  def handle_call({:register_variable, id, variable}, _from, state) do
    key = {:variable, id, variable.name}

    reply =
      cond do
        not Rows.alive?(state.tables, id) -> {:error, :not_found}
        :ets.insert_new(state.tables.extras, {key, variable}) -> {:ok, variable.name}
        true -> {:error, {:duplicate_variable, variable.name}}
      end

    {:reply, reply, state}
  end

  def handle_call({:update_variable, id, name, value}, _from, state) do
    extras = state.tables.extras
    key = {:variable, id, name}

    reply =
      with true <- Rows.alive?(state.tables, id),
           [{^key, variable}] <- :ets.lookup(extras, key),
           {:ok, variable} <- SessionVariable.put(variable, value) do
        :ets.insert(extras, {key, variable})
        :ok
      else
        {:error, reason} -> {:error, reason}
        _ -> {:error, :not_found}
      end

    {:reply, reply, state}
  end

  def handle_call({:delete_variable, id, name}, _from, state) do
    found = :ets.take(state.tables.extras, {:variable, id, name})
    {:reply, if(found == [], do: {:error, :not_found}, else: :ok), state}
  end

  @impl true
  def handle_info(:sweep, state) do
    {_removed, state} = sweep(state)
    {:noreply, schedule(state)}
  end

  def handle_info({:EXIT, pid, reason}, %{adapter: %{pid: pid}} = state),
    do: {:stop, {:session_store_adapter, reason}, state}

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{name: SessionStore}), do: Rows.withdraw()

  def terminate(_reason, _state), do: :ok

  # ---- what it does -------------------------------------------------------

  defp schedule(%{interval: interval} = state) when is_integer(interval) do
    Process.send_after(self(), :sweep, interval)
    state
  end

  defp schedule(state), do: state

  defp store_worker({id, worker_id}, state) do
    case create(id, [], worker_id, state) do
      {{:ok, %{last_worker_id: other} = session}, state} when other != worker_id ->
        [{_id, _session, clock}] = :ets.lookup(state.tables.sessions, id)
        _ = Rows.put(state.tables, %{session | last_worker_id: worker_id}, clock)
        state

      # It is stored, or there is no place for it.
      {_reply, state} ->
        state
    end
  end

  # A session that is new has that worker, or none.
  defp create(id, opts, worker_id, state) do
    now = Rows.now_ms()

    with [row] <- :ets.lookup(state.tables.sessions, id),
         :over <- Rows.touch_row(row, now) do
      if Rows.ended?(row, now) do
        {_, state} = expire([id], state)
        create_new(id, opts, worker_id, state)
      else
        # A reader was in time.
        create(id, opts, worker_id, state)
      end
    else
      [] -> create_new(id, opts, worker_id, state)
      {:ok, session} -> {{:ok, session}, state}
    end
  end

  defp create_new(id, opts, worker_id, state) do
    session = Session.new(id, Keyword.put_new(opts, :ttl, state.ttl))

    case Session.validate(session) do
      :ok -> insert(%{session | last_worker_id: worker_id}, make_room(state))
      error -> {error, state}
    end
  end

  defp insert(session, state) do
    if Rows.full?(state.tables) do
      {{:error, :session_quota_exceeded}, state}
    else
      SessionEvents.created(session.id)
      session = Rows.put(state.tables, session, Rows.clock())
      {{:ok, session}, state |> count(:sessions_created, 1) |> warn()}
    end
  end

  # What has expired but was not swept is nobody's: its place is free. To look for
  # it costs as much as there are sessions, so not before there can be any.
  defp make_room(%{tables: tables} = state) do
    if Rows.full?(tables) and Rows.room?(tables), do: state |> sweep() |> elem(1), else: state
  end

  @doc "What `fun` makes of the session, if that is one."
  @spec apply_update((Session.t() -> Session.t()), Session.t()) ::
          {:ok, Session.t()} | {:error, term}
  def apply_update(fun, %Session{id: id} = session) do
    case fun.(session) do
      %Session{id: ^id} = updated -> with :ok <- Session.validate(updated), do: {:ok, updated}
      %Session{} -> {:error, {:update_failed, :id_changed}}
      other -> {:error, {:update_failed, {:not_a_session, other}}}
    end
  rescue
    error -> {:error, {:update_failed, error}}
  catch
    _kind, reason -> {:error, {:update_failed, reason}}
  end

  defp remove(id, state) do
    with [row] <- :ets.lookup(state.tables.sessions, id), do: Rows.finish(row)
    :ets.delete(state.tables.sessions, id)
    :ets.match_delete(state.tables.extras, {{:variable, id, :_}, :_})
    if state.name == SessionStore, do: Sessions.forget(id)
    if state.registry, do: remove_tools(state.registry, id)
    if state.name == SessionStore, do: Refs.session_ended(id)
  end

  defp remove_tools(registry, id) do
    registry.cleanup_session(id)
  catch
    # It is not running; its tools went with it.
    :exit, _ -> :ok
  end

  defp sweep(state) do
    {removed, state} = state |> expired() |> expire(state)
    {removed, state |> count(:cleanup_runs, 1) |> warn()}
  end

  defp expired(%{adapter: nil} = state), do: Rows.expired(state.tables)

  # What belongs to the sessions that it removed is here.
  defp expired(%{adapter: %{module: adapter}}) do
    adapter.cleanup_expired_sessions()
  catch
    kind, reason ->
      why = Exception.format_banner(kind, reason, __STACKTRACE__)
      Logger.error(:bridge, "#{inspect(adapter)} cannot clean up: #{why}")
      []
  end

  defp expire(ids, state) do
    for id <- ids do
      remove(id, state)
      SessionEvents.destroyed(id, :expired)
    end

    if ids != [], do: SessionEvents.pruned(length(ids), state)
    {length(ids), count(state, :sessions_expired, length(ids))}
  end

  defp count(state, key, n), do: update_in(state.stats[key], &(&1 + n))

  # Once on the way up, not for each session beyond the threshold.
  defp warn(%{max: :infinity} = state), do: state

  defp warn(state) do
    count = :ets.info(state.tables.sessions, :size)
    near? = count >= state.max * state.threshold

    if near? and not state.warned? do
      text =
        "#{count} of at most #{state.max} sessions are in use; " <>
          "delete sessions that are done, or raise session_max_sessions"

      SessionEvents.accumulating(count, state)
      if state.strict?, do: Logger.error(:bridge, text), else: Logger.warning(:bridge, text)
    end

    %{state | warned?: near?}
  end
end
