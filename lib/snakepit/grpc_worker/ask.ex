defmodule Snakepit.GRPCWorker.Ask do
  @moduledoc false
  # What callers of Snakepit.GRPCWorker ask its process.

  alias Snakepit.Error
  alias Snakepit.Pool.Call
  alias Snakepit.Pool.Registry, as: Workers

  @doc "Its reply; `{:error, :timeout}` or `{:error, :not_found}`."
  @spec call(pid | String.t(), term, timeout) :: term
  def call(worker, request, timeout \\ 5_000)

  def call(worker, request, timeout) when is_binary(worker) do
    case Workers.get_worker_pid(worker) do
      {:ok, pid} -> call(pid, request, timeout)
      error -> error
    end
  end

  def call(worker, request, timeout) do
    GenServer.call(worker, request, timeout + 1_000)
  catch
    :exit, {:timeout, _} -> {:error, :timeout}
    :exit, _gone -> {:error, :not_found}
  end

  @doc "For calls to this very worker."
  @spec direct(pid | String.t()) :: {:ok, Call.target()} | {:error, Error.t()}
  def direct(worker) do
    case call(worker, :direct) do
      {:ok, target} ->
        {:ok, target}

      {:error, :not_found} ->
        {:error,
         Error.worker_error("there is no worker #{inspect(worker)}", %{worker_id: worker})}

      {:error, why} ->
        message = "worker #{inspect(worker)} is not ready"
        {:error, Error.worker_error(message, %{reason: why, worker_id: worker})}
    end
  end

  @doc "The options of a call, whose fifth argument may be a time-out or options."
  @spec options(timeout | keyword | nil, keyword, timeout) :: keyword
  def options(opts, more, default) when is_list(opts),
    do: opts |> Keyword.merge(more) |> Keyword.put_new(:timeout, default)

  def options(nil, opts, default), do: Keyword.put_new(opts, :timeout, default)
  def options(timeout, opts, _default), do: Keyword.put(opts, :timeout, timeout)
end
