defmodule Snakepit.WorkerProfile.Thread do
  @moduledoc """
  Few OS processes, each of which runs `threads_per_worker` calls at a time, in
  threads. The profile `:thread`; the adapter has to be a `ThreadSafeAdapter`.
  """

  @behaviour Snakepit.WorkerProfile

  alias Snakepit.GRPCWorker
  alias Snakepit.WorkerProfile.Common

  @impl true
  def start_worker(config), do: config |> Map.put(:worker_profile, :thread) |> Common.start()

  @impl true
  def stop_worker(worker), do: Common.stop(worker)

  @impl true
  def execute_request(worker, request, timeout), do: Common.execute(worker, request, timeout)

  @doc "What the pool uses of `threads_per_worker`; see `capacity_strategy` in the guide."
  @impl true
  def get_capacity(worker) do
    with nil <- Common.stats(worker),
         {:ok, %{capacity: capacity}} <- GRPCWorker.get_info(worker) do
      capacity
    else
      %{capacity: capacity} -> capacity
      {:error, _} -> 1
    end
  end

  @impl true
  def get_load(worker), do: Common.load(worker)

  @impl true
  def health_check(worker), do: Common.health(worker)

  @impl true
  def get_metadata(worker) do
    known = %{
      profile: :thread,
      capacity: get_capacity(worker),
      worker_type: "multi-threaded",
      threading: "thread-pool"
    }

    Common.metadata(worker, known)
  end
end
