defmodule Snakepit.Bridge.WorkerTools do
  @moduledoc false
  # The tools that workers tell of when they start, for as long as their processes
  # in Elixir live; and which of them keep something for sessions. An Elixir
  # `Registry`: what a worker registered goes with it.

  alias Snakepit.Bridge.{InternalToolSpec, SessionStore, ToolRegistry}
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Pool.Targets

  # Of one worker; it is told which are left out.
  @max_tools 1_000

  @type about :: %{tools: [InternalToolSpec.t()], keeps_sessions: boolean}

  @doc false
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec(_arg), do: Registry.child_spec(keys: :duplicate, name: __MODULE__)

  # ---- what a worker tells ------------------------------------------------

  @doc """
  For the worker of that id; `params` are what it said, see
  priv/python/snakepit_bridge/worker/announce.py. By name, why tools were refused.
  """
  @spec announce(String.t(), map) :: {:ok, %{String.t() => String.t()}} | {:error, atom}
  def announce(worker_id, params) do
    with {:ok, pid} <- worker(worker_id) do
      {tools, refused} = read(params["tools"], worker_id)
      about = %{tools: tools, keeps_sessions: params["keeps_sessions"] == true}
      tell(pid, about, refused)
    end
  end

  defp worker(worker_id) do
    if Process.whereis(Workers), do: Workers.get_worker_pid(worker_id), else: {:error, :not_found}
  end

  defp tell(pid, about, refused) do
    :ok = GenServer.call(pid, {:announced, about})
    {:ok, refused}
  catch
    # It has ended meanwhile.
    :exit, _ -> {:error, :not_found}
  end

  defp read(tools, worker_id) when is_list(tools) do
    {kept, more} = Enum.split(tools, @max_tools)
    too_many = Map.new(more, &{name(&1), "a worker registers #{@max_tools} tools at most"})

    Enum.reduce(kept, {[], too_many}, fn tool, {done, refused} ->
      case ToolRegistry.check(spec(tool, worker_id)) do
        {:ok, spec} -> {[spec | done], refused}
        {:error, reason} -> {done, Map.put(refused, name(tool), inspect(reason))}
      end
    end)
  end

  defp read(_other, _worker_id), do: {[], %{}}

  defp name(%{"name" => name}) when is_binary(name), do: name
  defp name(_other), do: ""

  defp spec(%{} = tool, worker_id) do
    streams? = tool["supports_streaming"] == true
    metadata = if is_map(tool["metadata"]), do: tool["metadata"], else: %{}

    %{
      name: tool["name"],
      worker_id: worker_id,
      description: tool["description"],
      parameters: tool["parameters"],
      metadata: Map.put(metadata, "supports_streaming", to_string(streams?))
    }
  end

  defp spec(_other, worker_id), do: %{name: nil, worker_id: worker_id}

  @doc "In the worker's process: others see it from now on, until this process ends."
  @spec register(about, String.t(), atom) :: :ok
  def register(about, worker_id, pool) do
    names = for tool <- about.tools, do: {tool.name, %{tool | pool: pool}}
    kept = if about.keeps_sessions, do: [{:keeps_sessions, worker_id}], else: []

    Enum.each(names ++ kept, fn {key, value} ->
      {:ok, _} = Registry.register(__MODULE__, key, value)
    end)
  end

  # ---- looking up ---------------------------------------------------------

  @doc """
  The tool as one worker has it: that of the session, if it has it; else one of
  the default pool, if it is there.
  """
  @spec find(String.t(), String.t()) :: InternalToolSpec.t() | nil
  def find(session_id, name) do
    case offers(name) do
      [] -> nil
      [tool] -> tool
      tools -> choose(tools, session_worker(session_id))
    end
  end

  defp session_worker(session_id) do
    with true <- Process.whereis(SessionStore) != nil,
         {:ok, session} <- SessionStore.get_session(session_id) do
      session.last_worker_id
    else
      _ -> nil
    end
  end

  defp choose(tools, worker_id) do
    Enum.find(tools, &(&1.worker_id == worker_id)) ||
      Enum.min_by(tools, &{place(&1.pool), &1.worker_id})
  end

  defp place(pool) do
    case Targets.find(nil) do
      {:ok, %{name: ^pool}} -> -1
      _ -> Enum.find_index(Targets.names(), &(&1 == pool)) || length(Targets.names())
    end
  end

  @doc "Whether a worker of the pool has a tool of that name."
  @spec offered?(atom, String.t()) :: boolean
  def offered?(pool, name), do: Enum.any?(offers(name), &(&1.pool == pool))

  @doc "All, by name; a tool of several workers once."
  @spec list() :: [InternalToolSpec.t()]
  def list do
    if Process.whereis(__MODULE__) do
      __MODULE__
      |> Registry.select([{{:"$1", :_, :"$2"}, [{:is_binary, :"$1"}], [:"$2"]}])
      |> Enum.sort_by(&{&1.name, place(&1.pool), &1.worker_id})
      |> Enum.dedup_by(& &1.name)
    else
      []
    end
  end

  @doc "The workers that keep something for sessions."
  @spec session_keepers() :: [String.t()]
  def session_keepers do
    if Process.whereis(__MODULE__),
      do: for({_pid, id} <- Registry.lookup(__MODULE__, :keeps_sessions), do: id),
      else: []
  end

  defp offers(name) when is_binary(name) do
    if Process.whereis(__MODULE__),
      do: for({_pid, tool} <- Registry.lookup(__MODULE__, name), do: tool),
      else: []
  end

  defp offers(_other), do: []
end
