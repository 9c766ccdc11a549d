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
  alias __MODULE__.{Rows, Server}
  alias Snakepit.Bridge.{Session, SessionEvents, SessionVariable, Variable}
  alias Snakepit.Bridge.{BatchSetVariablesRequest, RegisterVariableRequest, SetVariableRequest}
  alias Snakepit.Pool.Sessions

  @typep server :: GenServer.server()

  @doc "For a supervisor; `opts` as for `start_link/1`."
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts), do: %{id: __MODULE__, start: {__MODULE__, :start_link, [opts]}}

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    GenServer.start_link(Server, opts, name: Keyword.get(opts, :name, __MODULE__))
  end

  # ---- reading ------------------------------------------------------------

  @doc "The session, which counts as used."
  @spec get_session(server, String.t()) :: {:ok, Session.t()} | {:error, :not_found}
  def get_session(server \\ __MODULE__, session_id) do
    found = find_session(server, session_id)
    if match?({:ok, _}, found), do: SessionEvents.accessed(session_id)
    found
  end

  # There is none of another kind of name.
  defp find_session(_server, id) when not is_binary(id), do: {:error, :not_found}

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
    case Rows.tables(server) do
      %{adapter: nil, sessions: table} -> Rows.touch(table, session_id)
      %{adapter: adapter} -> adapter.get_session(session_id)
    end
  end

  @doc "Whether there is one; it does not count as used."
  @spec session_exists?(server, String.t()) :: boolean
  def session_exists?(server \\ __MODULE__, session_id),
    do: Rows.alive?(Rows.tables(server), session_id)

  @spec list_sessions(server) :: [String.t()]
  def list_sessions(server \\ __MODULE__) do
    case Rows.tables(server) do
      %{adapter: nil, sessions: table} ->
        Rows.ids(table)

      %{adapter: adapter} ->
        adapter.list_sessions()
    end
  end

  # ---- writing ------------------------------------------------------------

  @doc """
  Makes a session, or gives the one of that id as it is. Options: `:ttl`,
  `:metadata`, `:programs`. Errors: `:session_quota_exceeded`, `:invalid_options` and
  those of `Snakepit.Bridge.Session.validate/1`.
  """
  @spec create_session(String.t()) :: {:ok, Session.t()} | {:error, term}
  def create_session(session_id), do: create_session(__MODULE__, session_id, [])

  @spec create_session(String.t() | server, keyword | map | String.t()) ::
          {:ok, Session.t()} | {:error, term}
  def create_session(server, session_id) when is_binary(session_id),
    do: create_session(server, session_id, [])

  def create_session(session_id, opts), do: create_session(__MODULE__, session_id, opts)

  @spec create_session(server, String.t(), keyword | map) :: {:ok, Session.t()} | {:error, term}
  def create_session(server, session_id, opts) do
    opts = if is_map(opts) and not is_struct(opts), do: Map.to_list(opts), else: opts

    if Keyword.keyword?(opts),
      do: create(server, session_id, opts),
      else: {:error, :invalid_options}
  end

  defp create(server, session_id, opts) do
    case Rows.tables(server) do
      %{adapter: nil, sessions: table} ->
        with {:error, :not_found} <- Rows.touch(table, session_id),
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
    case Rows.tables(server) do
      %{adapter: nil} -> GenServer.call(server, {:update, session_id, fun})
      %{adapter: adapter} -> adapter.update_session(session_id, &checked_update(fun, &1))
    end
  end

  defp checked_update(fun, session) do
    case Server.apply_update(fun, session) do
      {:ok, updated} -> updated
      {:error, reason} -> {:error, reason}
    end
  end

  @doc "Removes the session and its tools; also `:ok` when there is none."
  @spec delete_session(server, String.t()) :: :ok
  def delete_session(server \\ __MODULE__, session_id)

  def delete_session(_server, id) when not is_binary(id), do: :ok

  def delete_session(server, session_id) do
    %{adapter: adapter} = Rows.tables(server)
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
    :ok = served_by([{session_id, worker_id}])
    Sessions.assign(session_id, worker_id)
  end

  @doc false
  # The same of many, the latest first, that have these workers already.
  @spec served_by([{session_id :: String.t(), worker_id :: String.t()}]) :: :ok
  def served_by(workers) do
    %{adapter: adapter} = tables = Rows.tables(__MODULE__)

    unknown =
      workers
      |> with_place(tables)
      |> Enum.uniq_by(&elem(&1, 0))
      |> Enum.reject(fn {id, worker_id} -> served_last_by?(id, worker_id) end)

    cond do
      unknown == [] -> :ok
      adapter == nil -> GenServer.call(__MODULE__, {:store_workers, unknown})
      true -> Enum.each(unknown, &tell_adapter/1)
    end
  end

  # Beyond the maximum there are calls in sessions that the store does not have:
  # they need not ask it.
  defp with_place(workers, %{adapter: nil} = tables) do
    if Rows.room?(tables),
      do: workers,
      else: Enum.filter(workers, fn {id, _worker_id} -> Rows.member?(tables, id) end)
  end

  defp with_place(workers, _tables), do: workers

  defp served_last_by?(id, worker_id),
    do: match?({:ok, %Session{last_worker_id: ^worker_id}}, read(__MODULE__, id))

  defp tell_adapter({id, worker_id}) do
    _ = create_session(id)
    update_session(id, &%{&1 | last_worker_id: worker_id})
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
    case Rows.tables(server) do
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
    case :ets.lookup(Rows.tables(__MODULE__).extras, {:program, program_id}) do
      [{_, data}] -> {:ok, data}
      [] -> {:error, :not_found}
    end
  end

  @doc """
  Gives the session a variable. Types: `:float`, `:integer`, `:string`,
  `:boolean`, `:choice`, `:list`, `:map`, `:any`. Constraints: `:min`, `:max`,
  `:min_length`, `:max_length`, `:choices`.
  """
  @spec register_variable(String.t(), String.t() | atom, atom, term, keyword | map) ::
          {:ok, String.t()} | {:error, term}
  def register_variable(session_id, name, type, value, opts \\ []) do
    with {:ok, variable} <- SessionVariable.new(name, type, value, opts[:constraints] || %{}),
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
      case :ets.lookup(Rows.tables(__MODULE__).extras, {:variable, session_id, to_string(name)}) do
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
      rows = :ets.match(Rows.tables(__MODULE__).extras, {{:variable, session_id, :_}, :"$1"})
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
end
