defmodule Snakepit.Pool.CallError do
  @moduledoc false
  # Why a call failed, in words: from the reasons of the native part and of workers
  # to the documented errors.

  alias Snakepit.{Error, Native}
  alias Snakepit.Error.PythonException
  alias Snakepit.GRPC.Status
  alias Snakepit.Pool.{Call, Request}
  alias Snakepit.Python.Arguments

  @doc "What the caller of a request gets."
  @spec failed(term, Request.t()) :: {:error, Exception.t() | :worker_busy}
  def failed(reason, request) do
    if reason == :pool_saturated, do: Snakepit.Pool.Events.saturated(request.target)
    reason = if reason == :pool_closed, do: Arguments.closed(request), else: reason
    {:error, new(reason, context(request))}
  end

  @spec context(Request.t()) :: map
  def context(%{target: target, command: command} = request) do
    # Of a retry, which has less, it is what the call had at first.
    {_queue, total} = Map.get(request, :allowed, request.times)
    context = target |> context(command) |> Map.put(:timeout_ms, total)
    if request.inputs, do: Map.put(context, :inputs, true), else: context
  end

  @spec context(Call.target(), term) :: map
  def context(target, command) do
    %{command: command, pool: target.name, pool_name: target.name}
  end

  @doc "Of a stream whose callback returned `{:halt, reason}`: what is one already stays as it is."
  @spec halted(term, map) :: Error.t()
  def halted(%Error{} = error, _context), do: error

  def halted(reason, context) do
    details = Map.put(context, :reason, reason)
    message = "#{context.command}: the stream's callback halted it: #{halt_text(reason)}"

    if is_atom(reason) or is_tuple(reason),
      do: Error.pool_error(message, details),
      else: Error.worker_error(message, details)
  end

  defp halt_text(text) when is_binary(text), do: inspect(text, printable_limit: 500)
  defp halt_text(%{__exception__: true} = exception), do: Exception.message(exception)
  defp halt_text(reason), do: inspect(reason, limit: 50, printable_limit: 500)

  @doc "Of an exception of the tool, or its text."
  @spec of_tool(term, Request.t()) :: Exception.t()
  def of_tool(%{"type" => type, "message" => message} = info, _request)
      when is_binary(type) and is_binary(message),
      do: from_wire(info)

  def of_tool(text, request) do
    text = if is_binary(text), do: text, else: inspect(text)
    Error.worker_error(text, Map.put(context(request), :reason, text))
  end

  @doc "The error for a reason of the native part; `:worker_busy` is documented as it is."
  @spec new(term, map) :: Exception.t() | :worker_busy
  def new(:worker_busy, _context), do: :worker_busy

  def new({:call_depth_exceeded, max}, context) do
    message =
      "#{max} calls wait for one another already, Elixir and the workers calling each other: " <>
        "more are allowed by config :snakepit, max_call_depth"

    Error.pool_error(message, Map.merge(context, %{reason: :call_depth_exceeded, max_depth: max}))
  end

  def new(:nested_call_deadlock, context) do
    message =
      "all workers of pool #{inspect(context.pool)} run calls that wait for this one, so it " <>
        "would wait for ever: give the pool more workers, or call another pool from the tool"

    Error.pool_error(message, Map.put(context, :reason, :nested_call_deadlock))
  end

  def new(:pool_not_initialized, context) do
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

  def new({:encode, path, text}, context) do
    where = if path == [], do: "", else: " at #{show_path(path)}"
    reason = {:invalid_parameter, :json_encode_failed, text}

    Error.pool_error(
      "the arguments cannot be sent: #{text}#{where}",
      Map.merge(context, %{reason: reason, path: path})
    )
  end

  def new({:encode_struct, path}, context),
    do: new({:encode, path, "a struct that has no plain form, or a closed handle"}, context)

  def new({:decode, text}, context) do
    Error.worker_error(
      "the worker's answer cannot be read: #{text}",
      Map.put(context, :reason, {:decode, text})
    )
  end

  def new({:invalid_parameter, key, :not_binary} = reason, context) do
    Error.pool_error(
      "binary_parameters: the value of #{inspect(key)} is not a binary",
      Map.put(context, :reason, reason)
    )
  end

  @told_of_exit ~w(worker_id os_pid exit_status signal stderr usage core_dumped oom killed)a

  def new({:worker_exit, why}, context) do
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

  def new({:grpc, 4, _text}, context), do: new(:timeout, context)

  def new({:grpc, 12, text}, %{inputs: true} = context) do
    message =
      "#{context.command}: its worker takes no inputs over gRPC (it has no " <>
        "ExecuteInteractiveTool): pass them as an argument, or use a worker that has it"

    Error.grpc_error(
      :unimplemented,
      message,
      Map.merge(context, %{reason: :unimplemented, text: text})
    )
  end

  def new({:grpc, status, text}, context) do
    case status == 13 and exception(text) do
      %{} = exception -> exception
      _ -> grpc_error(status, text, context)
    end
  end

  def new(:timeout, context) do
    took = if context[:timeout_ms], do: " (#{context.timeout_ms} ms)", else: ""
    message = "#{context.command}: the call took longer than its timeout#{took}"
    Error.timeout_error(message, Map.put(context, :reason, :timeout))
  end

  def new(reason, context), do: Error.normalize_public_error(reason, context)

  # An exception in a stream arrives as the text of a status.
  defp exception("{" <> _ = text) do
    case Native.json_decode(text) do
      {:ok, %{"type" => type, "message" => message} = info}
      when is_binary(type) and is_binary(message) ->
        from_wire(info)

      _ ->
        nil
    end
  end

  defp exception(_text), do: nil

  defp from_wire(info), do: Arguments.refusal(info) || PythonException.from_wire(info)

  defp grpc_error(status, text, context) do
    name = Status.name(status)
    Error.grpc_error(name, "#{name}: #{text}", Map.put(context, :reason, name))
  end

  defp show_path(path) do
    path
    |> Enum.map(fn
      index when is_integer(index) -> "[#{index}]"
      key when is_atom(key) -> ".#{key}"
      key -> if is_binary(key) and String.valid?(key), do: ".#{key}", else: ".#{inspect(key)}"
    end)
    |> Enum.join()
    |> String.trim_leading(".")
  end
end
