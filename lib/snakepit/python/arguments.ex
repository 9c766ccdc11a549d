defmodule Snakepit.Python.Arguments do
  @moduledoc false
  # Python objects that stayed in a worker, as arguments of an adapter's tools: the
  # call goes to that worker, which puts the objects in their places.

  alias Snakepit.{Error, GRPCWorker}
  alias Snakepit.Pool.CallError
  alias Snakepit.Python.Wire

  # Says to the worker that maps in the arguments may stand for objects, and of
  # which of its processes. See `_arguments` in worker/requests.py.
  @metadata "python_refs"

  @reasons %{
    "released" => :ref_released,
    "unknown" => :ref_unknown,
    "process" => :worker_gone
  }

  @doc "The request as it is to be made, if there are refs in its arguments."
  @spec resolve(map) :: {:ok, map} | {:error, Exception.t()}
  def resolve(request) do
    case Wire.mark(request.args) do
      {_args, []} -> {:ok, request}
      {args, [ref | others]} -> pinned(%{request | args: args}, ref, others)
    end
  end

  defp pinned(%{target: %{name: name}} = request, ref, others) do
    other = Enum.find(others, &(&1.process != ref.process or &1.worker_id != ref.worker_id))

    cond do
      other != nil ->
        message = "#{show(ref)} and #{show(other)} are in two processes"
        refused(message <> " and cannot be in one call", :refs_of_two_workers, request, ref)

      ref.pool != name ->
        message = "#{show(ref)} is in pool #{inspect(ref.pool)}, and the call is for "
        message = message <> "#{inspect(name)}: make it with pool: #{inspect(ref.pool)}"
        refused(message, :ref_of_another_pool, request, ref)

      true ->
        to_worker(request, ref)
    end
  end

  defp to_worker(%{target: target, extra: {metadata, binaries}} = request, ref) do
    case GRPCWorker.direct_target(ref.worker_id) do
      {:ok, %{name: name, handle: handle}} when name == target.name ->
        extra = {[{@metadata, ref.process} | metadata], binaries}
        {:ok, %{request | target: %{target | handle: handle}, extra: extra}}

      {:error, :timeout} ->
        message = "worker #{ref.worker_id} could not be asked for: its process does not answer"
        {:error, Error.worker_error(message, details(:timeout, request, ref))}

      _not_there ->
        gone(request, ref)
    end
  end

  @doc "Of a call whose pool was closed: that of the one worker that it could be made to."
  @spec closed(map) :: Exception.t() | :pool_closed
  def closed(request) do
    with {_args, [ref | _]} <- Wire.mark(request.args),
         {:error, error} <- gone(request, ref) do
      error
    else
      {_args, []} -> :pool_closed
    end
  end

  defp gone(request, ref) do
    message = "the process that held #{show(ref)} has ended; make the object again"
    refused(message, :worker_gone, request, ref)
  end

  defp refused(message, reason, request, ref),
    do: {:error, Error.validation_error(message, details(reason, request, ref))}

  defp details(reason, request, ref) do
    request |> CallError.context() |> Map.merge(%{reason: reason, worker_id: ref.worker_id})
  end

  @doc "Of an exception that came from a worker: whether it found a ref to stand for nothing."
  @spec refusal(map) :: Error.t() | nil
  def refusal(%{
        "type" => "RefRefused",
        "module" => "snakepit_bridge.remote",
        "message" => message,
        "attributes" => %{"reason" => why, "worker" => worker_id}
      })
      when is_map_key(@reasons, why),
      do: Error.validation_error(message, %{reason: @reasons[why], worker_id: worker_id})

  def refusal(_other), do: nil

  defp show(ref), do: inspect(ref)
end
