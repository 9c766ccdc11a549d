defmodule Snakepit.Pool.Registry do
  @moduledoc "The workers by their ids: an Elixir `Registry` with metadata."

  @metadata_keys [:worker_module, :pool_name, :pool_identifier, :adapter_module]

  @doc false
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(_opts), do: Registry.child_spec(keys: :unique, name: __MODULE__)

  @doc "The name under which a worker registers."
  @spec via_tuple(String.t()) :: {:via, Registry, {__MODULE__, String.t()}}
  def via_tuple(worker_id), do: {:via, Registry, {__MODULE__, worker_id}}

  @doc "Registers the calling process; `pid` is it."
  @spec register_worker(String.t(), pid) :: {:ok, pid} | {:error, {:already_registered, pid}}
  def register_worker(worker_id, pid) when pid == self() do
    Registry.register(__MODULE__, worker_id, nil)
  end

  @doc "The worker's process and metadata."
  @spec fetch_worker(String.t()) :: {:ok, pid, map} | {:error, :not_found}
  def fetch_worker(worker_id) do
    case lookup(worker_id) do
      {pid, metadata} -> {:ok, pid, metadata || %{}}
      nil -> {:error, :not_found}
    end
  end

  @doc "The worker's process."
  @spec get_worker_pid(String.t()) :: {:ok, pid} | {:error, :not_found}
  def get_worker_pid(worker_id) do
    with {:ok, pid, _metadata} <- fetch_worker(worker_id), do: {:ok, pid}
  end

  @doc "The id of a worker's process."
  @spec get_worker_id_by_pid(pid) :: {:ok, String.t()} | {:error, :not_found}
  def get_worker_id_by_pid(pid) do
    case Registry.keys(__MODULE__, pid) do
      [worker_id | _] -> {:ok, worker_id}
      [] -> {:error, :not_found}
    end
  end

  @doc "The worker's metadata."
  @spec get_worker_metadata(String.t()) :: {:ok, map} | {:error, :not_found}
  def get_worker_metadata(worker_id) do
    with {:ok, _pid, metadata} <- fetch_worker(worker_id), do: {:ok, metadata}
  end

  @doc "Adds to the metadata of a worker; to be called by its own process."
  @spec put_metadata(String.t(), map) :: :ok | {:error, :not_registered}
  def put_metadata(worker_id, metadata) when is_map(metadata) do
    case Registry.update_value(__MODULE__, worker_id, &Map.merge(&1 || %{}, metadata)) do
      {_new, _old} -> :ok
      :error -> {:error, :not_registered}
    end
  end

  @doc "The keys that every worker's metadata has."
  @spec metadata_keys() :: [atom]
  def metadata_keys, do: @metadata_keys

  @doc "All ids."
  @spec list_workers() :: [String.t()]
  def list_workers, do: Registry.select(__MODULE__, [{{:"$1", :_, :_}, [], [:"$1"]}])

  @doc "How many there are."
  @spec worker_count() :: non_neg_integer
  def worker_count, do: Registry.count(__MODULE__)

  @doc "Whether there is a worker with this id."
  @spec worker_exists?(String.t()) :: boolean
  def worker_exists?(worker_id), do: lookup(worker_id) != nil

  @doc false
  # Whether a worker serves gRPC at that port of this host.
  @spec at?(:inet.port_number()) :: boolean
  def at?(port) do
    Process.whereis(__MODULE__) != nil and
      Registry.select(__MODULE__, [{{:_, :_, %{grpc_port: port}}, [], [true]}]) != []
  end

  defp lookup(worker_id) do
    case Registry.lookup(__MODULE__, worker_id) do
      [{pid, metadata}] -> {pid, metadata}
      [] -> nil
    end
  end
end
