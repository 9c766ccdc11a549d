defmodule Snakepit.Pool.Call do
  @moduledoc false
  # One request, in the process of its caller: budget, submit, answer. What a
  # pool is, as far as a call needs to know, is its target; see target/3.

  alias Snakepit.{CrashBarrier, Defaults, Encoder, Error, Native}
  alias Snakepit.Pool.{CallError, CallEvents, Inputs, Request, Retry, Window}
  alias Snakepit.Python.Arguments

  # Beyond its budget a call is ended by the caller itself. The native part
  # does that in time; this is for the case that it does not.
  @slack_ms 10_000
  # An end that is being sent at this moment arrives within these.
  @last_words_ms 1_000

  @hooks [validate_command: 2, prepare_args: 2, process_response: 2, command_timeout: 2]

  @type target :: %{
          name: atom,
          handle: reference,
          affinity: :hint | :strict_queue | :strict_fail_fast,
          adapter: module | nil,
          hooks: [atom],
          streams?: boolean,
          python_calls: boolean,
          barrier: CrashBarrier.config() | nil,
          errors: :counters.counters_ref(),
          max_queue: non_neg_integer
        }

  @spec target(atom, reference, map) :: target
  def target(name, handle, config) do
    adapter = config[:adapter_module]
    barrier = CrashBarrier.config(config)
    has? = fn {fun, arity} -> adapter != nil and function_exported?(adapter, fun, arity) end
    _ = adapter && Code.ensure_loaded(adapter)

    %{
      name: name,
      handle: handle,
      affinity: config[:affinity] || Defaults.default_affinity_mode(),
      adapter: adapter,
      hooks: for({fun, arity} <- @hooks, has?.({fun, arity}), do: fun),
      streams?: adapter == nil or (has?.({:uses_grpc?, 0}) and adapter.uses_grpc?()),
      python_calls: config[:python_calls] == true,
      barrier: if(CrashBarrier.enabled?(barrier), do: barrier),
      errors: :counters.new(1, [:write_concurrency]),
      max_queue: config[:max_queue_size] || Defaults.pool_max_queue_size()
    }
  end

  @spec execute(target, String.t(), map | keyword, keyword) ::
          {:ok, term} | {:error, Exception.t() | :worker_busy}
  def execute(target, command, args, opts) do
    with {:ok, request} <- Request.build(target, :execute, command, args, opts) do
      case unary(request) do
        {:ok, value} -> Request.processed(request, value)
        {:error, _} = error when request.retry == nil -> error
        error -> survived(error, request)
      end
    end
  end

  # `{:halted, reason}`: the callback wanted an error, which the caller makes of it.
  @spec stream(target, String.t(), map | keyword, (map -> term), keyword) ::
          :ok | {:error, Exception.t() | :worker_busy} | {:halted, term, details :: map}
  def stream(%{streams?: false} = target, command, _args, _fun, _opts) do
    details = Map.put(CallError.context(target, command), :adapter, target.adapter)

    {:error,
     Error.validation_error("Streaming not supported by #{inspect(target.adapter)}", details)}
  end

  def stream(target, command, args, fun, opts) when is_function(fun, 1) do
    with {:ok, request} <- Request.build(target, :execute_stream, command, args, opts) do
      request |> streaming(fun) |> Retry.after_crash(request, &streaming(&1, fun))
    end
  end

  def stream(target, command, _args, fun, _opts) do
    message = "the callback of a stream is a function of one argument, not #{inspect(fun)}"
    {:error, Error.validation_error(message, CallError.context(target, command))}
  end

  @doc false
  # A unary call that failed, made again if it may be.
  def survived(error, request) do
    with {:ok, value} <- Retry.after_crash(error, request, &unary/1),
         do: Request.processed(request, value)
  end

  # ---- unary --------------------------------------------------------------

  @doc false
  def unary(%{watch: %{}} = request) do
    ref = make_ref()
    CallEvents.span(ref, fn -> watched(request, ref) end)
  end

  def unary(%{inputs: %{}} = request), do: interactive(request, make_ref())

  def unary(request) do
    # Made here, so that the receive below looks at newer messages only.
    ref = make_ref()

    case submit(request, ref, :unary) do
      {:ok, call} ->
        receive do
          {^ref, answer} -> answered(answer, request)
        after
          patience(request) -> overdue(call, ref, request)
        end

      {:done, decoded} ->
        decoded(decoded, request)

      {:ended, answer} ->
        answered(answer, request)

      {:error, reason} ->
        CallError.failed(reason, request)
    end
  end

  defp interactive(request, ref) do
    case submit(request, ref, :unary) do
      {:ok, call} ->
        request |> opened(ref, call) |> Map.put(:until, until(request)) |> collect()

      {:error, reason} ->
        CallError.failed(reason, request)
    end
  end

  defp watched(%{inputs: %{}} = request, ref), do: interactive(request, ref)

  defp watched(request, ref) do
    case awaited(submit(request, ref, :unary), request) do
      {:ok, call} -> await(call, ref, request, until(request))
      {:done, decoded} -> decoded(decoded, request)
      {:ended, answer} -> answered(answer, request)
      {:error, reason} -> CallError.failed(reason, request)
    end
  end

  # Where the start had to be told first, the native part has not waited yet.
  defp awaited({:ok, call} = submitted, %{watch: %{kind: :watched}}) do
    case Native.call_await(call) do
      :ok -> submitted
      ended -> ended
    end
  end

  defp awaited(submitted, _request), do: submitted

  defp await(call, ref, request, until) do
    receive do
      {^ref, {:started, worker}} ->
        CallEvents.started(ref, worker)
        await(call, ref, request, until)

      {^ref, answer} ->
        answer |> CallEvents.served(ref) |> answered(request)
    after
      left(until) -> overdue(call, ref, request)
    end
  end

  @doc false
  def answered({:ok, bytes}, request), do: decoded(Native.decode_response(bytes), request)
  def answered({:error, reason}, request), do: CallError.failed(reason, request)

  @doc false
  def decoded({:ok, value}, _request), do: {:ok, value}
  def decoded({:binary, bytes, meta}, _) when meta in [nil, %{}], do: {:ok, {:binary, bytes}}
  def decoded({:binary, bytes, meta}, _request), do: {:ok, {:binary, bytes, meta}}
  def decoded({:tool_error, what}, request), do: {:error, CallError.of_tool(what, request)}
  def decoded({:error, reason}, request), do: CallError.failed(reason, request)

  defp overdue(call, ref, request) do
    case cancel_unary(call, request) do
      :ok ->
        CallError.failed(:timeout, request)

      _ended ->
        last_words(ref, request)
    end
  end

  @doc false
  def cancel_unary(call, request) when is_integer(call),
    do: Native.pool_cancel(request.target.handle, call)

  def cancel_unary(call, _request), do: Native.call_cancel(call)

  defp last_words(ref, request) do
    receive do
      {^ref, {:started, _worker}} -> last_words(ref, request)
      {^ref, answer} -> answer |> CallEvents.served(ref) |> answered(request)
    after
      @last_words_ms -> CallError.failed(:timeout, request)
    end
  end

  # The one answer to a call with inputs.
  defp collect(stream) do
    case next(stream) do
      {{:raised, what}, _stream} -> raise_again(what)
      {{:ok, _} = answer, stream} -> ended(stream, answered(answer, stream.request))
      {{:error, reason}, stream} -> ended(stream, CallError.failed(reason, stream.request))
    end
  end

  # ---- streams ------------------------------------------------------------

  @doc false
  def opened(request, ref, call) do
    %{
      ref: ref,
      call: call,
      request: request,
      inputs: request.inputs,
      window: Window.new(),
      delivered: false
    }
  end

  defp streaming(%{watch: nil} = request, fun), do: streaming(request, fun, make_ref())

  defp streaming(request, fun) do
    ref = make_ref()
    CallEvents.span(ref, fn -> streaming(request, fun, ref) end)
  end

  defp streaming(request, fun, ref) do
    case submit(request, ref, :stream) do
      {:ok, call} ->
        stream = request |> opened(ref, call) |> Map.merge(%{fun: fun, until: until(request)})
        consume(ref, stream)

      {:error, reason} ->
        CallError.failed(reason, request)
    end
  end

  defp consume(ref, %{inputs: %{}} = stream) do
    case next(stream) do
      {{:raised, what}, _stream} -> raise_again(what)
      {{:chunk, bytes}, stream} -> chunk(bytes, ref, stream)
      {:done, stream} -> ended(stream, :ok)
      {{:error, reason}, stream} -> ended(stream, failed(reason, stream))
    end
  end

  defp consume(ref, stream) do
    receive do
      {^ref, {:chunk, bytes}} -> chunk(bytes, ref, stream)
      {^ref, :done} -> :ok
      {^ref, {:error, reason}} -> broken(reason, stream)
      {^ref, {:started, worker}} -> consume(started(ref, worker), stream)
    after
      left(stream.until) ->
        stop(stream)
        failed(:timeout, stream)
    end
  end

  # Who passes chunks on wants the message itself.
  defp read_chunk(bytes, %{raw_chunks?: true}), do: {:ok, bytes}
  defp read_chunk(bytes, _request), do: Native.decode_chunk(bytes)

  @doc false
  def started(ref, worker) do
    CallEvents.started(ref, worker)
    ref
  end

  @doc false
  # The next message of a call that has inputs, which are sent meanwhile. What
  # goes wrong here comes as the end, with nothing of the call left.
  def next(stream) do
    case Inputs.await(stream.inputs, stream.ref, stream.call, Map.get(stream, :until, :infinity)) do
      {:message, {:started, worker}, inputs} -> next(started(stream, worker, inputs))
      {:message, message, inputs} -> {message, %{stream | inputs: inputs}}
      {:timeout, inputs} -> broken_off({:error, :timeout}, stream, inputs)
      {:error, reason, inputs} -> broken_off({:error, reason}, stream, inputs)
      {:raised, what, inputs} -> broken_off({:raised, what}, stream, inputs)
    end
  end

  defp started(stream, worker, inputs) do
    _ = started(stream.ref, worker)
    %{stream | inputs: inputs}
  end

  defp broken_off(why, stream, inputs) do
    :ok = cancel(stream)
    {why, %{stream | inputs: inputs}}
  end

  @doc false
  # The enumerable's own exception, throw or exit.
  @spec raise_again({atom, term, Exception.stacktrace()}) :: no_return
  def raise_again({kind, reason, stacktrace}), do: :erlang.raise(kind, reason, stacktrace)

  @doc false
  # The worker wants no more inputs.
  def ended(stream, result) do
    :ok = Inputs.halt(stream.inputs)
    result
  end

  defp broken({:worker_exit, _} = reason, %{delivered: true} = stream) do
    {:error, error} = failed(reason, stream)
    {:error, %{error | details: Map.put(error.details, :chunks_delivered, true)}}
  end

  defp broken(reason, stream), do: failed(reason, stream)

  @doc false
  # Of a stream the error says which worker it had, if it had one.
  def failed(reason, stream) do
    with {:error, %Error{details: details} = error} <- CallError.failed(reason, stream.request),
         do: {:error, %{error | details: placed(details, stream)}}
  end

  defp context(stream), do: stream.request |> CallError.context() |> placed(stream)

  defp placed(%{worker_id: _} = details, _stream), do: details

  defp placed(details, stream) do
    case Native.call_worker_id(stream.call) do
      {:ok, id} -> Map.put(details, :worker_id, id)
      {:error, :not_found} -> details
    end
  end

  defp chunk(bytes, ref, stream) do
    :ok = CallEvents.chunk(stream.request, ref, bytes)

    case read_chunk(bytes, stream.request) do
      {:ok, chunk} ->
        delivered(deliver(stream, chunk), Window.size(bytes), ref, stream)

      {:error, reason} ->
        stop(stream)
        failed(reason, stream)
    end
  end

  defp delivered(what, size, ref, stream) do
    case what do
      {:value, :halt} ->
        stop(stream)
        :ok

      {:value, {:halt, reason}} ->
        stop(stream)
        {:halted, reason, context(stream)}

      {:value, _} ->
        consume(ref, credited(stream, size))

      {:raised, exception, stacktrace} ->
        message = "the stream's callback raised: #{Exception.message(exception)}"
        reason = {:callback_exception, exception, stacktrace}

        {:error, Error.pool_error(message, Map.put(context(stream), :reason, reason))}
    end
  end

  # What the callback throws or exits with goes on to the caller.
  defp deliver(stream, chunk) do
    {:value, stream.fun.(chunk)}
  catch
    :error, reason ->
      stop(stream)
      {:raised, Exception.normalize(:error, reason, __STACKTRACE__), __STACKTRACE__}

    kind, reason ->
      stop(stream)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  @doc false
  def credited(stream, size),
    do: %{stream | window: Window.take(stream.window, stream.call, size), delivered: true}

  @doc false
  # No message of a stream is left to its caller.
  def stop(stream) do
    :ok = cancel(stream)
    ended(stream, :ok)
  end

  defp cancel(stream) do
    case Native.call_cancel(stream.call) do
      :ok -> flush(stream.ref, 0)
      :ended -> flush(stream.ref, @last_words_ms)
    end
  end

  defp flush(ref, wait) do
    receive do
      {^ref, {kind, _}} when kind in [:chunk, :want, :started] -> flush(ref, wait)
      {^ref, _end} -> :ok
    after
      wait -> :ok
    end
  end

  defp until(request) do
    case patience(request) do
      :infinity -> :infinity
      ms -> System.monotonic_time(:millisecond) + ms
    end
  end

  defp left(:infinity), do: :infinity
  defp left(until), do: max(until - System.monotonic_time(:millisecond), 0)

  # ---- both ---------------------------------------------------------------

  @doc false
  def submit(%{watch: nil} = request, ref, kind), do: submit_plain(request, ref, kind)

  def submit(request, ref, kind) do
    :ok = CallEvents.begin(request, ref)
    request |> submit_plain(ref, {request.watch.kind, kind}) |> CallEvents.submitted(ref)
  end

  defp submit_plain(request, ref, kind) do
    case submit_once(request, ref, kind) do
      {:error, {:encode_struct, _path}} ->
        with {:ok, request} <- Arguments.resolve(request),
             do: submit_once(%{request | args: Encoder.plain(request.args)}, ref, kind)

      result ->
        result
    end
  end

  defp submit_once(request, ref, kind) do
    Native.submit(
      request.target.handle,
      ref,
      with_inputs(kind, request.inputs),
      request.command,
      request.args,
      request.session,
      request.affinity,
      request.times,
      request.extra
    )
  end

  defp with_inputs(kind, nil), do: kind
  defp with_inputs({watched, kind}, _inputs), do: {watched, {:inputs, kind}}
  defp with_inputs(kind, _inputs), do: {:inputs, kind}

  defp patience(%{times: {_queue, :infinity}}), do: :infinity
  defp patience(%{times: {_queue, total}}), do: total + @slack_ms
end
