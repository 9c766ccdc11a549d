defmodule Snakepit.Error do
  @moduledoc """
  What went wrong with a call, apart from exceptions that a Python tool raised
  (those arrive as `Snakepit.Error.ValueError` and its siblings).

  `details` always names the `:command` and the `:pool` of a call, and why it
  failed as `:reason`.

  It is an exception too: `raise error` and `Exception.message(error)` work.

      iex> to_string(Snakepit.Error.pool_error("pool is full", %{pool: :default}))
      "[pool] pool is full"
  """

  @type category :: :worker | :timeout | :python_error | :grpc_error | :validation | :pool
  @type t :: %__MODULE__{
          category: category,
          message: String.t(),
          details: map,
          python_traceback: String.t() | nil,
          grpc_status: atom | nil
        }

  defexception [:category, :message, :python_traceback, :grpc_status, details: %{}]

  @impl true
  def message(%__MODULE__{message: message}), do: to_string(message)

  @doc "The worker died or cannot be used."
  @spec worker_error(String.t(), map) :: t
  def worker_error(message, details \\ %{}), do: new(:worker, message, details)

  @doc "Something took too long."
  @spec timeout_error(String.t(), map) :: t
  def timeout_error(message, details \\ %{}), do: new(:timeout, message, details)

  @doc "The pool refused a request, or is not there."
  @spec pool_error(String.t(), map) :: t
  def pool_error(message, details \\ %{}), do: new(:pool, message, details)

  @doc "The call itself is wrong."
  @spec validation_error(String.t(), map) :: t
  def validation_error(message, details \\ %{}), do: new(:validation, message, details)

  @doc """
  Python code failed.

      iex> error = Snakepit.Error.python_error("ValueError", "bad", "Traceback ...")
      iex> {error.message, error.details}
      {"ValueError: bad", %{exception_type: "ValueError"}}
  """
  @spec python_error(String.t(), String.t(), String.t() | nil, map) :: t
  def python_error(exception_type, message, traceback, details \\ %{}) do
    details = Map.put(details, :exception_type, exception_type)
    %{new(:python_error, "#{exception_type}: #{message}", details) | python_traceback: traceback}
  end

  @doc "The transport failed with a gRPC status."
  @spec grpc_error(atom, String.t(), map) :: t
  def grpc_error(status, message, details \\ %{}) do
    %{new(:grpc_error, message, details) | grpc_status: status}
  end

  @doc "Makes any `{:error, reason}` one that the public functions may return."
  @spec normalize_public_result(result, map) :: result | {:error, Exception.t()}
        when result: term
  def normalize_public_result({:error, reason}, context),
    do: {:error, normalize_public_error(reason, context)}

  def normalize_public_result(result, _context), do: result

  @doc """
  A `Snakepit.Error` for any reason; exceptions stay what they are. `context`
  becomes part of the details.
  """
  @spec normalize_public_error(term, map) :: Exception.t()
  def normalize_public_error(reason, context)
  def normalize_public_error(%{__exception__: true} = error, _context), do: error

  def normalize_public_error(reason, context) when reason in [:timeout, :queue_timeout] do
    timeout_error(text(reason), Map.put(context, :reason, reason))
  end

  def normalize_public_error(reason, context) when is_atom(reason) do
    pool_error(text(reason), Map.put(context, :reason, reason))
  end

  def normalize_public_error({:worker_exit, why} = _reason, context) do
    details = Map.merge(context, %{reason: :worker_exit, exit_reason: why})
    worker_error("the worker ended: #{inspect(why)}", details)
  end

  def normalize_public_error(reason, context) when is_tuple(reason) do
    pool_error(inspect(reason), Map.put(context, :reason, reason))
  end

  def normalize_public_error(reason, context) when is_binary(reason) do
    worker_error(reason, Map.put(context, :reason, reason))
  end

  def normalize_public_error(reason, context) do
    worker_error(inspect(reason), Map.put(context, :reason, reason))
  end

  @texts %{
    timeout: "the call took longer than its time-out",
    queue_timeout: "no worker became free within the queue time-out",
    pool_not_found: "there is no such pool",
    pool_not_initialized: "the pool has no worker yet",
    pool_saturated: "the pool's queue is full",
    pool_closed: "the pool was stopped",
    pool_draining: "the pool takes no calls until Snakepit.Pool.resume/1",
    worker_busy: "the session's worker is busy",
    session_worker_unavailable: "the session's worker is gone",
    no_workers_available: "no worker is free"
  }

  @doc false
  @spec text(atom) :: String.t()
  def text(reason), do: Map.get(@texts, reason, inspect(reason))

  defp new(category, message, details) do
    %__MODULE__{category: category, message: message, details: details}
  end

  defimpl String.Chars do
    def to_string(%{category: category, message: message}), do: "[#{category}] #{message}"
  end
end
