defmodule Snakepit.WorkerProfile.Process do
  @moduledoc """
  One call at a time in each OS process: a crash costs one call, and math
  libraries use one thread. The profile `:process`, which is the default.
  """

  @behaviour Snakepit.WorkerProfile

  alias Snakepit.WorkerProfile.Common

  @impl true
  def start_worker(config), do: config |> Map.put(:worker_profile, :process) |> Common.start()

  @impl true
  def stop_worker(worker), do: Common.stop(worker)

  @impl true
  def execute_request(worker, request, timeout), do: Common.execute(worker, request, timeout)

  @impl true
  def get_capacity(_worker), do: 1

  @impl true
  def get_load(worker), do: Common.load(worker)

  @impl true
  def health_check(worker), do: Common.health(worker)

  @impl true
  def get_metadata(worker) do
    known = %{
      profile: :process,
      capacity: 1,
      worker_type: "single-process",
      threading: "single-threaded"
    }

    Common.metadata(worker, known)
  end
end
