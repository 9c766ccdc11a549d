defmodule Snakepit.Pool.CallEvents do
  @moduledoc false
  # What is told of one call, in the process of its caller. Nothing of this runs
  # while nobody listens: `watch/3` is the one check that every call pays for.
  #
  # What has to be remembered until the end lies in the process dictionary under
  # the call's reference: calls end in many places, all of which know that.

  alias Snakepit.{Error, Telemetry}
  alias Snakepit.Telemetry.Correlation

  @type watch :: %{
          operation: atom,
          session: String.t() | nil,
          correlation_id: String.t(),
          python: String.t()
        }

  @python_call for what <- [:start, :stop, :exception], do: [:snakepit, :python, :call, what]
  @python_tool for what <- [:start, :stop, :exception],
                   do: [:snakepit, :python, :tool, :execution, what]

  @doc "What is to be told of a call; nil when nobody wants to know."
  @spec watch(:execute | :execute_stream, String.t() | nil, String.t() | nil) :: watch | nil
  def watch(kind, session, correlation_id) do
    if Telemetry.calls?() do
      %{
        operation: operation(kind, session),
        session: session,
        correlation_id: Correlation.ensure(correlation_id),
        python: python()
      }
    end
  end

  defp operation(:execute, nil), do: :execute
  defp operation(:execute, _session), do: :execute_session
  defp operation(:execute_stream, _session), do: :execute_stream

  # What the worker is to tell of the call: "c" of the call, "t" of the tool.
  defp python do
    call = if Enum.any?(@python_call, &Telemetry.attached?/1), do: "c", else: ""
    if Enum.any?(@python_tool, &Telemetry.attached?/1), do: call <> "t", else: call
  end

  @doc "The metadata that the worker gets."
  @spec metadata(watch | nil, [{String.t(), String.t()}]) :: [{String.t(), String.t()}]
  def metadata(nil, list), do: list

  def metadata(watch, list) do
    list = List.keystore(list, "correlation_id", 0, {"correlation_id", watch.correlation_id})
    if watch.python == "", do: list, else: [{"telemetry", watch.python} | list]
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
    %{target: target, watch: watch, command: command, times: {_queue, timeout}} = request

    about = %{
      operation: watch.operation,
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

    state = %{about: about, handle: target.handle, at: now(), queued: false, started: nil}
    _ = Process.put(key(ref), state)
    :ok
  end

  @doc "After that, with what came of it."
  @spec submitted(result, reference) :: result when result: term
  def submitted({:ok, _call} = result, ref) do
    receive do
      {^ref, {:started, worker}} -> started(ref, worker)
    after
      0 -> queued(ref, Process.get(key(ref)))
    end

    result
  end

  def submitted(result, _ref), do: result

  defp queued(ref, %{about: about} = state) do
    event = [:snakepit, :pool, :queue, :enqueued]

    if Telemetry.attached?(event) do
      stats = Snakepit.Native.pool_stats(state.handle)

      Telemetry.execute(
        event,
        %{queue_depth: stats.queued, system_time: System.system_time()},
        Map.take(about, [:pool, :command, :session_id, :correlation_id])
      )
    end

    _ = Process.put(key(ref), %{state | queued: true})
    :ok
  end

  @doc "A worker has got it."
  @spec started(reference, {String.t(), pid}) :: :ok
  def started(ref, {id, pid}) do
    with %{about: about} = state <- Process.get(key(ref)) do
      now = now()
      about = Map.merge(about, %{worker_id: id, worker_pid: pid})
      _ = Process.put(key(ref), %{state | about: about, started: now})
      brief = Map.take(about, [:pool, :worker_id, :command])

      if state.queued do
        metadata = Map.merge(brief, Map.take(about, [:session_id, :correlation_id]))
        Telemetry.execute([:snakepit, :pool, :queue, :dequeued], waited(state, now), metadata)
      end

      Telemetry.execute(
        [:snakepit, :pool, :call, :dispatched],
        %{system_time: System.system_time()},
        Map.put(brief, :queued, state.queued)
      )

      Telemetry.execute(
        event(about, :start),
        %{system_time: System.system_time(), monotonic_time: now},
        about
      )
    end

    :ok
  end

  @doc "It is over. Does nothing the second time."
  @spec ended(result, reference) :: result when result: term
  def ended(result, ref) do
    with %{about: about} = state <- Process.delete(key(ref)) do
      now = now()
      error = failure(result)

      case state do
        %{started: nil} -> unserved(state, error, now)
        %{started: since} -> stop(about, since, now, error)
      end

      executed(state, now, error)
    end

    result
  end

  defp stop(about, since, now, error) do
    duration = now - since

    measurements = %{
      duration: duration,
      duration_ms: System.convert_time_unit(duration, :native, :microsecond) / 1000,
      monotonic_time: now,
      executions: 1
    }

    {measurements, metadata} =
      case error do
        nil ->
          {measurements, %{status: :ok}}

        {kind, text} ->
          {Map.put(measurements, :errors, 1), %{status: :error, error: text, error_kind: kind}}
      end

    Telemetry.execute(event(about, :stop), measurements, Map.merge(about, metadata))

    Telemetry.execute(
      [:snakepit, :worker, :request],
      %{duration: measurements.duration_ms},
      about |> Map.take([:worker_id, :pool]) |> Map.put(:result, metadata.status)
    )
  end

  defp unserved(%{about: about} = state, {:queue_timeout, _text}, now) do
    metadata = Map.take(about, [:pool, :command, :session_id, :correlation_id])
    Telemetry.execute([:snakepit, :pool, :queue, :timeout], waited(state, now), metadata)
  end

  defp unserved(_state, _error, _now), do: :ok

  defp raised(ref, kind, reason, stacktrace) do
    with %{about: about} = state <- Process.delete(key(ref)) do
      now = now()
      since = state.started || state.at

      if state.started do
        Telemetry.execute(
          event(about, :exception),
          %{duration: now - since, monotonic_time: now},
          Map.merge(about, %{kind: kind, reason: reason, stacktrace: stacktrace})
        )
      end

      executed(state, now, {kind, reason})
    end
  end

  defp executed(%{about: about} = state, now, error) do
    metadata = %{
      pool: about.pool,
      worker_id: about[:worker_id],
      command: about.command,
      success: error == nil
    }

    metadata =
      if about.operation == :execute_stream,
        do: Map.put(metadata, :streaming, true),
        else: metadata

    Telemetry.execute(
      [:snakepit, :request, :executed],
      %{duration_us: System.convert_time_unit(now - state.at, :native, :microsecond)},
      metadata
    )
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

  defp waited(state, now), do: %{queue_time: now - state.at}

  defp event(%{operation: operation}, what), do: [:snakepit, :grpc_worker, operation, what]
  defp key(ref), do: {__MODULE__, ref}
  defp now, do: System.monotonic_time()
end
