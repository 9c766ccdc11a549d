defmodule Snakepit.Pool do
  @moduledoc """
  The pools: named sets of workers with one queue each.

  A call goes from its process to the pool's native scheduler and on to a
  worker. The process registered as `Snakepit.Pool` is not on that way: it
  starts workers, and replaces those that are missing.

  Functions that take a pool take its name, or `Snakepit.Pool` for the default
  one (`:default`, else the first that is configured).
  """

  alias Snakepit.{Defaults, Error}
  alias Snakepit.Pool.{Async, Call, CallError, Drain, Options, Targets}
  alias Snakepit.Pool.Registry, as: Workers

  @type pool :: atom | String.t() | pid
  @type result :: {:ok, term} | {:error, Exception.t() | :worker_busy}

  # ---- calls --------------------------------------------------------------

  @doc """
  Runs a command on a free worker; see `Snakepit.execute/3`.
  """
  @spec execute(String.t(), map | keyword, Snakepit.options()) :: result
  def execute(command, args, opts \\ []) do
    with {:ok, target, opts} <- found(opts, command),
         do: target |> Call.execute(command, args, opts) |> Targets.counted(target)
  end

  @doc "Runs a streaming command; see `Snakepit.execute_stream/4`."
  @spec execute_stream(String.t(), map | keyword, (map -> term), Snakepit.options()) ::
          :ok | {:error, term}
  def execute_stream(command, args, callback_fn, opts \\ []) do
    with {:ok, target, opts} <- found(opts, command) do
      target
      |> Call.stream(command, args, callback_fn, opts)
      |> halted()
      |> Targets.counted(target)
    end
  end

  defp halted({:halted, reason, context}), do: {:error, CallError.halted(reason, context)}
  defp halted(result), do: result

  @doc "Starts a call without waiting for it; see `Snakepit.async/3`."
  @spec async(String.t(), map | keyword, Snakepit.options()) :: Snakepit.Async.t()
  def async(command, args, opts \\ []) do
    case found(opts, command) do
      {:ok, target, opts} -> Async.start(target, command, args, opts)
      error -> %Snakepit.Async{owner: self(), ref: make_ref(), result: error}
    end
  end

  @doc "The chunks of a streaming command as a lazy stream; see `Snakepit.stream/3`."
  @spec stream(String.t(), map | keyword, Snakepit.options()) :: Enumerable.t()
  def stream(command, args, opts \\ []) do
    case found(opts, command) do
      {:ok, target, opts} -> Async.stream(target, command, args, opts)
      {:error, error} -> raise error
    end
  end

  defp found(opts, command) do
    with {:ok, opts} <- Options.list(opts, command) do
      case Targets.find(opts[:pool_name] || opts[:pool]) do
        {:ok, target} -> {:ok, target, opts}
        {:error, reason, name} -> {:error, refused(name, command, reason)}
      end
    end
  end

  @doc """
  The time a call gets: its `:timeout`, else the configured one.

      iex> Snakepit.Pool.get_default_timeout_for_call(:execute, %{}, timeout: 5)
      5
  """
  @spec get_default_timeout_for_call(:execute | :execute_stream | :queue, map, keyword) :: timeout
  def get_default_timeout_for_call(call_type, _args, opts) do
    case {opts[:timeout], call_type} do
      {nil, :execute} -> Defaults.pool_request_timeout()
      {nil, :execute_stream} -> Defaults.pool_streaming_timeout()
      {nil, :queue} -> Defaults.pool_queue_timeout()
      {timeout, _} -> timeout
    end
  end

  @doc """
  The time that a call leaves for its worker: of its deadline, its timeout or
  the given default.

      iex> Snakepit.Pool.derive_rpc_timeout_from_opts([], 60_000)
      58_800
  """
  @spec derive_rpc_timeout_from_opts(keyword, timeout) :: timeout
  def derive_rpc_timeout_from_opts(opts, default_timeout) do
    case opts[:deadline_ms] do
      nil -> Defaults.rpc_timeout(opts[:timeout] || default_timeout)
      deadline -> Defaults.rpc_timeout(left(deadline))
    end
  end

  @doc "The time a call may wait for a worker: not longer than its deadline."
  @spec effective_queue_timeout_ms(keyword, timeout) :: timeout
  def effective_queue_timeout_ms(opts, configured_queue_timeout) do
    case opts[:deadline_ms] do
      nil -> configured_queue_timeout
      deadline -> min(configured_queue_timeout, left(deadline))
    end
  end

  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  defp refused(name, command, :not_running) do
    error = not_running()
    %{error | details: Map.merge(error.details, %{command: command, pool: name, pool_name: name})}
  end

  defp refused(name, command, :pool_not_found) do
    known = Targets.names() |> Enum.map(&inspect/1) |> Enum.join(", ")

    Error.pool_error("there is no pool #{inspect(name)}; there is #{known}", %{
      reason: :pool_not_found,
      command: command,
      pool: name,
      pool_name: name
    })
  end

  # ---- what there is ------------------------------------------------------

  @doc """
  Counters, of one pool (by its name) or of all together (by the process of the
  pools, the default).

  Requests, taken since the pool was started and now, at one moment:

      requests = answered + failed + running + queued

    * `requests`: taken from callers. A call that the crash barrier makes again is
      as many requests as were made.
    * `answered`: the worker answered, with a result or with its tool's exception;
      over gRPC, with any status.
    * `failed`: ended in another way; the sum of `cancelled` (by their callers, or
      because these died), `queue_timeouts` (waited too long), `timeouts` (took too
      long), `workers_lost` (the worker died) and `refused` (while they waited, the
      session's worker or the pool went away)
    * `running`: a worker has them and a caller waits
    * `queued`: wait for a worker

  Beside them:

    * `pool_saturated`: refused because the queue was full; these are no requests
    * `errors`: calls that gave their caller an error, whatever it was: those that
      were refused or never valid, and the exceptions of tools, are among them
    * `abandoned`: what workers have not ended yet although nobody waits for it
      any more
    * `workers`, and how many of these are `busy` and `available` now
  """
  @spec get_stats(pool) :: map | {:error, {:pool_not_found, term}}
  def get_stats(pool \\ __MODULE__)

  def get_stats(pool) when pool == __MODULE__ or is_pid(pool), do: Targets.stats()

  def get_stats(pool) do
    case Targets.find(pool) do
      {:ok, target} -> Targets.stats(target)
      {:error, _reason, name} -> {:error, {:pool_not_found, name}}
    end
  end

  @doc "The counters of one pool."
  @spec get_stats(pool, pool) :: map | {:error, {:pool_not_found, term}}
  def get_stats(_pool, pool_name), do: get_stats(pool_name)

  @doc "The ids of the workers that are ready, of one pool or all."
  @spec list_workers(pool) :: [String.t()] | {:error, {:pool_not_found, term}}
  def list_workers(pool \\ __MODULE__)

  def list_workers(pool) when pool == __MODULE__ or is_pid(pool),
    do: Enum.flat_map(Targets.names(), &ready_workers/1)

  def list_workers(pool) do
    case Targets.find(pool) do
      {:ok, target} -> ready_workers(target.name)
      {:error, _reason, name} -> {:error, {:pool_not_found, name}}
    end
  end

  @doc "The ids of the workers of one pool."
  @spec list_workers(pool, pool) :: [String.t()] | {:error, {:pool_not_found, term}}
  def list_workers(_pool, pool_name), do: list_workers(pool_name)

  @doc "Waits until each pool (or the named one) has a worker, or cannot get one."
  @spec await_ready(pool, timeout | nil) :: :ok | {:error, Error.t()}
  def await_ready(pool \\ __MODULE__, timeout \\ nil), do: await(:ready, pool, timeout)

  @doc "Waits until each worker that a pool starts with is ready or has failed."
  @spec await_init_complete(pool, timeout | nil) :: :ok | {:error, Error.t()}
  def await_init_complete(pool \\ __MODULE__, timeout \\ nil),
    do: await(:init_complete, pool, timeout)

  @doc """
  Changes how many workers a pool has, while it works.

  A number is that many from now on; in a pool with `min_size` and `max_size`
  it lies between them. A range, `2..8`, sets those two. More workers are started
  at once. Of too many, those that run nothing and hold no session go first; those
  that run something finish it.

      Snakepit.Pool.resize(:default, 4)
      Snakepit.Pool.resize(:default, 2..16)
  """
  @spec resize(pool, pos_integer | Range.t()) :: :ok | {:error, Error.t()}
  def resize(pool \\ __MODULE__, size) do
    case Targets.find(pool) do
      {:ok, target} -> GenServer.call(__MODULE__, {:resize, target.name, size})
      {:error, reason, name} -> {:error, refused(name, nil, reason)}
    end
  catch
    :exit, _ -> {:error, not_running()}
  end

  @doc """
  Stops taking calls, and returns when those that were taken, the waiting ones
  included, are done. New ones are refused with the reason `:pool_draining` until
  `resume/1`. The workers stay.

  With calls left after `timeout` (milliseconds or `:infinity`) it returns an
  error of the category `:timeout`; the pool still takes none then.
  """
  @spec drain(pool, timeout) :: :ok | {:error, Error.t()}
  def drain(pool \\ __MODULE__, timeout \\ :infinity) do
    case Targets.find(pool) do
      {:ok, target} -> Drain.run(target, timeout)
      {:error, reason, name} -> {:error, refused(name, nil, reason)}
    end
  end

  @doc "Takes calls again after `drain/2`."
  @spec resume(pool) :: :ok | {:error, Error.t()}
  def resume(pool \\ __MODULE__) do
    case Targets.find(pool) do
      {:ok, target} -> Drain.resume(target)
      {:error, reason, name} -> {:error, refused(name, nil, reason)}
    end
  end

  @doc false
  # Replaces a worker. `notify` gets {:snakepit_replace, worker_id, :done |
  # {:error, reason}}: done when the replacement has taken over.
  @spec replace(atom, String.t(), term, pid) :: :ok
  def replace(pool, worker_id, reason, notify),
    do: GenServer.cast(__MODULE__, {:replace, pool, worker_id, reason, notify})

  defp await(what, pool, timeout) do
    timeout = timeout || Defaults.pool_await_ready_timeout()
    only = if is_pid(pool) or pool == __MODULE__, do: :all, else: pool
    GenServer.call(__MODULE__, {:await, what, only, timeout}, :infinity)
  catch
    :exit, _ -> {:error, not_running()}
  end

  @doc false
  @spec not_running() :: Error.t()
  def not_running do
    message =
      if Application.get_env(:snakepit, :pooling_enabled, false),
        do:
          "the pools are not running: start the application :snakepit, once more if it was " <>
            "started before pooling_enabled was set",
        else:
          "pooling is off: set config :snakepit, pooling_enabled: true and start the " <>
            "application :snakepit"

    Error.pool_error(message, %{reason: :pool_not_initialized})
  end

  @doc false
  # Why a pool has no worker, if it is known.
  @spec failure(atom) :: Error.t() | nil
  def failure(name) do
    GenServer.call(__MODULE__, {:failure, name}, 1_000)
  catch
    :exit, _ -> nil
  end

  defp ready_workers(name) do
    pattern = {:"$1", :_, %{pool_name: name, ready: true}}
    Workers |> Registry.select([{pattern, [], [:"$1"]}]) |> Enum.sort()
  end

  # ---- the process --------------------------------------------------------

  @doc false
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts), do: %{id: __MODULE__, start: {__MODULE__, :start_link, [opts]}}

  @doc """
  Starts all configured pools. The application does so, with `pooling_enabled: true`;
  in a supervisor of yours, which takes all of `Snakepit.Application` or nothing, there
  is nothing that the pools could run on.
  """
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    if Process.whereis(Snakepit.Pool.WorkerSupervisor),
      do: GenServer.start_link(Snakepit.Pool.Server, opts, name: __MODULE__),
      else: {:error, not_by_hand()}
  end

  defp not_by_hand do
    Error.pool_error(
      "Snakepit.Pool runs in the application :snakepit, not in another's supervisor: take it out " <>
        "there, and set config :snakepit, pooling_enabled: true and pools: [...] before " <>
        "the application :snakepit starts",
      %{reason: :pool_not_initialized}
    )
  end
end
