defmodule Snakepit.Pool.Async do
  @moduledoc false
  # Calls whose answer is taken later, and streams that are read when wanted.
  # See Snakepit.async/3 and Snakepit.stream/3.

  alias Snakepit.{Async, Error, Native}
  alias Snakepit.Pool.{Call, CallError, CallEvents, Request, Retry, Targets, Window}

  @last_words_ms 1_000

  @spec start(Call.target(), String.t(), map | keyword, keyword) :: Async.t()
  def start(target, command, args, opts) do
    ref = make_ref()
    async = %Async{owner: self(), ref: ref}

    with :ok <- no_inputs(opts[:inputs]),
         {:ok, request} <- Request.build(target, :execute, command, args, opts) do
      async = %{async | request: request}

      case Call.submit(request, ref, :unary) do
        {:ok, call} -> %{async | call: call}
        {:done, decoded} -> %{async | result: decoded |> Call.decoded(request) |> over(async)}
        {:ended, answer} -> %{async | result: answer |> Call.answered(request) |> over(async)}
        {:error, reason} -> %{async | result: reason |> CallError.failed(request) |> told(async)}
      end
    else
      error -> %{async | result: error}
    end
  end

  # Nobody would run the enumerable.
  defp no_inputs(nil), do: :ok

  defp no_inputs(_inputs) do
    message = "async takes no inputs: use execute or execute_stream, in a Task where needed"
    {:error, Error.validation_error(message, %{option: :inputs})}
  end

  @spec await(Async.t(), timeout) :: {:ok, term} | {:error, term}
  def await(%Async{result: nil, request: request} = async, timeout),
    do: await(async, timeout, Retry.until(request, timeout))

  def await(%Async{result: result}, _timeout), do: result

  defp await(%Async{ref: ref, request: request} = async, timeout, until) do
    since = request.watch && now()

    receive do
      {^ref, {:started, worker}} ->
        _ = Call.started(ref, worker)
        await(async, left(timeout, since), until)

      {^ref, answer} ->
        answer
        |> CallEvents.served(ref)
        |> Call.answered(request)
        |> told(async)
        |> Retry.after_crash(Retry.within(request, until), &Call.unary/1)
        |> processed(request)
    after
      timeout ->
        failed = CallError.failed(:timeout, request)
        _ = told(failed, async)
        _ = cancel(async)
        failed
    end
  end

  defp left(:infinity, _since), do: :infinity
  defp left(timeout, since), do: max(timeout - (now() - since), 0)

  defp now, do: System.monotonic_time(:millisecond)

  @spec cancel(Async.t()) :: :ok
  def cancel(%Async{call: nil}), do: :ok

  def cancel(%Async{call: call, ref: ref, request: request} = async) do
    wait = if Call.cancel_unary(call, request) == :ok, do: 0, else: @last_words_ms
    :ok = last_words(ref, wait)
    _ = told({:error, :cancelled}, async)
    :ok
  end

  defp last_words(ref, wait) do
    receive do
      {^ref, {:started, _worker}} -> last_words(ref, wait)
      {^ref, _answer} -> :ok
    after
      wait -> :ok
    end
  end

  defp over(result, async), do: result |> told(async) |> processed(async.request)

  # Once: what comes later finds nothing of it.
  defp told(result, %Async{request: %{watch: nil}}), do: result
  defp told(result, %Async{ref: ref}), do: CallEvents.ended(result, ref)

  defp processed({:ok, value}, request),
    do: request |> Request.processed(value) |> Targets.counted(request.target)

  defp processed(error, request), do: Targets.counted(error, request.target)

  # ---- lazy streams -------------------------------------------------------

  @spec stream(Call.target(), String.t(), map | keyword, keyword) :: Enumerable.t()
  def stream(%{streams?: false} = target, command, args, opts) do
    {:error, error} = Call.stream(target, command, args, fn _ -> :ok end, opts)
    raise error
  end

  def stream(target, command, args, opts) do
    Stream.resource(fn -> open(target, command, args, opts) end, &next/1, &close/1)
  end

  defp open(target, command, args, opts) do
    ref = make_ref()

    with {:ok, request} <- Request.build(target, :execute_stream, command, args, opts),
         {:ok, call} <- submit(request, ref) do
      request |> Call.opened(ref, call) |> Map.merge(%{ended: false, error: nil})
    else
      {:error, error} -> %{ended: true, error: error, inputs: nil, ref: ref}
    end
  end

  defp submit(request, ref) do
    with {:error, reason} <- Call.submit(request, ref, :stream),
         do:
           told(CallError.failed(reason, request), %Async{
             owner: self(),
             ref: ref,
             request: request
           })
  end

  defp next(%{ended: true} = stream), do: {:halt, stream}

  defp next(%{inputs: %{}} = stream) do
    case Call.next(stream) do
      {{:chunk, bytes}, stream} -> chunk(bytes, stream)
      {:done, stream} -> {:halt, %{stream | ended: true}}
      {{:error, reason}, stream} -> {:halt, failed(%{stream | ended: true}, reason)}
      {{:raised, _} = what, stream} -> {:halt, %{stream | ended: true, error: what}}
    end
  end

  defp next(%{ref: ref} = stream) do
    receive do
      {^ref, {:started, worker}} -> {[], started(stream, worker)}
      {^ref, {:chunk, bytes}} -> chunk(bytes, stream)
      {^ref, :done} -> {:halt, %{stream | ended: true}}
      {^ref, {:error, reason}} -> {:halt, failed(%{stream | ended: true}, reason)}
    end
  end

  defp started(stream, worker) do
    _ = Call.started(stream.ref, worker)
    stream
  end

  defp chunk(bytes, stream) do
    :ok = CallEvents.chunk(stream.request, stream.ref, bytes)

    case Native.decode_chunk(bytes) do
      {:ok, chunk} -> {[chunk], Call.credited(stream, Window.size(bytes))}
      {:error, reason} -> {:halt, failed(stream, reason)}
    end
  end

  defp failed(stream, reason) do
    {:error, error} = Call.failed(reason, stream)
    %{stream | error: error}
  end

  defp close(%{ended: false} = stream) do
    Call.stop(stream)
    close(%{stream | ended: true, inputs: nil})
  end

  defp close(%{request: %{watch: %{}}, error: error} = stream) do
    _ = CallEvents.ended(if(error, do: {:error, error}, else: :ok), stream.ref)
    close(Map.delete(stream, :request))
  end

  defp close(%{inputs: %{}} = stream) do
    :ok = Call.ended(stream, :ok)
    close(%{stream | inputs: nil})
  end

  defp close(%{error: nil}), do: :ok
  defp close(%{error: {:raised, what}}), do: Call.raise_again(what)
  defp close(%{error: :worker_busy}), do: raise(Error.pool_error("the session's worker is busy"))
  defp close(%{error: error}), do: raise(error)
end
