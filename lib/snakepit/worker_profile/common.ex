defmodule Snakepit.WorkerProfile.Common do
  @moduledoc false
  # What both profiles do with the handle of a worker, which is its process.

  alias Snakepit.{GRPCWorker, Native}
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Pool.WorkerSupervisor

  @spec start(map) :: {:ok, pid} | {:error, term}
  def start(config) do
    id =
      config[:worker_id] ||
        "#{config[:pool_name] || "worker"}_worker_#{System.unique_integer([:positive])}"

    WorkerSupervisor.start_worker(
      id,
      config[:worker_module] || GRPCWorker,
      config[:adapter_module],
      config[:pool_name],
      config
    )
  end

  @spec stop(pid) :: :ok
  def stop(worker) do
    _ = WorkerSupervisor.stop_worker(worker)
    :ok
  end

  @spec execute(pid, map, timeout) :: {:ok, term} | {:error, term}
  def execute(worker, request, timeout) do
    opts = Keyword.put(request[:opts] || [], :timeout, timeout)
    opts = if id = request[:session_id], do: Keyword.put(opts, :session_id, id), else: opts
    GRPCWorker.execute(worker, request.command, request[:args] || %{}, opts)
  end

  @doc "Its place in its pool; nil when it has none."
  @spec stats(pid) :: map | nil
  def stats(worker) do
    with {:ok, id} <- Workers.get_worker_id_by_pid(worker),
         {:ok, %{slot: slot}} when slot != nil <- Workers.get_worker_metadata(id),
         {:ok, stats} <- Native.slot_stats(slot) do
      stats
    else
      _ -> nil
    end
  end

  @spec load(pid) :: non_neg_integer
  def load(worker), do: (stats(worker) || %{load: 0}).load

  @spec health(pid) :: :ok | {:error, term}
  def health(worker) do
    with {:ok, _info} <- GRPCWorker.get_health(worker), do: :ok
  end

  @spec metadata(pid, map) :: {:ok, map} | {:error, term}
  def metadata(worker, known) do
    with {:ok, info} <- GRPCWorker.get_info(worker) do
      load = load(worker)
      available = max(known.capacity - load, 0)
      {:ok, info |> Map.merge(known) |> Map.merge(%{load: load, available_capacity: available})}
    end
  end
end
