defmodule Snakepit.WorkerProfile do
  @moduledoc """
  How a pool's workers use their OS processes.

  `:process` (`Snakepit.WorkerProfile.Process`) is one call at a time in each,
  `:thread` (`Snakepit.WorkerProfile.Thread`) several, in threads.

  A module of your own in a pool's `worker_profile` decides how its workers are
  started. The pool calls its `start_worker/1` with the pool's configuration and
  `:worker_id`, `:pool_name`; it must not wait until the worker is ready. The
  worker has to be one of `Snakepit.GRPCWorker`, which joins the pool by itself:
  change the configuration and hand it to `Snakepit.WorkerProfile.Process` or
  `Snakepit.WorkerProfile.Thread`. From then on calls go to the worker directly;
  the other callbacks are for those who hold its handle.

      defmodule MyApp.NicePool do
        @behaviour Snakepit.WorkerProfile

        @impl true
        def start_worker(config) do
          env = [{"OMP_NUM_THREADS", "4"} | config.adapter_env]
          Snakepit.WorkerProfile.Process.start_worker(%{config | adapter_env: env})
        end

        @impl true
        defdelegate stop_worker(worker), to: Snakepit.WorkerProfile.Process
        @impl true
        defdelegate execute_request(worker, request, timeout), to: Snakepit.WorkerProfile.Process
        @impl true
        defdelegate get_capacity(worker), to: Snakepit.WorkerProfile.Process
        @impl true
        defdelegate get_load(worker), to: Snakepit.WorkerProfile.Process
        @impl true
        defdelegate health_check(worker), to: Snakepit.WorkerProfile.Process
      end
  """

  @type worker_handle :: pid | reference
  @type config :: map
  @type capacity :: pos_integer

  @doc "Starts a worker. Its process is there at once, its OS process later."
  @callback start_worker(config) :: {:ok, worker_handle} | {:error, term}

  @doc "Stops a worker for good."
  @callback stop_worker(worker_handle) :: :ok

  @doc """
  Runs a request on this worker: a map with `:command` and `:args`, and
  `:session_id` and `:opts` if wanted.
  """
  @callback execute_request(worker_handle, request :: map, timeout) ::
              {:ok, term} | {:error, term}

  @doc "How many requests it runs at a time."
  @callback get_capacity(worker_handle) :: capacity

  @doc "How many it runs now."
  @callback get_load(worker_handle) :: non_neg_integer

  @doc "Whether it answers."
  @callback health_check(worker_handle) :: :ok | {:error, term}

  @doc "What is known of it."
  @callback get_metadata(worker_handle) :: {:ok, map} | {:error, term}

  @optional_callbacks get_metadata: 1
end
