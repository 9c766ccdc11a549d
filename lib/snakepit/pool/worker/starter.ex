defmodule Snakepit.Pool.Worker.Starter do
  @moduledoc """
  The supervisor of one worker: starts it again when it dies after it was
  ready. When the worker cannot start at all it ends, and the pool decides.
  """

  use Supervisor

  alias Snakepit.Defaults
  alias Snakepit.Pool.Worker.StarterRegistry

  @type arg ::
          String.t()
          | {worker_id :: String.t(), module, adapter :: module | nil, pool :: atom | nil, map}

  @doc "The name of the supervisor of a worker."
  @spec via_name(String.t()) :: {:via, Registry, {StarterRegistry, String.t()}}
  def via_name(worker_id), do: StarterRegistry.via_tuple(worker_id)

  @doc "Takes a worker's id, or `{id, module, adapter, pool, config}`."
  @spec start_link(arg) :: Supervisor.on_start()
  def start_link(worker_id) when is_binary(worker_id),
    do: start_link({worker_id, Snakepit.GRPCWorker, nil, nil, %{}})

  def start_link({worker_id, _module, _adapter, _pool, _config} = arg) do
    Supervisor.start_link(__MODULE__, arg, name: via_name(worker_id))
  end

  @impl true
  def init({worker_id, module, adapter, pool, config}) do
    child = %{
      id: worker_id,
      start:
        {module, :start_link,
         [[id: worker_id, adapter: adapter, pool_name: pool, worker_config: config]]},
      restart: :transient,
      # It ended by itself, by its own choice: so does this supervisor.
      significant: true,
      shutdown: Snakepit.GRPCWorker.supervisor_shutdown_timeout()
    }

    flags = %{
      strategy: :one_for_one,
      intensity: Defaults.worker_starter_max_restarts(),
      period: Defaults.worker_starter_max_seconds(),
      auto_shutdown: :any_significant
    }

    {:ok, {flags, [child]}}
  end
end
