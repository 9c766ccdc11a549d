defmodule Snakepit.Telemetry.Folding do
  @moduledoc false
  # Events of workers become events here, in the process that reads them.

  alias Snakepit.{Logger, Native, Telemetry}
  alias Snakepit.Telemetry.{Naming, SafeMetadata}

  @type ctx :: Telemetry.GrpcStream.worker_ctx()

  @doc "Of a gRPC worker: one TelemetryEvent."
  @spec message(binary, ctx) :: :ok
  def message(bytes, ctx) do
    case Native.message_decode(:TelemetryEvent, bytes) do
      {:ok, event} ->
        measurements = Map.new(event.measurements, fn {key, value} -> {key, plain(value)} end)
        name = Enum.join(event.event_parts, ".")
        fold(name, measurements, event.metadata, event.timestamp_ns, event.correlation_id, ctx)

      {:error, why} ->
        refused(ctx, inspect(why))
    end
  end

  defp plain(%{int_value: value}), do: value
  defp plain(%{float_value: value}), do: value
  defp plain(%{string_value: value}), do: value
  defp plain(_none), do: nil

  @doc "Of a local worker: a list of them as CBOR."
  @spec batch(binary, ctx) :: :ok
  def batch(bytes, ctx) do
    case Native.cbor_decode(bytes) do
      {:ok, events} when is_list(events) -> Enum.each(events, &one(&1, ctx))
      other -> refused(ctx, inspect(other, limit: 5, printable_limit: 100))
    end
  end

  defp one([name, measurements, metadata, time, id], ctx)
       when is_binary(name) and is_map(measurements) and is_map(metadata) and is_integer(time) and
              is_binary(id),
       do: fold(name, measurements, metadata, time, id, ctx)

  defp one(other, ctx), do: refused(ctx, inspect(other, limit: 5, printable_limit: 100))

  defp fold(name, measurements, metadata, time, id, ctx) do
    case Naming.resolve(name) do
      {:ok, event, own} ->
        if Telemetry.attached?(event) do
          {:ok, metadata} = SafeMetadata.enrich(metadata, context(ctx, time, id))

          Telemetry.execute(
            event,
            keyed(measurements, Naming.known_measurements(), own[:measurements]),
            keyed(metadata, %{}, own[:metadata])
          )
        end

        :ok

      {:error, :unknown_event} ->
        refused(
          ctx,
          "no event is called #{inspect(name, printable_limit: 100)}: see telemetry_events"
        )
    end
  end

  defp keyed(map, known, nil), do: SafeMetadata.keyed(map, known)

  defp keyed(map, known, more),
    do: SafeMetadata.keyed(map, Enum.into(more, known, &{Atom.to_string(&1), &1}))

  defp context(ctx, time, id) do
    [
      node: node(),
      worker_id: ctx.worker_id,
      pool_name: ctx.pool_name,
      python_pid: ctx.python_pid,
      correlation_id: if(id != "", do: id),
      timestamp_ns: time
    ]
  end

  defp refused(ctx, why) do
    Logger.debug(:telemetry, fn -> "an event of worker #{ctx.worker_id} is dropped: #{why}" end)
  end
end
