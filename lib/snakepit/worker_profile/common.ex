defmodule Snakepit.WorkerProfile.Common do
  @moduledoc false
  # What both profiles do with the handle of a worker, which is its process.
  # `use` makes a profile of a module: `:profile` and `:worker_type`.

  alias Snakepit.{GRPCWorker, Native}
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Pool.WorkerSupervisor

  defmacro __using__(known) do
    quote do
      @behaviour Snakepit.WorkerProfile

      alias Snakepit.WorkerProfile.Common

      @impl true
      def start_worker(config),
        do: config |> Map.put(:worker_profile, unquote(known[:profile])) |> Common.start()

      @impl true
      defdelegate stop_worker(worker), to: Common, as: :stop

      @impl true
      defdelegate execute_request(worker, request, timeout), to: Common, as: :execute

      @impl true
      defdelegate get_capacity(worker), to: Common, as: :capacity

      @impl true
      defdelegate get_load(worker), to: Common, as: :load

      @impl true
      defdelegate health_check(worker), to: Common, as: :health

      @impl true
      def get_metadata(worker), do: Common.metadata(worker, Map.new(unquote(known)))
    end
  end

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

  # What the pool gives it; what it could take, where it has no place in one.
  @spec capacity(pid) :: pos_integer
  def capacity(worker) do
    with nil <- stats(worker),
         {:ok, %{capacity: capacity}} <- GRPCWorker.get_info(worker) do
      capacity
    else
      %{capacity: capacity} -> capacity
      {:error, _} -> 1
    end
  end

  @spec health(pid) :: :ok | {:error, term}
  def health(worker) do
    with {:ok, _info} <- GRPCWorker.get_health(worker), do: :ok
  end

  @spec metadata(pid, map) :: {:ok, map} | {:error, term}
  def metadata(worker, known) do
    with {:ok, info} <- GRPCWorker.get_info(worker) do
      place = stats(worker) || %{load: 0, capacity: info.capacity}

      {:ok,
       info
       |> Map.merge(known)
       |> Map.merge(%{
         capacity: place.capacity,
         load: place.load,
         available_capacity: max(place.capacity - place.load, 0),
         threading: threading(known.profile, place.capacity)
       })}
    end
  end

  defp threading(:thread, _capacity), do: "thread-pool"
  defp threading(:process, 1), do: "single-threaded"
  defp threading(:process, _several), do: "event-loop"
end
