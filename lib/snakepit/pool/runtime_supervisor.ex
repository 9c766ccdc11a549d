defmodule Snakepit.Pool.RuntimeSupervisor do
  @moduledoc false
  # What runs only with `pooling_enabled: true`, each part on those before it.
  use Supervisor

  alias Snakepit.Pool.{ApplicationCleanup, RunDir}

  @spec start_link(term) :: Supervisor.on_start()
  def start_link(_arg) do
    case ApplicationCleanup.make_run_dir() do
      {:ok, dir} -> Supervisor.start_link(__MODULE__, dir, name: __MODULE__)
      {:error, why} -> {:error, {:no_temporary_directory, why}}
    end
  end

  @impl true
  def init(run_dir) do
    children = [
      {Snakepit.Spawner, heir: RunDir.heir(run_dir)},
      {Snakepit.GRPCWorker.ReadyBell, run_dir},
      Snakepit.GRPC.Listener,
      Snakepit.Pool.Zygotes,
      Snakepit.Pool.Worker.StarterRegistry,
      Snakepit.Pool.WorkerSupervisor,
      Snakepit.Pool,
      Snakepit.Worker.LifecycleManager
    ]

    Supervisor.init(children, strategy: :rest_for_one)
  end
end
