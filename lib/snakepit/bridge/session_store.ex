defmodule Snakepit.Bridge.SessionStore do
  @moduledoc """
  The sessions that are alive.

      {:ok, session} = SessionStore.create_session("s1", ttl: 600, metadata: %{user: "ann"})
      {:ok, session} = SessionStore.get_session("s1")
      {:ok, session} = SessionStore.update_session("s1", &Session.put_metadata(&1, :step, 2))
      :ok = SessionStore.delete_session("s1")

  A session lives for its `:ttl` (seconds) after it was last used, by these
  functions or by a call of a worker; from then on nobody sees it, whether or not
  it has been swept away. With a session go its tools and variables, and it has no
  worker any more.

  Reading is concurrent and does not pass through the server; updates are done
  one after the other. Every function takes another server as its first
  argument.

  Options of `start_link/1`: `:name`, `:table_name`, `:cleanup_interval` (ms),
  `:default_ttl` (s), `:max_sessions`, `:warning_threshold`, `:strict_mode` (log
  what comes near the maximum as errors), `:tool_registry` (nil for none) and
  `:adapter`. For the store of the application they are in
  `config :snakepit, session_store: [...]`.

  Where sessions have to be elsewhere, in a database or on all nodes of a cluster,
  `:adapter` is a module that keeps them; see
  `Snakepit.Bridge.SessionStore.Adapter`.
  """
  use GenServer

  alias __MODULE__.Adapter
  alias Snakepit.Bridge.{Session, SessionVariable, ToolRegistry, Variable}
  alias Snakepit.Bridge.{BatchSetVariablesRequest, RegisterVariableRequest, SetVariableRequest}
  alias Snakepit.{Defaults, Logger}
  alias Snakepit.Bridge.SessionEvents
  alias Snakepit.Pool.Sessions
  alias Snakepit.Python.Refs

  @table :snakepit_sessions

  @typep server :: GenServer.server()

  # A row is {id, session, clock}: `clock` is an atomic with the time of the last
  # use in monotonic milliseconds. Readers move it on, and only the server sets it
  # to @over, before the row goes: so who was given a session had it before its
  # end, and what was used in time is not swept away. {:variable, id, name} and
  # {:program, id} rows lie in a table beside.
  @over -0x4000000000000000

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    GenServer.start_link(__MODULE__, opts, name: Keyword.get(opts, :name, __MODULE__))
  end

  # ---- reading ------------------------------------------------------------

  @doc "The session, which counts as used."
  @spec get_session(server, String.t()) :: {:ok, Session.t()} | {:error, :not_found}
  def get_session(server \\ __MODULE__, session_id) do
    found = find_session(server, session_id)
    if match?({:ok, _}, found), do: SessionEvents.accessed(session_id)
    found
  end

  defp find_session(server, session_id) do
    case read(server, session_id) do
      {:ok, %{last_worker_id: id}} = found when id != nil -> found
      result -> if noted?(server, session_id), do: read(server, session_id), else: result
    end
  end

  # A call is over before the store hears which worker had it.
  defp noted?(server, session_id),
    do: GenServer.whereis(server) == GenServer.whereis(__MODULE__) and Sessions.noted?(session_id)

  defp read(server, session_id) do
    case tables(server) do
      %{adapter: nil, sessions: table} -> used(table, session_id)
      %{adapter: adapter} -> adapter.get_session(session_id)
    end
  end

  defp used(table, session_id) do
    now = now_ms()

    with {_id, session, clock} <- live(table, session_id, now),
         true <- use_clock(clock, :atomics.get(clock, 1), session, now) do
      {:ok, with_time(session, now)}
    else
      _ -> {:error, :not_found}
    end
  end

  # Whether it was in time: another reader may have moved the clock meanwhile, or
  # the server have ended the session.
  defp use_clock(clock, seen, session, now) do
    cond do
      over?(session, clock, seen, now) ->
        false

      seen >= now ->
        true

      true ->
        case :atomics.compare_exchange(clock, 1, seen, now) do
          :ok -> true
          changed -> use_clock(clock, changed, session, now)
        end
    end
  end

  @doc "Whether there is one; it does not count as used."
  @spec session_exists?(server, String.t()) :: boolean
  def session_exists?(server \\ __MODULE__, session_id),
    do: alive?(tables(server), session_id)

  @spec list_sessions(server) :: [String.t()]
  def list_sessions(server \\ __MODULE__) do
    case tables(server) do
      %{adapter: nil, sessions: table} ->
        now = now_ms()
        for row <- :ets.tab2list(table), not expired?(row, now), do: elem(row, 0)

      %{adapter: adapter} ->
        adapter.list_sessions()
    end
  end

  # ---- writing ------------------------------------------------------------

  @doc """
  Makes a session, or gives the one of that id as it is. Options: `:ttl`,
  `:metadata`, `:programs`. Errors: `:session_quota_exceeded` and those of
  `Snakepit.Bridge.Session.validate/1`.
  """
  @spec create_session(String.t()) :: {:ok, Session.t()} | {:error, term}
  def create_session(session_id), do: create_session(__MODULE__, session_id, [])

  @spec create_session(String.t() | server, keyword | String.t()) ::
          {:ok, Session.t()} | {:error, term}
  def create_session(server, session_id) when is_binary(session_id),
    do: create_session(server, session_id, [])

  def create_session(session_id, opts), do: create_session(__MODULE__, session_id, opts)

  @spec create_session(server, String.t(), keyword) :: {:ok, Session.t()} | {:error, term}
  def create_session(server, session_id, opts) do
    case tables(server) do
      %{adapter: nil, sessions: table} ->
        with {:error, :not_found} <- used(table, session_id),
             do: GenServer.call(server, {:create, session_id, opts})

      %{adapter: adapter, ttl: ttl} ->
        opts = Keyword.put_new(opts, :ttl, ttl)

        # What is no session never comes to the adapter.
        with :ok <- Session.validate(Session.new(session_id, opts)),
             do: adapter.create_session(session_id, opts)
    end
  end

  @doc "Replaces the session by what `fun` makes of it; nobody else changes it meanwhile."
  @spec update_session(server, String.t(), (Session.t() -> Session.t())) ::
          {:ok, Session.t()} | {:error, :not_found | {:update_failed, term} | term}
  def update_session(server \\ __MODULE__, session_id, fun) when is_function(fun, 1) do
    case tables(server) do
      %{adapter: nil} -> GenServer.call(server, {:update, session_id, fun})
      %{adapter: adapter} -> adapter.update_session(session_id, &checked_update(fun, &1))
    end
  end

  defp checked_update(fun, session) do
    case apply_update(fun, session) do
      {:ok, updated} -> updated
      {:error, reason} -> {:error, reason}
    end
  end

  @doc "Removes the session and its tools; also `:ok` when there is none."
  @spec delete_session(server, String.t()) :: :ok
  def delete_session(server \\ __MODULE__, session_id) do
    %{adapter: adapter} = tables(server)
    if adapter, do: adapter.delete_session(session_id)
    GenServer.call(server, {:delete, session_id})
  end

  @doc """
  Notes which worker serves the session, and gives it that worker if there is one
  of this name; a session that is new begins.
  """
  @spec store_worker_session(String.t(), String.t()) :: :ok
  def store_worker_session(session_id, worker_id)
      when is_binary(session_id) and is_binary(worker_id) do
    :ok = served_by(session_id, worker_id)
    Sessions.assign(session_id, worker_id)
  end

  @doc false
  # The same when it has that worker already.
  @spec served_by(String.t(), String.t()) :: :ok
  def served_by(session_id, worker_id) do
    case {read(__MODULE__, session_id), tables(__MODULE__)} do
      {{:ok, %Session{last_worker_id: ^worker_id}}, _} ->
        :ok

      {_, %{adapter: nil}} ->
        GenServer.call(__MODULE__, {:store_worker, session_id, worker_id})

      {_, _adapter} ->
        _ = create_session(session_id)
        _ = update_session(session_id, &%{&1 | last_worker_id: worker_id})
        :ok
    end
  end

  @doc """
  How long ago the last call of the session on this node ended, in milliseconds: 0
  while there is one, nil when none is remembered. Calls keep a session alive
  without telling the store, so it asks this before one expires.
  """
  @spec unused_ms(String.t()) :: non_neg_integer | nil
  def unused_ms(session_id), do: Sessions.unused_ms(session_id)

  @doc "Removes what has expired now and says how many that were."
  @spec cleanup_expired_sessions(server) :: non_neg_integer
  def cleanup_expired_sessions(server \\ __MODULE__), do: GenServer.call(server, :cleanup)

  @doc """
  Counts since the start (`:sessions_created`, `:sessions_deleted`,
  `:sessions_expired`, `:cleanup_runs`), and `:current_sessions`,
  `:memory_usage_bytes` and `:table_info` now.
  """
  @spec get_stats(server) :: map
  def get_stats(server \\ __MODULE__) do
    case tables(server) do
      %{adapter: nil} -> GenServer.call(server, :stats)
      %{adapter: adapter} -> adapter.get_stats()
    end
  end

  # ---- programs and variables ---------------------------------------------

  @doc "Keeps `data` in the session."
  @spec store_program(String.t(), term, term) :: :ok | {:error, term}
  def store_program(session_id, program_id, data) do
    with {:ok, _} <- update_session(session_id, &Session.put_program(&1, program_id, data)),
         do: SessionEvents.stored(session_id, program_id)
  end

  @spec get_program(String.t(), term) :: {:ok, term} | {:error, :not_found}
  def get_program(session_id, program_id) do
    with {:ok, session} <- get_session(session_id), do: Session.get_program(session, program_id)
  end

  @doc "Keeps `data` for all sessions."
  @spec store_global_program(term, term) :: :ok
  def store_global_program(program_id, data),
    do: GenServer.call(__MODULE__, {:put_global, program_id, data})

  @spec get_global_program(term) :: {:ok, term} | {:error, :not_found}
  def get_global_program(program_id) do
    case :ets.lookup(tables(__MODULE__).extras, {:program, program_id}) do
      [{_, data}] -> {:ok, data}
      [] -> {:error, :not_found}
    end
  end

  @doc """
  Gives the session a variable. Types: `:float`, `:integer`, `:string`,
  `:boolean`, `:choice`, `:list`, `:map`, `:any`. Constraints: `:min`, `:max`,
  `:min_length`, `:max_length`, `:choices`.
  """
  @spec register_variable(String.t(), String.t() | atom, atom, term, keyword) ::
          {:ok, String.t()} | {:error, term}
  def register_variable(session_id, name, type, value, opts \\ []) do
    with {:ok, variable} <-
           SessionVariable.new(name, type, value, Keyword.get(opts, :constraints, %{})),
         do: GenServer.call(__MODULE__, {:register_variable, session_id, variable})
  end

  @doc "Another value, if it fits the type and the constraints."
  @spec update_variable(String.t(), String.t() | atom, term) :: :ok | {:error, term}
  def update_variable(session_id, name, value),
    do: GenServer.call(__MODULE__, {:update_variable, session_id, to_string(name), value})

  @doc "One variable of the session."
  @spec get_variable(String.t(), String.t() | atom) :: {:ok, Variable.t()} | {:error, :not_found}
  def get_variable(session_id, name) do
    with {:ok, _} <- get_session(session_id) do
      case :ets.lookup(tables(__MODULE__).extras, {:variable, session_id, to_string(name)}) do
        [{_, variable}] -> {:ok, Variable.new(variable)}
        [] -> {:error, :not_found}
      end
    end
  end

  @spec delete_variable(String.t(), String.t() | atom) :: :ok | {:error, :not_found}
  def delete_variable(session_id, name),
    do: GenServer.call(__MODULE__, {:delete_variable, session_id, to_string(name)})

  @doc "The variables of the session, by name."
  @spec list_variables(String.t()) :: {:ok, [Variable.t()]} | {:error, :not_found}
  def list_variables(session_id) do
    with {:ok, _} <- get_session(session_id) do
      rows = :ets.match(tables(__MODULE__).extras, {{:variable, session_id, :_}, :"$1"})
      {:ok, rows |> List.flatten() |> Enum.sort_by(& &1.name) |> Enum.map(&Variable.new/1)}
    end
  end

  @doc """
  The same for requests as data: `{:ok, name}` for a
  `Snakepit.Bridge.RegisterVariableRequest`, `:ok` for a `SetVariableRequest`; for a
  `BatchSetVariablesRequest` also `{:error, %{name => reason}}` of those that were
  refused.
  """
  @spec apply_request(
          RegisterVariableRequest.t()
          | SetVariableRequest.t()
          | BatchSetVariablesRequest.t()
        ) :: :ok | {:ok, String.t()} | {:error, term}
  def apply_request(%RegisterVariableRequest{} = request) do
    value = request.initial_binary_value || request.initial_value
    opts = [constraints: request.constraints]
    register_variable(request.session_id, request.name, request.type, value, opts)
  end

  def apply_request(%SetVariableRequest{} = request),
    do: update_variable(request.session_id, request.name, request.binary_value || request.value)

  def apply_request(%BatchSetVariablesRequest{} = request) do
    refused =
      for {name, value} <- Map.merge(request.updates, request.binary_updates),
          {:error, reason} <- [update_variable(request.session_id, name, value)],
          into: %{},
          do: {to_string(name), reason}

    if refused == %{}, do: :ok, else: {:error, refused}
  end

  # ---- rows ---------------------------------------------------------------

  # The tables belong to the server and are found without asking it.
  defp tables(__MODULE__) do
    case :persistent_term.get({__MODULE__, __MODULE__}, nil) do
      nil -> exit({:noproc, {__MODULE__, :tables, [__MODULE__]}})
      tables -> tables
    end
  end

  defp tables(server), do: GenServer.call(server, :tables)

  defp live(table, session_id, now) do
    with [row] <- :ets.lookup(table, session_id), false <- expired?(row, now) do
      row
    else
      _ -> nil
    end
  rescue
    # The server and its tables have gone since.
    ArgumentError -> exit({:noproc, {__MODULE__, :lookup, [session_id]}})
  end

  defp expired?({_id, session, clock}, now),
    do: over?(session, clock, :atomics.get(clock, 1), now)

  defp over?(_session, _clock, @over, _now), do: true

  defp over?(session, clock, used, now) do
    ttl = session.ttl * 1000
    now - used >= ttl and not called?(session.id, clock, used, now, ttl)
  end

  # Calls in the session do not tell the store: it asks once it would expire.
  defp called?(id, clock, used, now, ttl) do
    case Sessions.unused_ms(id) do
      ms when is_integer(ms) and ms < ttl ->
        _ = :atomics.compare_exchange(clock, 1, used, now - ms)
        true

      _ ->
        false
    end
  end

  defp alive?(%{adapter: nil, sessions: table}, session_id),
    do: live(table, session_id, now_ms()) != nil

  defp alive?(%{adapter: adapter}, session_id), do: adapter.session_exists?(session_id)

  defp with_time(session, ms), do: %{session | last_accessed: Integer.floor_div(ms, 1000)}

  defp now_ms, do: System.monotonic_time(:millisecond)

  # ---- the server ---------------------------------------------------------

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)
    application? = Keyword.get(opts, :name, __MODULE__) == __MODULE__
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
      sessions: :ets.new(get.(:table_name, @table), table_options(get)),
      extras: :ets.new(:snakepit_session_extras, [:set, :protected, read_concurrency: true])
    }

    name = get.(:name, __MODULE__)
    if name == __MODULE__, do: :persistent_term.put({__MODULE__, __MODULE__}, tables)

    schedule(%{
      name: name,
      tables: tables,
      adapter: adapter,
      interval: get.(:cleanup_interval, Defaults.session_cleanup_interval()),
      ttl: tables.ttl,
      max: get.(:max_sessions, Defaults.session_max_sessions()),
      threshold: get.(:warning_threshold, Defaults.session_warning_threshold()),
      strict?: get.(:strict_mode, false),
      registry: get.(:tool_registry, if(name == __MODULE__, do: ToolRegistry)),
      warned?: false,
      stats: %{sessions_created: 0, sessions_deleted: 0, sessions_expired: 0, cleanup_runs: 0}
    })
  end

  # A second store beside the one of the application has its table unnamed.
  defp table_options(get) do
    named = if get.(:name, __MODULE__) == __MODULE__ or get.(:table_name, nil), do: [:named_table]

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
    {reply, state} = create(id, opts, state)
    {:reply, reply, state}
  end

  def handle_call({:update, id, fun}, _from, state) do
    reply =
      with {_id, session, clock} <- live(state.tables.sessions, id, now_ms()),
           {:ok, session} <- apply_update(fun, with_time(session, now_ms())) do
        save(session, clock, state)
      else
        nil -> {:error, :not_found}
        error -> error
      end

    if match?({:ok, _}, reply), do: SessionEvents.updated(id)
    {:reply, reply, state}
  end

  def handle_call({:delete, id}, _from, state) do
    known? = :ets.member(state.tables.sessions, id)
    remove(id, state)
    if known?, do: SessionEvents.destroyed(id, :deleted)
    {:reply, :ok, if(known?, do: count(state, :sessions_deleted, 1), else: state)}
  end

  def handle_call({:store_worker, id, worker_id}, _from, state) do
    {reply, state} = create(id, [], state)

    with {:ok, session} <- reply,
         [{_, _, clock}] <- :ets.lookup(state.tables.sessions, id),
         do: save(%{session | last_worker_id: worker_id}, clock, state)

    {:reply, :ok, state}
  end

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
        not alive?(state.tables, id) -> {:error, :not_found}
        :ets.insert_new(state.tables.extras, {key, variable}) -> {:ok, variable.name}
        true -> {:error, {:duplicate_variable, variable.name}}
      end

    {:reply, reply, state}
  end

  def handle_call({:update_variable, id, name, value}, _from, state) do
    extras = state.tables.extras
    key = {:variable, id, name}

    reply =
      with true <- alive?(state.tables, id),
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
  def terminate(_reason, %{name: __MODULE__}),
    do: :persistent_term.erase({__MODULE__, __MODULE__})

  def terminate(_reason, _state), do: :ok

  # ---- what it does -------------------------------------------------------

  defp schedule(%{interval: interval} = state) when is_integer(interval) do
    Process.send_after(self(), :sweep, interval)
    state
  end

  defp schedule(state), do: state

  defp create(id, opts, state) do
    now = now_ms()

    case :ets.lookup(state.tables.sessions, id) do
      [] ->
        create_new(id, opts, state)

      [{_id, session, clock} = row] ->
        cond do
          use_clock(clock, :atomics.get(clock, 1), session, now) ->
            {{:ok, with_time(session, now)}, state}

          ended?(row, now) ->
            {_, state} = expire([id], state)
            create_new(id, opts, state)

          # A reader was in time.
          true ->
            create(id, opts, state)
        end
    end
  end

  defp create_new(id, opts, state) do
    session = Session.new(id, Keyword.put_new(opts, :ttl, state.ttl))

    with :ok <- Session.validate(session), {:ok, state} <- make_room(state) do
      clock = :atomics.new(1, signed: true)
      :atomics.put(clock, 1, now_ms())
      SessionEvents.created(id)
      {save(session, clock, state), state |> count(:sessions_created, 1) |> warn()}
    else
      {:error, reason} -> {{:error, reason}, state}
    end
  end

  # What has expired but was not swept is nobody's: its place is free.
  defp make_room(state) do
    {_, state} = if full?(state), do: sweep(state), else: {0, state}
    if full?(state), do: {:error, :session_quota_exceeded}, else: {:ok, state}
  end

  defp full?(%{max: :infinity}), do: false
  defp full?(state), do: :ets.info(state.tables.sessions, :size) >= state.max

  defp save(session, clock, state) do
    now = now_ms()
    # A reader may be ahead.
    :atomics.put(clock, 1, max(now, :atomics.get(clock, 1)))
    session = with_time(session, now)
    :ets.insert(state.tables.sessions, {session.id, session, clock})
    {:ok, session}
  end

  defp apply_update(fun, %Session{id: id} = session) do
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
    with [{_id, _session, clock}] <- :ets.lookup(state.tables.sessions, id),
         do: :atomics.put(clock, 1, @over)

    :ets.delete(state.tables.sessions, id)
    :ets.match_delete(state.tables.extras, {{:variable, id, :_}, :_})
    if state.name == __MODULE__, do: Sessions.forget(id)
    if state.registry, do: remove_tools(state.registry, id)
    if state.name == __MODULE__, do: Refs.session_ended(id)
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

  defp expired(%{adapter: nil} = state) do
    now = now_ms()
    for row <- :ets.tab2list(state.tables.sessions), ended?(row, now), do: elem(row, 0)
  end

  # What belongs to the sessions that it removed is here.
  defp expired(%{adapter: %{module: adapter}}) do
    adapter.cleanup_expired_sessions()
  catch
    kind, reason ->
      why = Exception.format_banner(kind, reason, __STACKTRACE__)
      Logger.error(:bridge, "#{inspect(adapter)} cannot clean up: #{why}")
      []
  end

  # From here on no reader can use it any more.
  defp ended?({_id, session, clock}, now) do
    seen = :atomics.get(clock, 1)
    over?(session, clock, seen, now) and :atomics.compare_exchange(clock, 1, seen, @over) == :ok
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
