defmodule Snakepit.Telemetry.LocalStream do
  @moduledoc false
  # The BEAM's end of what snakepit_bridge/worker/local_telemetry.py does: it lives
  # in the process that serves the worker's requests.

  alias Snakepit.Native
  alias Snakepit.Telemetry.{Folding, GrpcStream}

  # The place of StreamTelemetry in the service.
  @method 11
  @attach_again_ms 100
  @aborted 10
  @invalid_argument 3

  @type t :: %{
          ctx: GrpcStream.worker_ctx(),
          server: reference,
          settings: GrpcStream.settings() | nil,
          # The worker's question that has no answer yet, and what it knows.
          waiting: {request :: reference, version :: integer} | nil
        }

  defmacro method, do: @method

  @spec new(GrpcStream.worker_ctx()) :: t
  def new(ctx),
    do: %{ctx: ctx, server: GrpcStream.attach(:local, ctx), settings: nil, waiting: nil}

  @doc "A request of the worker's: answered later, or by what is to run in a process of its own."
  @spec request(t, reference, binary) :: t | {:run, (() -> term)}
  def request(stream, request, <<0, version::little-64>>) do
    with {before, _} <- stream.waiting,
         do: Native.request_reply(before, @aborted, "a newer question has come")

    answer(%{stream | waiting: {request, version}})
  end

  def request(stream, request, <<1, events::binary>>) do
    {:run,
     fn ->
       :ok = Folding.batch(events, stream.ctx)
       Native.request_reply(request, 0, "")
     end}
  end

  def request(stream, request, _other) do
    _ = Native.request_reply(request, @invalid_argument, "no message of a telemetry stream")
    stream
  end

  @doc "The worker does not wait for it any more; also when it is none of these."
  @spec cancelled(t, reference) :: t
  def cancelled(%{waiting: {request, _version}} = stream, request) do
    _ = Native.request_reply(request, @aborted, "")
    %{stream | waiting: nil}
  end

  def cancelled(stream, _request), do: stream

  @doc "A message of Snakepit.Telemetry.GrpcStream's, or about it."
  @spec handle(t, term) :: {:ok, t} | :other
  def handle(stream, {:snakepit_telemetry, settings, _message}),
    do: {:ok, answer(%{stream | settings: settings})}

  def handle(stream, :snakepit_telemetry_over) do
    version = System.unique_integer([:positive, :monotonic])
    {:ok, answer(%{stream | settings: %{stream.settings | enabled: false, version: version}})}
  end

  def handle(%{server: ref} = stream, {:DOWN, ref, :process, _, _}) do
    _ = Process.send_after(self(), :snakepit_telemetry_attach, @attach_again_ms)
    {:ok, stream}
  end

  def handle(stream, :snakepit_telemetry_attach),
    do: {:ok, %{stream | server: GrpcStream.attach(:local, stream.ctx)}}

  def handle(_stream, _message), do: :other

  defp answer(%{waiting: {request, known}, settings: %{version: version} = settings} = stream)
       when version != known do
    rates = Enum.map(settings.rates, &Tuple.to_list/1)
    {:ok, bytes} = Native.cbor_encode(%{settings | rates: rates})
    _ = Native.request_reply(request, 0, bytes)
    %{stream | waiting: nil}
  end

  defp answer(stream), do: stream
end
