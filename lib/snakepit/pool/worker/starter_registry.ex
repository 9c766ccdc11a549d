defmodule Snakepit.Pool.Worker.StarterRegistry do
  @moduledoc "The supervisors of workers (`Snakepit.Pool.Worker.Starter`) by worker id."

  @doc false
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(_opts), do: Registry.child_spec(keys: :unique, name: __MODULE__)

  @doc "The name under which the supervisor of a worker registers."
  @spec via_tuple(String.t()) :: {:via, Registry, {__MODULE__, String.t()}}
  def via_tuple(worker_id), do: {:via, Registry, {__MODULE__, worker_id}}

  @doc "The supervisor of a worker."
  @spec get_starter_pid(String.t()) :: {:ok, pid} | {:error, :not_found}
  def get_starter_pid(worker_id) do
    case Registry.lookup(__MODULE__, worker_id) do
      [{pid, _}] -> {:ok, pid}
      [] -> {:error, :not_found}
    end
  end

  @doc "The ids of all."
  @spec list_starters() :: [String.t()]
  def list_starters, do: Registry.select(__MODULE__, [{{:"$1", :_, :_}, [], [:"$1"]}])

  @doc "How many there are."
  @spec starter_count() :: non_neg_integer
  def starter_count, do: Registry.count(__MODULE__)

  @doc "Whether there is one for this worker."
  @spec starter_exists?(String.t()) :: boolean
  def starter_exists?(worker_id), do: match?({:ok, _}, get_starter_pid(worker_id))
end
