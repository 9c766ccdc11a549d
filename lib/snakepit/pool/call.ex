defmodule Snakepit.Pool.Call do
  @moduledoc false
  # One request, in the process of its caller: budget, submit, answer. What a
  # pool is, as far as a call needs to know, is its target; see target/3.

  alias Snakepit.Bridge.ToolContext
  alias Snakepit.{CrashBarrier, Defaults, Encoder, Error, Native}
  alias Snakepit.Error.PythonException
  alias Snakepit.Pool.{CallEvents, Inputs, Options, Retry, Window}

  @affinities [:hint, :strict_queue, :strict_fail_fast]
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
    with {:ok, request} <- request(target, :execute, command, args, opts) do
      case unary(request) do
        {:ok, value} -> processed(request, value)
        {:error, _} = error when request.retry == nil -> error
        error -> survived(error, request)
      end
    end
  end

  @spec stream(target, String.t(), map | keyword, (map -> term), keyword) ::
          :ok | {:error, term}
  def stream(%{streams?: false} = target, command, _args, _fun, _opts) do
    details = Map.put(context(target, command), :adapter, target.adapter)

    {:error,
     Error.validation_error("Streaming not supported by #{inspect(target.adapter)}", details)}
  end

  def stream(target, command, args, fun, opts) when is_function(fun, 1) do
    with {:ok, request} <- request(target, :execute_stream, command, args, opts) do
      request |> streaming(fun) |> Retry.after_crash(request, &streaming(&1, fun))
    end
  end

  def stream(target, command, _args, fun, _opts) do
    message = "the callback of a stream is a function of one argument, not #{inspect(fun)}"
    {:error, Error.validation_error(message, context(target, command))}
  end

  @doc false
  # A unary call that failed, made again if it may be.
  def survived(error, request) do
    with {:ok, value} <- Retry.after_crash(error, request, &unary/1),
         do: processed(request, value)
  end

  # ---- the request --------------------------------------------------------

  @doc false
  def request(target, kind, command, args, opts) do
    :ok = Options.note(opts)

    with {:ok, command} <- valid_command(command),
         {:ok, args} <- valid_args(args),
         :ok <- hooked(target, command, args),
         {:ok, opts} <- ToolContext.inherit(opts, target),
         {:ok, affinity} <- valid_affinity(opts[:affinity] || target.affinity),
         {:ok, session} <- valid_session(opts[:session_id]),
         {:ok, times} <- times(target, kind, command, args, opts),
         {:ok, binaries} <- binaries(opts[:binary_parameters]),
         {:ok, inputs} <- valid_inputs(opts[:inputs]) do
      {args, correlation_id} = correlation(args, opts)
      watch = CallEvents.watch(kind, session, correlation_id)

      {:ok,
       %{
         target: target,
         command: command,
         args: target |> prepared(command, args) |> without(binaries),
         session: session,
         affinity: affinity,
         times: times,
         extra: {CallEvents.metadata(watch, metadata(correlation_id, opts)), binaries},
         inputs: inputs,
         watch: watch,
         retry: target.barrier && Retry.mark(args, opts)
       }}
    else
      {:error, {:validation, message}} ->
        {:error, Error.validation_error(message, context(target, command))}

      {:error, reason} ->
        {:error, error(reason, context(target, command))}
    end
  end

  defp valid_command(command) when is_binary(command) and command != "", do: {:ok, command}

  defp valid_command(command) when is_atom(command) and command not in [nil, true, false],
    do: {:ok, Atom.to_string(command)}

  defp valid_command(other), do: invalid("a command is a text, not #{inspect(other)}")

  defp valid_args(nil), do: {:ok, %{}}

  defp valid_args(%_{} = struct) do
    case Encoder.plain(struct) do
      %{} = plain when not is_struct(plain) -> {:ok, plain}
      _ -> invalid("arguments are a map, not #{inspect(struct)}")
    end
  end

  defp valid_args(args) when is_map(args), do: {:ok, args}

  defp valid_args(args) do
    if Keyword.keyword?(args),
      do: {:ok, Map.new(args)},
      else: invalid("arguments are a map, not #{inspect(args, limit: 5, printable_limit: 200)}")
  end

  defp valid_affinity(affinity) when affinity in @affinities, do: {:ok, affinity}

  defp valid_affinity(affinity) do
    case Enum.find(@affinities, &(to_string(&1) == affinity)) do
      nil -> invalid("affinity is one of #{inspect(@affinities)}, not #{inspect(affinity)}")
      known -> {:ok, known}
    end
  end

  defp valid_session(nil), do: {:ok, nil}
  defp valid_session(id) when is_binary(id) and id != "", do: {:ok, id}
  defp valid_session(id), do: invalid("a session id is a text, not #{inspect(id)}")

  defp binaries(map) when is_map(map) and not is_struct(map) do
    Enum.reduce_while(map, {:ok, []}, fn
      {key, value}, {:ok, list} when is_binary(value) and (is_binary(key) or is_atom(key)) ->
        {:cont, {:ok, [{to_string(key), value} | list]}}

      {key, _value}, _ ->
        {:halt, {:error, {:invalid_parameter, key, :not_binary}}}
    end)
  end

  defp binaries(_), do: {:ok, []}

  defp valid_inputs(inputs) do
    with :error <- Inputs.valid(inputs),
         do: invalid("inputs are an enumerable, not #{inspect(inputs)}")
  end

  # A binary parameter replaces an argument of its name.
  defp without(args, binaries) when binaries == [] or not is_map(args), do: args

  defp without(args, binaries) do
    Map.reject(args, fn {key, _} ->
      (is_binary(key) or is_atom(key)) and List.keymember?(binaries, to_string(key), 0)
    end)
  end

  defp times(target, kind, command, args, opts) do
    total = budget(target, kind, command, args, opts)
    queue = opts[:queue_timeout] || queue_timeout(kind)

    cond do
      not timeout?(total) ->
        invalid("a timeout is a number of milliseconds or :infinity, not #{inspect(total)}")

      not timeout?(queue) ->
        invalid("queue_timeout is milliseconds or :infinity, not #{inspect(queue)}")

      true ->
        {:ok, {min(queue, total), total}}
    end
  end

  defp timeout?(value), do: value == :infinity or (is_integer(value) and value >= 0)

  defp queue_timeout(:execute), do: Defaults.pool_queue_timeout()
  defp queue_timeout(:execute_stream), do: Defaults.checkout_timeout()

  # Numbers sort before atoms: anything is less than :infinity.
  defp budget(target, kind, command, args, opts) do
    total = opts[:timeout] || configured(target, kind, command, args)

    case opts[:deadline_ms] do
      nil -> total
      deadline -> min(total, max(deadline - System.monotonic_time(:millisecond), 0))
    end
  end

  defp configured(_target, :execute_stream, _command, _args),
    do: Defaults.pool_streaming_timeout()

  defp configured(target, :execute, command, args) do
    if :command_timeout in target.hooks do
      per_command = target.adapter.command_timeout(command, args)

      case Application.get_env(:snakepit, :pool_request_timeout) do
        nil -> per_command
        explicit -> min(explicit, per_command)
      end
    else
      Defaults.pool_request_timeout()
    end
  end

  defp hooked(target, command, args) do
    if :validate_command in target.hooks do
      case target.adapter.validate_command(command, args) do
        :ok -> :ok
        {:error, why} -> invalid(if is_binary(why), do: why, else: inspect(why))
      end
    else
      :ok
    end
  end

  defp prepared(target, command, args) do
    if :prepare_args in target.hooks,
      do: target.adapter.prepare_args(command, args),
      else: args
  end

  @doc false
  def processed(%{target: target} = request, value) do
    if :process_response in target.hooks do
      case target.adapter.process_response(request.command, value) do
        {:ok, value} -> {:ok, value}
        {:error, reason} -> {:error, error(reason, context(target, request.command))}
      end
    else
      {:ok, value}
    end
  end

  # Without an id the native part makes one.
  defp metadata(correlation_id, opts) do
    list = if correlation_id, do: [{"correlation_id", correlation_id}], else: []
    list = if path = opts[:call_path], do: [{"call_path", path} | list], else: list

    if opts[:thread_sensitive] in [true, "true"],
      do: [{"thread_sensitive", "true"} | list],
      else: list
  end

  # The arguments may carry the id; then it is not one of the tool's.
  defp correlation(args, opts) do
    {from_atom, args} = Map.pop(args, :correlation_id)
    {from_text, args} = Map.pop(args, "correlation_id")
    ids = [opts[:correlation_id], from_atom, from_text, opts[:inherited_correlation_id]]
    {args, Enum.find(ids, &id?/1)}
  end

  defp id?(id), do: is_binary(id) and id != ""

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
        failed(reason, request)
    end
  end

  defp interactive(request, ref) do
    case submit(request, ref, :unary) do
      {:ok, call} ->
        request |> opened(ref, call) |> Map.put(:until, until(request)) |> collect()

      {:error, reason} ->
        failed(reason, request)
    end
  end

  defp watched(%{inputs: %{}} = request, ref), do: interactive(request, ref)

  defp watched(request, ref) do
    case submit(request, ref, :unary) do
      {:ok, call} -> await(call, ref, request, until(request))
      {:error, reason} -> failed(reason, request)
    end
  end

  defp await(call, ref, request, until) do
    receive do
      {^ref, {:started, worker}} ->
        CallEvents.started(ref, worker)
        await(call, ref, request, until)

      {^ref, answer} ->
        answered(answer, request)
    after
      left(until) -> overdue(call, ref, request)
    end
  end

  @doc false
  def answered({:ok, bytes}, request), do: decoded(Native.decode_response(bytes), request)
  def answered({:error, reason}, request), do: failed(reason, request)

  @doc false
  def decoded({:ok, value}, _request), do: {:ok, value}
  def decoded({:binary, bytes, meta}, _) when meta in [nil, %{}], do: {:ok, {:binary, bytes}}
  def decoded({:binary, bytes, meta}, _request), do: {:ok, {:binary, bytes, meta}}
  def decoded({:tool_error, what}, request), do: {:error, tool_error(what, request)}
  def decoded({:error, reason}, request), do: failed(reason, request)

  defp overdue(call, ref, request) do
    case Native.call_cancel(call) do
      :ok ->
        failed(:timeout, request)

      _ended ->
        last_words(ref, request)
    end
  end

  defp last_words(ref, request) do
    receive do
      {^ref, {:started, _worker}} -> last_words(ref, request)
      {^ref, answer} -> answered(answer, request)
    after
      @last_words_ms -> failed(:timeout, request)
    end
  end

  # The one answer to a call with inputs.
  defp collect(stream) do
    case next(stream) do
      {{:raised, what}, _stream} -> raise_again(what)
      {{:ok, _} = answer, stream} -> ended(stream, answered(answer, stream.request))
      {{:error, reason}, stream} -> ended(stream, failed(reason, stream.request))
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
        failed(reason, request)
    end
  end

  defp consume(ref, %{inputs: %{}} = stream) do
    case next(stream) do
      {{:raised, what}, _stream} -> raise_again(what)
      {{:chunk, bytes}, stream} -> chunk(bytes, ref, stream)
      {:done, stream} -> ended(stream, :ok)
      {{:error, reason}, stream} -> ended(stream, failed(reason, stream.request))
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
        failed(:timeout, stream.request)
    end
  end

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
    {:error, error} = failed(reason, stream.request)
    {:error, %{error | details: Map.put(error.details, :chunks_delivered, true)}}
  end

  defp broken(reason, stream), do: failed(reason, stream.request)

  defp chunk(bytes, ref, stream) do
    case Native.decode_chunk(bytes) do
      {:ok, chunk} ->
        delivered(deliver(stream, chunk), byte_size(bytes), ref, stream)

      {:error, reason} ->
        stop(stream)
        failed(reason, stream.request)
    end
  end

  defp delivered(what, size, ref, stream) do
    case what do
      {:value, :halt} ->
        stop(stream)
        :ok

      {:value, {:halt, reason}} ->
        stop(stream)
        {:error, reason}

      {:value, _} ->
        consume(ref, credited(stream, size))

      {:raised, exception, stacktrace} ->
        message = "the stream's callback raised: #{Exception.message(exception)}"
        reason = {:callback_exception, exception, stacktrace}
        {:error, Error.pool_error(message, Map.put(context(stream.request), :reason, reason))}
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
    request |> submit_plain(ref, {:watched, kind}) |> CallEvents.submitted(ref)
  end

  defp submit_plain(request, ref, kind) do
    case submit_once(request, ref, kind) do
      {:error, {:encode_struct, _path}} ->
        submit_once(%{request | args: Encoder.plain(request.args)}, ref, kind)

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
  defp with_inputs({:watched, kind}, _inputs), do: {:watched, {:inputs, kind}}
  defp with_inputs(kind, _inputs), do: {:inputs, kind}

  defp patience(%{times: {_queue, :infinity}}), do: :infinity
  defp patience(%{times: {_queue, total}}), do: total + @slack_ms

  # ---- what went wrong ----------------------------------------------------

  @doc false
  def failed(reason, request) do
    if reason == :pool_saturated, do: Snakepit.Pool.Events.saturated(request.target)
    {:error, error(reason, context(request))}
  end

  defp context(%{target: target, command: command} = request) do
    # Of a retry, which has less, it is what the call had at first.
    {_queue, total} = Map.get(request, :allowed, request.times)
    context = target |> context(command) |> Map.put(:timeout_ms, total)
    if request.inputs, do: Map.put(context, :inputs, true), else: context
  end

  defp context(target, command) do
    %{command: command, pool: target.name, pool_name: target.name}
  end

  defp tool_error(%{"type" => type, "message" => message} = info, _request)
       when is_binary(type) and is_binary(message),
       do: PythonException.from_wire(info)

  defp tool_error(text, request) do
    text = if is_binary(text), do: text, else: inspect(text)
    Error.worker_error(text, Map.put(context(request), :reason, text))
  end

  # The one that is documented as a bare atom.
  defp error(:worker_busy, _context), do: :worker_busy

  defp error({:call_depth_exceeded, max}, context) do
    message =
      "#{max} calls wait for one another already, Elixir and the workers calling each other: " <>
        "more are allowed by config :snakepit, max_call_depth"

    Error.pool_error(message, Map.merge(context, %{reason: :call_depth_exceeded, max_depth: max}))
  end

  defp error(:nested_call_deadlock, context) do
    message =
      "all workers of pool #{inspect(context.pool)} run calls that wait for this one, so it " <>
        "would wait for ever: give the pool more workers, or call another pool from the tool"

    Error.pool_error(message, Map.put(context, :reason, :nested_call_deadlock))
  end

  defp error(:pool_not_initialized, context) do
    why = Snakepit.Pool.failure(context.pool)

    message =
      case why do
        nil ->
          "pool #{inspect(context.pool)} has no worker yet: " <>
            "Snakepit.Pool.await_ready/2 waits until it has"

        %{message: text} ->
          "pool #{inspect(context.pool)} has no worker: #{text}"
      end

    known = if why, do: Map.take(why.details, [:cause, :stderr, :worker_id]), else: %{}
    details = context |> Map.merge(known) |> Map.put(:reason, :pool_not_initialized)
    Error.pool_error(message, details)
  end

  defp error({:encode, path, text}, context) do
    where = if path == [], do: "", else: " at #{show_path(path)}"
    reason = {:invalid_parameter, :json_encode_failed, text}

    Error.pool_error(
      "the arguments cannot be sent: #{text}#{where}",
      Map.merge(context, %{reason: reason, path: path})
    )
  end

  defp error({:encode_struct, path}, context),
    do: error({:encode, path, "a struct that has no plain form"}, context)

  defp error({:decode, text}, context) do
    Error.worker_error(
      "the worker's answer cannot be read: #{text}",
      Map.put(context, :reason, {:decode, text})
    )
  end

  defp error({:invalid_parameter, key, :not_binary} = reason, context) do
    Error.pool_error(
      "binary_parameters: the value of #{inspect(key)} is not a binary",
      Map.put(context, :reason, reason)
    )
  end

  @told_of_exit ~w(worker_id os_pid exit_status signal stderr usage core_dumped oom killed)a

  defp error({:worker_exit, why}, context) do
    details = Map.merge(context, %{reason: :worker_exit, exit_reason: why})

    case why do
      %{text: text} = info ->
        known = Map.take(info, @told_of_exit)
        exit_reason = Map.get(info, :exit, :unknown)
        details = Map.merge(%{details | exit_reason: exit_reason}, known)
        Error.worker_error("the worker died during the call: #{text}", details)

      other ->
        Error.worker_error("the worker died during the call: #{inspect(other)}", details)
    end
  end

  defp error({:grpc, 4, _text}, context), do: error(:timeout, context)

  defp error({:grpc, 12, text}, %{inputs: true} = context) do
    message =
      "#{context.command}: its worker takes no inputs over gRPC (it has no " <>
        "ExecuteInteractiveTool): pass them as an argument, or use a worker that has it"

    Error.grpc_error(
      :unimplemented,
      message,
      Map.merge(context, %{reason: :unimplemented, text: text})
    )
  end

  defp error({:grpc, status, text}, context) do
    case status == 13 and exception(text) do
      %{} = exception -> exception
      _ -> grpc_error(status, text, context)
    end
  end

  defp error(:timeout, context) do
    took = if context[:timeout_ms], do: " (#{context.timeout_ms} ms)", else: ""
    message = "#{context.command}: the call took longer than its timeout#{took}"
    Error.timeout_error(message, Map.put(context, :reason, :timeout))
  end

  defp error(reason, context), do: Error.normalize_public_error(reason, context)

  # An exception in a stream arrives as the text of a status.
  defp exception("{" <> _ = text) do
    case Native.json_decode(text) do
      {:ok, %{"type" => type, "message" => message} = info}
      when is_binary(type) and is_binary(message) ->
        PythonException.from_wire(info)

      _ ->
        nil
    end
  end

  defp exception(_text), do: nil

  @statuses %{
    1 => :cancelled,
    2 => :unknown,
    3 => :invalid_argument,
    5 => :not_found,
    6 => :already_exists,
    7 => :permission_denied,
    8 => :resource_exhausted,
    9 => :failed_precondition,
    10 => :aborted,
    11 => :out_of_range,
    12 => :unimplemented,
    13 => :internal,
    14 => :unavailable,
    15 => :data_loss,
    16 => :unauthenticated
  }

  defp grpc_error(status, text, context) do
    name = Map.get(@statuses, status, :unknown)
    Error.grpc_error(name, "#{name}: #{text}", Map.put(context, :reason, name))
  end

  defp show_path(path) do
    path
    |> Enum.map(fn
      index when is_integer(index) -> "[#{index}]"
      key when is_binary(key) or is_atom(key) -> ".#{key}"
      key -> ".#{inspect(key)}"
    end)
    |> Enum.join()
    |> String.trim_leading(".")
  end

  defp invalid(message), do: {:error, {:validation, message}}
end
