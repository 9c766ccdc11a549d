defmodule Snakepit.Pool.Worker.Starter do
  @moduledoc """
  The supervisor of one worker: starts it again when it dies after it was
  ready. When the worker cannot start at all it ends, and the pool decides.
  """

  # Elixir's Supervisor does not know in all versions that a supervisor may end
  # with its child.
  @behaviour :supervisor

  alias Snakepit.Defaults
  alias Snakepit.Pool.Worker.StarterRegistry

  @type arg ::
          String.t()
          | {worker_id :: String.t(), module, adapter :: module | nil, pool :: atom | nil, map}

  @doc false
  @spec child_spec(arg) :: Supervisor.child_spec()
  def child_spec(arg) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [arg]}, type: :supervisor}
  end

  @doc "The name of the supervisor of a worker."
  @spec via_name(String.t()) :: {:via, Registry, {StarterRegistry, String.t()}}
  def via_name(worker_id), do: StarterRegistry.via_tuple(worker_id)

  @doc "Takes a worker's id, or `{id, module, adapter, pool, config}`."
  @spec start_link(arg) :: Supervisor.on_start()
  def start_link(worker_id) when is_binary(worker_id),
    do: start_link({worker_id, Snakepit.GRPCWorker, nil, nil, %{}})

  def start_link({worker_id, _module, _adapter, _pool, _config} = arg) do
    :supervisor.start_link(via_name(worker_id), __MODULE__, arg)
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
