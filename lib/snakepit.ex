defmodule Snakepit do
  @moduledoc """
  Supervised pools of worker processes, Python first.

      config :snakepit,
        pooling_enabled: true,
        pool_size: 4,
        adapter_args: ["--adapter", "my_tools.MyAdapter"]

  and then, from any process:

      {:ok, %{"result" => 8}} = Snakepit.execute("add", %{a: 5, b: 3})
  """

  alias Snakepit.Pool
  alias Snakepit.Pool.Options

  @type options :: keyword | map
  @type command :: String.t()
  @type args :: map
  @type result :: term
  @type session_id :: String.t()
  @type callback_fn :: (term -> any)
  @type pool_name :: atom | pid

  @type error :: Exception.t() | :worker_busy

  @doc """
  Runs a command on a free worker and returns what it returns.

  Options; others are ignored:

    * `:pool` or `:pool_name` - the name of a pool
    * `:timeout` - milliseconds for all of the call, waiting for a worker
      included, or `:infinity`
    * `:queue_timeout` - milliseconds to wait for a worker
    * `:deadline_ms` - the end of both, in monotonic milliseconds
    * `:session_id` - prefers the worker that this session had last
    * `:affinity` - what to do when that is busy: `:hint` (take another),
      `:strict_queue` (wait) or `:strict_fail_fast` (`{:error, :worker_busy}`)
    * `:binary_parameters` - a map of binaries, sent as they are
    * `:thread_sensitive` - true: the tool must run in the worker's main thread
    * `:correlation_id` - appears in the worker's log
    * `:idempotent` - true: may be made again when its worker crashes, as with
      `idempotent: true` among the arguments; see `guides/faults.md`
    * `:inputs` - an enumerable that the tool reads as an iterator while it
      runs. It is run in this process, a little ahead of what the tool has
      taken, and halted when the tool returns early; what it raises is raised
      here. See `guides/streams.md`

          {:ok, 500_500} = Snakepit.execute("sum_all", %{}, inputs: 1..1000)

  An exception in Python is `{:error, %Snakepit.Error.ValueError{}}` and the
  like, everything else that goes wrong `{:error, %Snakepit.Error{}}`.
  """
  @spec execute(command, args | keyword, options) :: {:ok, result} | {:error, error}
  def execute(command, args, opts \\ []), do: Pool.execute(command, args, opts)

  @doc "`execute/3` in a session: on the worker that the session used last, if that is free."
  @spec execute_in_session(session_id, command, args | keyword, options) ::
          {:ok, result} | {:error, error}
  def execute_in_session(session_id, command, args, opts \\ []),
    do: Pool.execute(command, args, Options.in_session(opts, session_id))

  @doc """
  Runs a streaming command and calls `callback_fn` in this process with each
  chunk: a map with text keys, among them `"is_final"`.

  When the callback returns `:halt` the stream is cancelled and the result is
  `:ok`. With `{:halt, reason}` it is an error: `reason` itself if that is a
  `Snakepit.Error`, else one with `reason` in its details, of the category `:pool`
  for an atom or tuple and `:worker` for anything else. A slow callback slows
  the worker down. The options are those of `execute/3`; with `:inputs` the
  stream goes both ways.

      Snakepit.execute_stream("stream_data", fn chunk -> IO.inspect(chunk) end)
      Snakepit.execute_stream("stream_data", %{count: 5}, &IO.inspect/1, timeout: 5_000)
      Snakepit.execute_stream("running_mean", %{window: 10}, &IO.inspect/1, inputs: stream)
  """
  @spec execute_stream(command, callback_fn) :: :ok | {:error, error | term}
  def execute_stream(command, callback_fn) when is_function(callback_fn),
    do: Pool.execute_stream(command, %{}, callback_fn, [])

  @doc "See `execute_stream/2`."
  @spec execute_stream(command, args | callback_fn, callback_fn | options) ::
          :ok | {:error, error | term}
  def execute_stream(command, callback_fn, opts) when is_function(callback_fn),
    do: Pool.execute_stream(command, %{}, callback_fn, opts)

  def execute_stream(command, args, callback_fn),
    do: Pool.execute_stream(command, args, callback_fn, [])

  @doc "See `execute_stream/2`."
  @spec execute_stream(command, args | keyword, callback_fn, options) ::
          :ok | {:error, error | term}
  def execute_stream(command, args, callback_fn, opts),
    do: Pool.execute_stream(command, args, callback_fn, opts)

  @doc "`execute_stream/2` in a session."
  @spec execute_in_session_stream(session_id, command, callback_fn) ::
          :ok | {:error, error | term}
  def execute_in_session_stream(session_id, command, callback_fn),
    do: execute_in_session_stream(session_id, command, %{}, callback_fn, [])

  @doc "See `execute_in_session_stream/3`."
  @spec execute_in_session_stream(
          session_id,
          command,
          args | callback_fn,
          callback_fn | options
        ) :: :ok | {:error, error | term}
  def execute_in_session_stream(session_id, command, callback_fn, opts)
      when is_function(callback_fn),
      do: execute_in_session_stream(session_id, command, %{}, callback_fn, opts)

  def execute_in_session_stream(session_id, command, args, callback_fn),
    do: execute_in_session_stream(session_id, command, args, callback_fn, [])

  @doc "See `execute_in_session_stream/3`."
  @spec execute_in_session_stream(session_id, command, args | keyword, callback_fn, options) ::
          :ok | {:error, error | term}
  def execute_in_session_stream(session_id, command, args, callback_fn, opts),
    do: Pool.execute_stream(command, args, callback_fn, Options.in_session(opts, session_id))

  @doc """
  Starts a call and returns at once; `await/2` gets the answer. The options are
  those of `execute/3` without `:inputs`. What is wrong with the call is also told by `await/2`.

      calls = for n <- 1..4, do: Snakepit.async("add", %{a: n, b: n})
      for call <- calls, do: Snakepit.await(call)

  The call belongs to this process: its death cancels it.
  """
  @spec async(command, args | keyword, options) :: Snakepit.Async.t()
  def async(command, args \\ %{}, opts \\ []), do: Pool.async(command, args, opts)

  @doc """
  The answer to a call of `async/3`, once. After `timeout` milliseconds the call
  is cancelled and the answer is a time-out; by itself it ends within its own
  `:timeout`.
  """
  @spec await(Snakepit.Async.t(), timeout) :: {:ok, result} | {:error, error}
  def await(%Snakepit.Async{owner: owner} = async, timeout \\ :infinity) do
    if owner != self(), do: raise(ArgumentError, "only the process that made a call can await it")
    Pool.Async.await(async, timeout)
  end

  @doc """
  Cancels a call of `async/3`: the tool is told and interrupted, its worker
  serves others when it has really ended. No message of it is left.
  """
  @spec cancel(Snakepit.Async.t()) :: :ok
  def cancel(%Snakepit.Async{owner: owner} = async) do
    if owner != self(),
      do: raise(ArgumentError, "only the process that made a call can cancel it")

    Pool.Async.cancel(async)
  end

  @doc """
  The chunks of a streaming command as a lazy stream. The command starts when
  the stream is read, is slowed down by a slow reader, and is cancelled when the
  reader stops early. What goes wrong is raised. With `:inputs` it goes both ways:
  they are made while the stream is read.

      "stream_data" |> Snakepit.stream(%{count: 100}) |> Enum.take(3)
  """
  @spec stream(command, args | keyword, options) :: Enumerable.t()
  def stream(command, args \\ %{}, opts \\ []), do: Pool.stream(command, args, opts)

  @doc "Counters of all pools or of one; see `Snakepit.Pool.get_stats/1`."
  @spec get_stats(pool_name) :: map | {:error, term}
  def get_stats(pool \\ Pool), do: Pool.get_stats(pool)

  @doc "The ids of the workers of all pools or of one."
  @spec list_workers(pool_name) :: [String.t()] | {:error, term}
  def list_workers(pool \\ Pool), do: Pool.list_workers(pool)

  @doc """
  Ends all worker processes of this run now, and says which could not be ended.
  Pools that are running start new workers a little later.
  """
  @spec cleanup() :: :ok | {:timeout, list}
  def cleanup, do: Snakepit.RuntimeCleanup.cleanup_current_run()

  @doc """
  Starts the application, waits for the pools, runs `fun`, and stops again so
  that no process is left. Returns what `fun` returns; `{:error, reason}` when
  the pools do not get ready.

    * `:timeout` - for the pools to get ready (15 000 ms)
    * `:shutdown_timeout` - for the application to stop (15 000 ms)
    * `:cleanup_timeout` - for ending the OS processes that are left, which takes
      a second more at most (5 000 ms; 0: they are left alone). Also when the
      application is not stopped: its pools then start new workers
    * `:restart` - restart the application when it runs already: `true`, `false`
      or `:auto` (with `stop_mode: :always` in a Mix project, and when it was started
      before `:pooling_enabled` was set)
    * `:await_pool` - wait for the pools (as `:pooling_enabled` says)
    * `:stop_mode` - stop the application `:if_started` by this call, `:always`
      or `:never`
    * `:exit_mode` - afterwards `:halt` or `:stop` the VM, with status 0, or 1
      when something failed; `:none`; or `:auto`, `:stop` for a VM that runs
      with `--no-halt`. Without it `SNAKEPIT_SCRIPT_EXIT` decides
    * `:halt` - `true` is `exit_mode: :halt`, as is `SNAKEPIT_SCRIPT_HALT=true`
  """
  @spec run_as_script((() -> result), keyword) :: result | {:error, term}
  def run_as_script(fun, opts \\ []) when is_function(fun, 0), do: Snakepit.Script.run(fun, opts)
end
