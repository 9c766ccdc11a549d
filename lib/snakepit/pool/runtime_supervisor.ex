defmodule Snakepit.Pool.RuntimeSupervisor do
  @moduledoc false
  # What runs only with `pooling_enabled: true`, each part on those before it.
  use Supervisor

  @spec start_link(term) :: Supervisor.on_start()
  def start_link(arg), do: Supervisor.start_link(__MODULE__, arg, name: __MODULE__)

  @impl true
  def init(_arg) do
    children = [
      Snakepit.Spawner,
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
