defmodule Snakepit.Bridge.ToolRegistry do
  @moduledoc """
  The tools of each session: Elixir functions that Python may call, and
  functions of workers.

      :ok =
        ToolRegistry.register_elixir_tool("s1", "add", fn %{"a" => a, "b" => b} -> a + b end, %{
          description: "Adds two numbers",
          exposed_to_python: true,
          parameters: [%{name: "a", type: "integer", required: true}]
        })

      {:ok, 3} = ToolRegistry.execute_local_tool("s1", "add", %{"a" => 1, "b" => 2})

  A handler gets the parameters as a map with text keys. From Python only tools
  with `exposed_to_python: true` can be called. The session need not exist yet;
  when it is deleted or expires, its tools go too.

  Without a session, `register_elixir_tool(name, fun, metadata)` makes a tool for
  all sessions, and exposes it unless the metadata says otherwise. A session's own
  tool of the same name comes first.

  The tools of an adapter are known by themselves once its worker has started:
  `get_tool/2` and `execute_tool/3` find them for any session, after the session's
  own and those for all sessions. `list_worker_tools/0` has them all.

  Names are 1 to 64 letters, digits, `_`, `-` and `.`, beginning with a letter or
  digit. Metadata has at most 32 entries and 4096 bytes.
  """
  use GenServer

  alias Snakepit.Bridge.{InternalToolSpec, WorkerTools}
  alias Snakepit.{GRPCWorker, Pool}
  alias Snakepit.Pool.Registry, as: Workers

  @table :snakepit_tool_registry
  @everywhere :all_sessions

  @max_name 64
  @max_entries 32
  @max_bytes 4096
  @max_parameters 256

  @type session :: String.t()
  @type handler :: (map -> term)
  @type reason ::
          {:invalid_tool_name, :empty | :too_long | :invalid_format | :invalid_type}
          | {:invalid_metadata, :too_many_entries | :too_large | :duplicate_keys | atom}
          | {:invalid_parameters, :too_many | :unsupported_type}
          | {:duplicate_tool, String.t()}
          | {:invalid_tool_spec, term}
          | :invalid_handler
          | :invalid_worker_id

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []),
    do: GenServer.start_link(__MODULE__, opts, name: Keyword.get(opts, :name, __MODULE__))

  # ---- registering --------------------------------------------------------

  @doc """
  Registers an Elixir function in a session, or, as
  `register_elixir_tool(name, fun, metadata)`, for all sessions.
  """
  @spec register_elixir_tool(session | String.t(), String.t() | handler, handler | map | keyword) ::
          :ok | {:error, reason}
  def register_elixir_tool(name, handler, metadata) when is_function(handler),
    do: register_local(@everywhere, name, handler, metadata, true)

  def register_elixir_tool(session_id, tool_name, handler),
    do: register_elixir_tool(session_id, tool_name, handler, %{})

  @spec register_elixir_tool(session, String.t(), handler, map | keyword) ::
          :ok | {:error, reason}
  def register_elixir_tool(session_id, tool_name, handler, metadata),
    do: register_local(session_id, tool_name, handler, metadata, false)

  @doc "Registers a function of a worker."
  @spec register_python_tool(session, String.t(), String.t(), map | keyword) ::
          :ok | {:error, reason}
  def register_python_tool(session_id, tool_name, worker_id, metadata \\ %{}) do
    with {:ok, spec} <- spec(%{name: tool_name, worker_id: worker_id, metadata: metadata}),
         {:ok, _} <- insert(session_id, [spec]),
         do: :ok
  end

  @doc """
  Registers several tools, all or none: maps with `:name`, and `:worker_id` or
  `:handler`, and as they apply `:description`, `:parameters`, `:metadata`,
  `:exposed_to_python`.
  """
  @spec register_tools(session, [map]) :: {:ok, [String.t()]} | {:error, reason}
  def register_tools(session_id, tool_specs) when is_list(tool_specs) do
    with {:ok, specs} <- all(tool_specs, &spec/1), do: insert(session_id, specs)
  end

  def register_tools(_session_id, other), do: {:error, {:invalid_tool_spec, other}}

  @doc "Removes the tools of a session."
  @spec cleanup_session(session) :: :ok
  def cleanup_session(session_id), do: GenServer.call(__MODULE__, {:cleanup, session_id})

  # ---- looking up ---------------------------------------------------------

  @spec get_tool(session, String.t()) ::
          {:ok, InternalToolSpec.t()} | {:error, {:tool_not_found, session, String.t()}}
  def get_tool(session_id, tool_name) do
    with {:ok, spec, _whose} <- lookup(session_id, tool_name), do: {:ok, spec}
  end

  @doc false
  # And whether it is the session's own.
  @spec lookup(session, String.t()) ::
          {:ok, InternalToolSpec.t(), :session | :everywhere | :worker}
          | {:error, {:tool_not_found, session, String.t()}}
  def lookup(session_id, tool_name) do
    with [] <- :ets.lookup(@table, {session_id, tool_name}),
         [] <- :ets.lookup(@table, {@everywhere, tool_name}),
         nil <- WorkerTools.find(session_id, tool_name) do
      {:error, {:tool_not_found, session_id, tool_name}}
    else
      %InternalToolSpec{} = spec -> {:ok, spec, :worker}
      [{{@everywhere, _name}, spec}] -> {:ok, spec, :everywhere}
      [{_key, spec}] -> {:ok, spec, :session}
    end
  end

  @doc "Whether the tool is one for all sessions, as the session sees it."
  @spec everywhere?(session, String.t()) :: boolean
  def everywhere?(session_id, tool_name) do
    not :ets.member(@table, {session_id, tool_name}) and
      :ets.member(@table, {@everywhere, tool_name})
  end

  @doc "All tools that were registered for the session or for all of them, by name."
  @spec list_tools(session) :: [InternalToolSpec.t()]
  def list_tools(session_id) do
    Map.new(of(@everywhere), &{&1.name, &1})
    |> Map.merge(Map.new(of(session_id), &{&1.name, &1}))
    |> Map.values()
  end

  @doc "How many tools the session has of its own."
  @spec count_tools(session) :: non_neg_integer
  def count_tools(session_id),
    do: :ets.select_count(@table, [{{{session_id, :_}, :_}, [], [true]}])

  @doc "Those that Python may call."
  @spec list_exposed_elixir_tools(session) :: [InternalToolSpec.t()]
  def list_exposed_elixir_tools(session_id),
    do: for(%{type: :local, exposed_to_python: true} = tool <- list_tools(session_id), do: tool)

  @doc """
  The tools that workers have told of when they started, by name: those of adapters
  of `snakepit_bridge`. One that several workers have is there once.
  """
  @spec list_worker_tools() :: [InternalToolSpec.t()]
  def list_worker_tools, do: WorkerTools.list()

  defp of(owner) do
    :ets.select(@table, [{{{owner, :_}, :"$1"}, [], [:"$1"]}])
  end

  # ---- executing ----------------------------------------------------------

  @doc "Runs an Elixir tool in the calling process."
  @spec execute_local_tool(session, String.t(), map) ::
          {:ok, term}
          | {:error,
             {:tool_not_found, session, String.t()}
             | {:tool_not_local, String.t()}
             | {:tool_execution_failed, Exception.t()}}
  def execute_local_tool(session_id, tool_name, params) do
    with {:ok, tool} <- get_tool(session_id, tool_name),
         {:ok, result} <- run(tool, params) do
      {:ok, result}
    else
      {:failed, _kind, error, _stacktrace} -> {:error, {:tool_execution_failed, error}}
      error -> error
    end
  end

  @doc """
  Runs any tool of the session by its name: an Elixir tool in the calling
  process, a worker's on that worker. `{:remote_tool_unreachable, name,
  worker_id}` is the error when that worker is not there. A tool that workers
  told of by themselves runs as with `Snakepit.execute_in_session/4`.
  """
  @spec execute_tool(session, String.t(), map) :: {:ok, term} | {:error, term}
  def execute_tool(session_id, tool_name, params) do
    with {:ok, %{type: :remote} = tool} <- get_tool(session_id, tool_name) do
      execute_remote(tool, session_id, params, [])
    else
      {:ok, _local} -> execute_local_tool(session_id, tool_name, params)
      error -> error
    end
  end

  @doc false
  @spec execute_remote(InternalToolSpec.t(), session, map, keyword) ::
          {:ok, term} | {:error, term}
  def execute_remote(%InternalToolSpec{type: :remote, pool: nil} = tool, session_id, params, opts) do
    with {:ok, worker} <- worker(tool),
         do: GRPCWorker.execute_in_session(worker, session_id, tool.name, params, nil, opts)
  end

  def execute_remote(%InternalToolSpec{type: :remote} = tool, session_id, params, opts),
    do: Pool.execute(tool.name, params, pooled(tool, session_id, opts))

  @doc false
  # `fun` gets each ToolChunk as it came from the worker.
  @spec stream_remote(InternalToolSpec.t(), session, map, (binary -> term), keyword) ::
          :ok | {:error, term}
  def stream_remote(
        %InternalToolSpec{type: :remote, pool: nil} = tool,
        session_id,
        params,
        fun,
        opts
      ) do
    opts = Keyword.merge(opts, session_id: session_id, raw_chunks: true)

    with {:ok, worker} <- worker(tool),
         do: GRPCWorker.execute_stream(worker, tool.name, params, fun, nil, opts)
  end

  def stream_remote(%InternalToolSpec{type: :remote} = tool, session_id, params, fun, opts) do
    opts = Keyword.put(opts, :raw_chunks, true)
    Pool.execute_stream(tool.name, params, fun, pooled(tool, session_id, opts))
  end

  defp pooled(tool, session_id, opts),
    do: Keyword.merge(opts, pool: tool.pool, session_id: session_id)

  defp worker(tool) do
    with true <- Process.whereis(Workers) != nil,
         {:ok, worker} <- Workers.get_worker_pid(tool.worker_id) do
      {:ok, worker}
    else
      _ -> {:error, {:remote_tool_unreachable, tool.name, tool.worker_id}}
    end
  end

  @doc false
  # A failure always has an exception: throws and exits are ErlangErrors.
  @spec run(InternalToolSpec.t(), map) ::
          {:ok, term}
          | {:failed, :error | :exit | :throw, Exception.t(), Exception.stacktrace()}
          | {:error, {:tool_not_local, String.t()}}
  def run(%InternalToolSpec{type: :local, handler: handler}, params) do
    {:ok, handler.(params)}
  catch
    :error, reason ->
      {:failed, :error, Exception.normalize(:error, reason, __STACKTRACE__), __STACKTRACE__}

    :throw, value ->
      {:failed, :throw, %ErlangError{original: {:nocatch, value}}, __STACKTRACE__}

    :exit, reason ->
      {:failed, :exit, %ErlangError{original: {:exit, reason}}, __STACKTRACE__}
  end

  def run(%InternalToolSpec{name: name}, _params), do: {:error, {:tool_not_local, name}}

  # ---- checking -----------------------------------------------------------

  defp register_local(owner, name, handler, metadata, exposed?) do
    tool = %{name: name, handler: handler, metadata: metadata, exposed_to_python: exposed?}

    with {:ok, spec} <- spec(tool), {:ok, _} <- insert(owner, [spec]), do: :ok
  end

  defp insert(owner, specs), do: GenServer.call(__MODULE__, {:insert, owner, specs})

  @doc false
  # A tool as register_tools/2 takes it.
  @spec check(map) :: {:ok, InternalToolSpec.t()} | {:error, reason}
  def check(tool), do: spec(tool)

  # What the metadata says about description, parameters and exposure counts
  # where the tool itself says nothing.
  defp spec(%_{} = tool), do: spec(Map.from_struct(tool))

  defp spec(tool) do
    if is_map(tool) or Keyword.keyword?(tool),
      do: made(tool),
      else: {:error, {:invalid_tool_spec, tool}}
  end

  defp made(tool) do
    with {:ok, name} <- name(tool[:name]),
         {:ok, metadata} <- metadata(tool[:metadata] || %{}),
         {:ok, type} <- type(tool),
         {:ok, parameters} <- parameters(tool[:parameters] || value(metadata, :parameters) || []) do
      {:ok,
       %InternalToolSpec{
         name: name,
         type: type,
         handler: if(type == :local, do: tool[:handler]),
         worker_id: if(type == :remote, do: tool[:worker_id]),
         parameters: parameters,
         description: to_string(tool[:description] || value(metadata, :description) || ""),
         metadata: metadata,
         exposed_to_python: exposed?(value(metadata, :exposed_to_python), tool)
       }}
    end
  rescue
    # No text could be made of the description.
    Protocol.UndefinedError -> {:error, {:invalid_metadata, :unsupported_type}}
  end

  defp exposed?(nil, tool), do: tool[:exposed_to_python] in [true, "true"]
  defp exposed?(said, _tool), do: said in [true, "true"]

  defp value(metadata, key), do: Map.get(metadata, key, Map.get(metadata, Atom.to_string(key)))

  defp name(name) when is_binary(name) do
    name = if String.valid?(name), do: String.trim(name), else: name

    cond do
      name == "" -> {:error, {:invalid_tool_name, :empty}}
      byte_size(name) > @max_name -> {:error, {:invalid_tool_name, :too_long}}
      name =~ ~r/\A[A-Za-z0-9][A-Za-z0-9_\-.]*\z/ -> {:ok, name}
      true -> {:error, {:invalid_tool_name, :invalid_format}}
    end
  end

  defp name(_other), do: {:error, {:invalid_tool_name, :invalid_type}}

  defp metadata(metadata) when is_list(metadata) do
    cond do
      not Keyword.keyword?(metadata) ->
        {:error, {:invalid_metadata, :unsupported_type}}

      metadata |> Keyword.keys() |> Enum.uniq() |> length() != length(metadata) ->
        {:error, {:invalid_metadata, :duplicate_keys}}

      true ->
        metadata |> Map.new() |> metadata()
    end
  end

  defp metadata(metadata) when is_struct(metadata),
    do: {:error, {:invalid_metadata, :unsupported_type}}

  defp metadata(metadata) when is_map(metadata) do
    both? = fn key -> is_atom(key) and is_map_key(metadata, Atom.to_string(key)) end

    cond do
      map_size(metadata) > @max_entries -> {:error, {:invalid_metadata, :too_many_entries}}
      Enum.any?(Map.keys(metadata), both?) -> {:error, {:invalid_metadata, :duplicate_keys}}
      :erlang.external_size(metadata) > @max_bytes -> {:error, {:invalid_metadata, :too_large}}
      true -> {:ok, metadata}
    end
  end

  defp metadata(_other), do: {:error, {:invalid_metadata, :unsupported_type}}

  defp parameters(parameters) when is_list(parameters) do
    cond do
      length(parameters) > @max_parameters -> {:error, {:invalid_parameters, :too_many}}
      Enum.all?(parameters, &is_map/1) -> {:ok, parameters}
      true -> {:error, {:invalid_parameters, :unsupported_type}}
    end
  end

  defp parameters(_other), do: {:error, {:invalid_parameters, :unsupported_type}}

  defp type(%{handler: handler}) when is_function(handler, 1), do: {:ok, :local}
  defp type(%{handler: handler}) when handler != nil, do: {:error, :invalid_handler}
  defp type(%{worker_id: id}) when is_binary(id) and id != "", do: {:ok, :remote}
  defp type(%{worker_id: _}), do: {:error, :invalid_worker_id}
  defp type(_tool), do: {:error, :invalid_handler}

  defp all(list, fun) do
    Enum.reduce_while(list, {:ok, []}, fn item, {:ok, done} ->
      case fun.(item) do
        {:ok, made} -> {:cont, {:ok, [made | done]}}
        error -> {:halt, error}
      end
    end)
    |> case do
      {:ok, done} -> {:ok, Enum.reverse(done)}
      error -> error
    end
  end

  # ---- the server ---------------------------------------------------------

  @impl true
  def init(_opts) do
    {:ok, :ets.new(@table, [:ordered_set, :named_table, :protected, read_concurrency: true])}
  end

  @impl true
  def handle_call({:insert, owner, specs}, _from, table) do
    names = Enum.map(specs, & &1.name)

    reply =
      case taken(table, owner, names) do
        nil ->
          :ets.insert(table, for(spec <- specs, do: {{owner, spec.name}, spec}))
          {:ok, names}

        name ->
          {:error, {:duplicate_tool, name}}
      end

    {:reply, reply, table}
  end

  def handle_call({:cleanup, owner}, _from, table) do
    :ets.match_delete(table, {{owner, :_}, :_})
    {:reply, :ok, table}
  end

  defp taken(table, owner, names) do
    List.first(names -- Enum.uniq(names)) ||
      Enum.find(names, &:ets.member(table, {owner, &1}))
  end
end
