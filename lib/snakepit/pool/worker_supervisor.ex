defmodule Snakepit.Pool.WorkerSupervisor do
  @moduledoc """
  All workers, each under a `Snakepit.Pool.Worker.Starter`. A starter that
  ends is not started again here: the pool does that, at a bounded rate.
  """

  use DynamicSupervisor

  alias Snakepit.Defaults
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Pool.Worker.{Starter, StarterRegistry}

  @doc false
  @spec start_link(term) :: Supervisor.on_start()
  def start_link(init_arg),
    do: DynamicSupervisor.start_link(__MODULE__, init_arg, name: __MODULE__)

  @impl true
  def init(_init_arg) do
    DynamicSupervisor.init(
      strategy: :one_for_one,
      max_restarts: Defaults.worker_supervisor_max_restarts(),
      max_seconds: Defaults.worker_supervisor_max_seconds()
    )
  end

  @doc "Starts a worker under a starter. Its process is there at once, its OS process later."
  @spec start_worker(String.t(), module, module | nil, atom | nil, map) ::
          {:ok, pid} | {:error, term}
  def start_worker(
        worker_id,
        worker_module \\ Snakepit.GRPCWorker,
        adapter_module \\ nil,
        pool_name \\ nil,
        worker_config \\ %{}
      ) do
    arg = {worker_id, worker_module, adapter_module, pool_name, worker_config}

    with {:ok, starter} <- start_starter(arg) do
      case Supervisor.which_children(starter) do
        [{_id, pid, _type, _modules}] when is_pid(pid) -> {:ok, pid}
        _ -> {:error, :not_started}
      end
    end
  end

  @doc false
  @spec start_starter(Starter.arg()) :: {:ok, pid} | {:error, term}
  def start_starter(arg) do
    spec = Supervisor.child_spec({Starter, arg}, restart: :temporary, type: :supervisor)

    case DynamicSupervisor.start_child(__MODULE__, spec) do
      {:ok, pid} -> {:ok, pid}
      {:error, reason} -> {:error, reason}
      other -> {:error, other}
    end
  end

  @doc "Stops a worker (its process or id) for good."
  @spec stop_worker(pid | String.t()) :: :ok | {:error, :worker_not_found}
  def stop_worker(worker) do
    with {:ok, worker_id} <- worker_id(worker),
         {:ok, starter} <- StarterRegistry.get_starter_pid(worker_id),
         :ok <- DynamicSupervisor.terminate_child(__MODULE__, starter) do
      :ok
    else
      {:error, _} -> {:error, :worker_not_found}
    end
  end

  @doc "Stops a worker and starts it again under its id."
  @spec restart_worker(String.t()) :: {:ok, pid} | {:error, term}
  def restart_worker(worker_id) do
    with {:ok, starter} <- StarterRegistry.get_starter_pid(worker_id),
         :ok <- Supervisor.terminate_child(starter, worker_id) do
      case Supervisor.restart_child(starter, worker_id) do
        {:ok, pid} -> {:ok, pid}
        {:ok, pid, _info} -> {:ok, pid}
        {:error, reason} -> {:error, reason}
      end
    else
      {:error, _} -> {:error, :worker_not_found}
    end
  end

  @doc "The processes of all workers."
  @spec list_workers() :: [pid]
  def list_workers do
    for worker_id <- StarterRegistry.list_starters(),
        {:ok, pid} <- [Workers.get_worker_pid(worker_id)],
        do: pid
  end

  @doc "How many workers there are."
  @spec worker_count() :: non_neg_integer
  def worker_count, do: length(list_workers())

  defp worker_id(pid) when is_pid(pid), do: Workers.get_worker_id_by_pid(pid)
  defp worker_id(worker_id) when is_binary(worker_id), do: {:ok, worker_id}
end
