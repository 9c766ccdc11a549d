defmodule Snakepit.Pool.CallEvents do
  @moduledoc false
  # What is told of one call, in the process of its caller. Nothing of this runs
  # while nobody listens: `watch/3` is the one check that every call pays for.
  #
  # What has to be remembered until the end lies in the process dictionary under
  # the call's reference: calls end in many places, all of which know that.

  import Bitwise

  alias Snakepit.{Error, Telemetry}
  alias Snakepit.Pool.{CallError, CallRPC}
  alias Snakepit.Telemetry.Correlation

  @type watch :: %{
          operation: atom,
          session: String.t() | nil,
          correlation_id: String.t() | nil,
          python: String.t(),
          kind: :watched | :served
        }

  @doc "What is to be told of a call; nil when nobody wants to know."
  @spec watch(:execute | :execute_stream, String.t() | nil, String.t() | nil) :: watch | nil
  def watch(kind, session, correlation_id) do
    case Telemetry.calls() do
      0 ->
        nil

      bits ->
        %{
          operation: operation(kind, session),
          session: session,
          correlation_id: correlation(bits, correlation_id),
          python: python(bits >>> 2 &&& 0b11),
          kind: if((bits &&& 0b10) != 0, do: :watched, else: :served)
        }
    end
  end

  defp operation(:execute, nil), do: :execute
  defp operation(:execute, _session), do: :execute_session
  defp operation(:execute_stream, _session), do: :execute_stream

  # Where nobody reads it the native part makes one.
  defp correlation(bits, id) when (bits &&& 0b10000) == 0, do: id
  defp correlation(_bits, id), do: Correlation.ensure(id)

  # What the worker is to tell of the call: "c" of the call, "t" of the tool.
  defp python(0b00), do: ""
  defp python(0b01), do: "c"
  defp python(0b10), do: "t"
  defp python(0b11), do: "ct"

  @doc "The metadata that the worker gets."
  @spec metadata(watch | nil, [{String.t(), String.t()}]) :: [{String.t(), String.t()}]
  def metadata(nil, list), do: list

  def metadata(%{correlation_id: id, python: python}, list) do
    list = if id, do: List.keystore(list, "correlation_id", 0, {"correlation_id", id}), else: list
    if python == "", do: list, else: [{"telemetry", python} | list]
  end

  @doc "Tells the end of what `fun` does, however it ends."
  @spec span(reference, (() -> result)) :: result when result: term
  def span(ref, fun) do
    ended(fun.(), ref)
  catch
    kind, reason ->
      raised(ref, kind, reason, __STACKTRACE__)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  @doc "Before it is submitted."
  @spec begin(map, reference) :: :ok
  def begin(request, ref) do
    state = %{
      request: request,
      at: now(),
      queued: false,
      started: nil,
      worker: nil,
      chunks: 0,
      call: nil,
      segments: nil
    }

    _ = Process.put(key(ref), state)
    :ok
  end

  @doc "After that, with what came of it; what came of the call itself is returned."
  @spec submitted(tuple, reference) :: tuple
  # A worker has it since it was submitted.
  def submitted({:started, worker, result}, ref),
    do: submitted({:started, worker, result, nil}, ref)

  def submitted({:started, worker, result, segments}, ref) do
    with %{at: at} = state <- Process.get(key(ref)),
         do: given(ref, %{state | call: handle(result), segments: segments}, worker, at)

    result
  end

  def submitted({:ok, call} = result, ref) do
    with %{} = state <- Process.get(key(ref)), do: queued(ref, %{state | call: call})
    result
  end

  def submitted(result, _ref), do: result

  defp handle({:ok, call}), do: call
  defp handle(_end), do: nil

  defp queued(ref, %{request: request} = state) do
    event = [:snakepit, :pool, :queue, :enqueued]

    if Telemetry.attached?(event) do
      stats = Snakepit.Native.pool_stats(request.target.handle)

      Telemetry.execute(
        event,
        %{queue_depth: stats.queued, system_time: System.system_time()},
        waiting(request)
      )
    end

    _ = Process.put(key(ref), %{state | queued: true})
    :ok
  end

  @doc "A worker has got it."
  @spec started(reference, Snakepit.Native.worker()) :: :ok
  def started(ref, worker) do
    with %{} = state <- Process.get(key(ref)), do: given(ref, state, worker, now())
    :ok
  end

  @doc "The answer without what may come with it: which worker it is from."
  @spec served(tuple, reference) :: tuple
  def served({:served, worker, ns, answer}, ref) do
    with %{} = state <- Process.get(key(ref)) do
      given(ref, state, worker, now() - System.convert_time_unit(ns, :nanosecond, :native))
    end

    answer
  end

  def served(answer, _ref), do: answer

  defp given(ref, %{request: request} = state, {id, _pid, carrier} = worker, now) do
    state = %{state | worker: worker, started: now}
    _ = Process.put(key(ref), state)

    if state.queued do
      event = [:snakepit, :pool, :queue, :dequeued]
      tell(event, waited(state, now), fn -> Map.put(waiting(request), :worker_id, id) end)
    end

    if request.watch.kind == :watched do
      tell([:snakepit, :pool, :call, :dispatched], %{system_time: System.system_time()}, fn ->
        Map.merge(brief(state), %{queued: state.queued})
      end)

      event = event(request, :start)
      measurements = %{system_time: System.system_time(), monotonic_time: now}
      tell(event, measurements, fn -> about(state) end)
      if carrier == :grpc, do: CallRPC.begun(request, worker), else: :ok
    end
  end

  @doc "Something of a stream has come."
  @spec chunk(map, reference, binary) :: :ok
  def chunk(%{watch: nil}, _ref, _bytes), do: :ok

  def chunk(request, ref, bytes) do
    with %{worker: {_, _, :grpc} = worker, chunks: before} = state <- Process.get(key(ref)) do
      _ = Process.put(key(ref), %{state | chunks: before + 1})
      CallRPC.message(request, worker, before + 1, byte_size(bytes))
    end

    :ok
  end

  @doc "It is over. Does nothing the second time."
  @spec ended(result, reference) :: result when result: term
  def ended(result, ref) do
    with %{started: since} = state <- Process.delete(key(ref)) do
      now = now()
      error = failure(result)
      if since, do: stop(state, now, error), else: unserved(state, error, now)
      executed(state, now, error)
    end

    result
  end

  defp stop(state, now, error) do
    duration = now - state.started
    ms = System.convert_time_unit(duration, :native, :microsecond) / 1000
    status = if error, do: :error, else: :ok
    measurements = %{duration: duration, duration_ms: ms, monotonic_time: now, executions: 1}
    measurements = if error, do: Map.put(measurements, :errors, 1), else: measurements
    event = event(state.request, :stop)

    if Telemetry.attached?(event) do
      metadata = state |> about() |> Map.merge(outcome(error))
      Telemetry.execute(event, Map.merge(measurements, segments(state)), metadata)
    end

    tell([:snakepit, :worker, :request], %{duration: ms}, fn ->
      state |> brief() |> Map.delete(:command) |> Map.put(:result, status)
    end)

    CallRPC.ended(state, duration, error)
  end

  # Which way large values went; nothing where there were none.
  defp segments(%{call: nil, segments: nil}), do: %{}

  defp segments(%{call: nil, segments: {sent, received, missing, bytes}}) do
    %{
      segments_sent: sent,
      segments_received: received,
      segments_missing: missing,
      segment_bytes: bytes
    }
  end

  defp segments(%{call: call}),
    do: segments(%{call: nil, segments: Snakepit.Native.call_segments(call)})

  defp outcome(nil), do: %{status: :ok}
  defp outcome({kind, text}), do: %{status: :error, error: text, error_kind: kind}

  defp unserved(%{request: request} = state, {:queue_timeout, _text}, now) do
    event = [:snakepit, :pool, :queue, :timeout]
    tell(event, waited(state, now), fn -> waiting(request) end)
  end

  defp unserved(_state, _error, _now), do: :ok

  defp raised(ref, kind, reason, stacktrace) do
    with %{} = state <- Process.delete(key(ref)) do
      now = now()

      if state.started do
        measurements = %{duration: now - state.started, monotonic_time: now}

        tell(event(state.request, :exception), measurements, fn ->
          state |> about() |> Map.merge(%{kind: kind, reason: reason, stacktrace: stacktrace})
        end)

        CallRPC.raised(state, measurements.duration, {kind, reason, stacktrace})
      end

      executed(state, now, {kind, reason})
    end
  end

  defp executed(%{request: request} = state, now, error) do
    us = System.convert_time_unit(now - state.at, :native, :microsecond)

    tell([:snakepit, :request, :executed], %{duration_us: us}, fn ->
      metadata = Map.put(brief(state), :success, error == nil)

      if request.watch.operation == :execute_stream,
        do: Map.put(metadata, :streaming, true),
        else: metadata
    end)
  end

  @doc false
  # The metadata are only made for somebody.
  @spec tell([atom], map, (() -> map)) :: :ok
  def tell(event, measurements, metadata) do
    if Telemetry.attached?(event), do: Telemetry.execute(event, measurements, metadata.())
    :ok
  end

  # Of a call that got no worker there is no id.
  defp brief(%{request: request, worker: worker}) do
    id = if worker, do: elem(worker, 0)
    %{pool: request.target.name, worker_id: id, command: request.command}
  end

  defp waiting(%{target: target, watch: watch, command: command}) do
    %{
      pool: target.name,
      command: command,
      session_id: watch.session,
      correlation_id: watch.correlation_id
    }
  end

  defp about(%{request: request, worker: {id, pid, _carrier}}) do
    %{target: target, watch: watch, command: command, times: {_queue, timeout}} = request

    %{
      operation: watch.operation,
      worker_id: id,
      worker_pid: pid,
      command: command,
      adapter: target.adapter,
      adapter_module: target.adapter,
      pool: target.name,
      session_id: watch.session,
      correlation_id: watch.correlation_id,
      timeout_ms: timeout,
      span_kind: :client,
      rpc_system: :grpc,
      telemetry_source: :snakepit
    }
  end

  # What kind of failure, and its text.
  defp failure(:ok), do: nil
  defp failure({:ok, _value}), do: nil

  defp failure({:error, %Error{} = error}) do
    kind = if error.details[:reason] == :queue_timeout, do: :queue_timeout, else: error.category
    {kind, error.message}
  end

  defp failure({:error, %{__exception__: true} = error}),
    do: {:python_error, Exception.message(error)}

  defp failure({:error, reason}), do: {reason, inspect(reason)}

  defp failure({:halted, reason, context}),
    do: failure({:error, CallError.halted(reason, context)})

  defp waited(state, now), do: %{queue_time: now - state.at}

  defp event(request, what), do: [:snakepit, :grpc_worker, request.watch.operation, what]
  defp key(ref), do: {__MODULE__, ref}
  defp now, do: System.monotonic_time()
end
