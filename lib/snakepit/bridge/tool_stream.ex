defmodule Snakepit.Bridge.ToolStream do
  @moduledoc false
  # A worker's stream for another client: its chunks go on as they are, except
  # that values in CBOR become JSON. The last one says how it went; where the
  # worker sent none that was final, one is made.

  alias Snakepit.Bridge.{Any, InternalToolSpec, ToolCall, ToolRegistry}
  alias Snakepit.Error
  alias Snakepit.GRPC.Incoming
  alias Snakepit.Native

  @doc "Returns when all is sent. `context` has the gRPC call."
  @spec forward(InternalToolSpec.t(), map, map, map) ::
          :ok | {:error, :cancelled | {:failed, String.t()}}
  def forward(tool, params, request, %{call: call} = context) do
    started = System.monotonic_time(:millisecond)
    state = :counters.new(2, [])
    describe = fn -> describe(tool, started) end
    pass = fn message -> message |> read() |> pass(call, state, describe) end

    opts = [binary_parameters: request.binary_parameters] ++ timeout(request, context)

    case ToolRegistry.stream_remote(tool, request.session_id, params, pass, opts) do
      :ok -> finish(call, state, describe)
      {:error, {:stopped, reason}} -> {:error, reason}
      {:error, %Error{details: %{reason: {:stopped, reason}}}} -> {:error, reason}
      {:error, reason} -> {:error, {:failed, text(reason)}}
    end
  end

  # The client's own deadline ends the call in any case.
  defp timeout(request, context) do
    case {ToolCall.timeout(request.metadata), context[:time_left]} do
      {[], left} when is_integer(left) -> [timeout: max(left, 1)]
      {given, _left} -> given
    end
  end

  # ---- chunks -------------------------------------------------------------

  defp read({bytes, beside}) do
    with {:ok, chunk} <- Native.message_decode(:ToolChunk, bytes),
         do: {:ok, chunk, beside}
  end

  defp read(bytes), do: read({bytes, []})

  # Counted: 1 the chunks, 2 those that were final.
  defp pass({:ok, chunk, beside}, call, state, describe) do
    :ok = :counters.add(state, 1, 1)
    if chunk.is_final, do: :ok = :counters.add(state, 2, 1)

    with {:ok, chunk} <- plain(chunk, beside) do
      chunk =
        if chunk.is_final,
          do: Map.update!(chunk, :metadata, &Map.merge(describe.(), &1)),
          else: chunk

      forwarded(send_chunk(call, chunk))
    else
      {:error, text} -> {:halt, {:stopped, {:failed, text}}}
    end
  end

  defp pass({:error, {:decode, text}}, _call, _state, _describe),
    do: {:halt, {:stopped, {:failed, "the worker's chunk cannot be read: #{text}"}}}

  defp forwarded(:ok), do: :ok
  defp forwarded({:error, reason}), do: {:halt, {:stopped, reason}}

  # As a worker that has no CBOR says it: bytes and texts as they are.
  defp plain(%{raw_cbor: cbor} = chunk, beside) when cbor != "" do
    case Native.cbor_decode({cbor, beside}) do
      {:ok, data} when is_binary(data) -> {:ok, %{chunk | data: data, raw_cbor: ""}}
      other -> {:error, "the worker's chunk cannot be read: #{inspect(other)}"}
    end
  end

  defp plain(%{data_cbor: ""} = chunk, _beside), do: {:ok, chunk}

  defp plain(%{data_cbor: cbor} = chunk, beside) do
    case Native.cbor_decode({cbor, beside}) do
      {:ok, nil} -> {:ok, %{chunk | data: "", data_cbor: ""}}
      {:ok, value} when is_binary(value) -> {:ok, %{chunk | data: value, data_cbor: ""}}
      {:ok, value} -> json(value, chunk)
      {:error, reason} -> {:error, "the worker's chunk cannot be read: #{inspect(reason)}"}
    end
  end

  defp json(value, chunk) do
    case Any.encode(value) do
      {:ok, %{value: json}} -> {:ok, %{chunk | data: json, data_cbor: ""}}
      {:error, reason} -> {:error, "the chunk cannot be sent as JSON: #{inspect(reason)}"}
    end
  end

  defp send_chunk(call, chunk) do
    case Native.message_encode(:ToolChunk, chunk) do
      {:ok, bytes} -> Incoming.send(call, bytes)
      {:error, reason} -> {:error, {:failed, inspect(reason)}}
    end
  end

  defp finish(call, state, describe) do
    if :counters.get(state, 2) > 0, do: :ok, else: send_chunk(call, last(state, describe))
  end

  defp last(state, describe) do
    sent = :counters.get(state, 1)

    %{
      chunk_id: "sp-final-#{sent + 1}",
      is_final: true,
      metadata:
        Map.merge(describe.(), %{
          "synthetic_final" => "true",
          "chunks_sent" => Integer.to_string(sent)
        })
    }
  end

  defp describe(tool, started) do
    taken = System.monotonic_time(:millisecond) - started

    %{
      "execution_time_ms" => Integer.to_string(taken),
      "tool_type" => "remote",
      "worker_id" => tool.worker_id
    }
  end

  defp text(reason) when is_exception(reason), do: Exception.message(reason)
  defp text(reason), do: ToolCall.reason_text(reason)
end
