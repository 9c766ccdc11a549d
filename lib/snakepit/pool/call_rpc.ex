defmodule Snakepit.Pool.CallRPC do
  @moduledoc false
  # What is told of a call as one over gRPC, beside what Snakepit.Pool.CallEvents
  # tells of every call: nothing of those that a local worker has.

  import Snakepit.Pool.CallEvents, only: [tell: 3]

  @doc "A gRPC worker has got it."
  @spec begun(map, Snakepit.Native.worker()) :: :ok
  def begun(request, worker) do
    what = if stream?(request), do: [:stream, :opened], else: [:call, :start]
    tell(event(what), %{system_time: System.system_time()}, fn -> about(request, worker) end)
  end

  @doc "The n-th message of its stream."
  @spec message(map, Snakepit.Native.worker(), pos_integer, non_neg_integer) :: :ok
  def message(request, worker, n, size) do
    measurements = %{sequence_number: n, message_size: size}
    tell(event([:stream, :message]), measurements, fn -> about(request, worker) end)
  end

  @doc "It is over, with an error (what kind, and its text) or without."
  @spec ended(map, integer, {term, term} | nil) :: :ok
  def ended(%{worker: {_id, _pid, :grpc} = worker, request: request} = state, duration, error) do
    {what, measurements} =
      if stream?(request),
        do: {[:stream, :closed], %{duration: duration, message_count: state.chunks}},
        else: {[:call, :stop], %{duration: duration}}

    tell(event(what), measurements, fn ->
      request |> about(worker) |> Map.merge(outcome(error))
    end)
  end

  def ended(_state, _duration, _error), do: :ok

  @doc "Something of the caller's own raised."
  @spec raised(map, integer, {atom, term, list}) :: :ok
  def raised(%{worker: {_id, _pid, :grpc} = worker, request: request} = state, duration, what) do
    {kind, reason, stacktrace} = what

    if stream?(request) do
      ended(state, duration, {kind, reason})
    else
      tell(event([:call, :exception]), %{duration: duration}, fn ->
        more = %{kind: kind, reason: reason, stacktrace: stacktrace}
        request |> about(worker) |> Map.merge(more)
      end)
    end
  end

  def raised(_state, _duration, _what), do: :ok

  defp event(name), do: [:snakepit, :grpc | name]

  defp stream?(request), do: request.watch.operation == :execute_stream

  defp outcome(nil), do: %{status: :ok}
  defp outcome({kind, _text}), do: %{status: :error, error_kind: kind}

  defp about(%{target: target, watch: watch, times: {_queue, timeout}} = request, worker) do
    %{
      node: node(),
      pool_name: target.name,
      worker_id: elem(worker, 0),
      command: request.command,
      rpc_method: method(request),
      session_id: watch.session,
      correlation_id: watch.correlation_id,
      timeout_ms: timeout
    }
  end

  defp method(%{inputs: %{}}), do: "ExecuteInteractiveTool"
  defp method(request), do: if(stream?(request), do: "ExecuteStreamingTool", else: "ExecuteTool")
end
