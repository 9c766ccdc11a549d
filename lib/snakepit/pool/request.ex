defmodule Snakepit.Pool.Request do
  @moduledoc false
  # From the arguments of execute and its like to what is submitted: everything
  # checked, defaults and hooks of the adapter applied.

  alias Snakepit.Bridge.ToolContext
  alias Snakepit.{Defaults, Encoder, Error}
  alias Snakepit.Pool.{Call, CallError, CallEvents, Inputs, Options, Retry}

  @affinities [:hint, :strict_queue, :strict_fail_fast]

  @typedoc "What `Snakepit.Pool.Call` and its neighbours pass on."
  @type t :: map

  @doc "The request of a call, or what is wrong with it."
  @spec build(Call.target(), :execute | :execute_stream, term, term, keyword) ::
          {:ok, t} | {:error, Exception.t() | :worker_busy}
  def build(target, kind, command, args, opts) do
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
         raw_chunks?: opts[:raw_chunks] == true,
         retry: target.barrier && Retry.mark(args, opts)
       }}
    else
      {:error, {:validation, message}} ->
        context = Map.put(CallError.context(target, command), :reason, :invalid_call)
        {:error, Error.validation_error(message, context)}

      {:error, reason} ->
        {:error, CallError.new(reason, CallError.context(target, command))}
    end
  end

  defp valid_command(command) when is_atom(command) and command not in [nil, true, false],
    do: {:ok, Atom.to_string(command)}

  defp valid_command(command) do
    if text?(command),
      do: {:ok, command},
      else: invalid("a command is a text, not #{inspect(command, printable_limit: 200)}")
  end

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

  defp valid_session(id) do
    if text?(id),
      do: {:ok, id},
      else: invalid("a session id is a text, not #{inspect(id, printable_limit: 200)}")
  end

  # Workers end a connection that brings anything else.
  defp text?(value), do: is_binary(value) and value != "" and String.valid?(value)

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
      not (is_nil(opts[:deadline_ms]) or is_integer(opts[:deadline_ms])) ->
        invalid("deadline_ms is a monotonic time in ms, not #{inspect(opts[:deadline_ms])}")

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
      deadline when is_integer(deadline) ->
        min(total, max(deadline - System.monotonic_time(:millisecond), 0))

      _ ->
        total
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

  @doc "The answer, as the adapter's hook would have it."
  @spec processed(t, term) :: {:ok, term} | {:error, Exception.t() | :worker_busy}
  def processed(%{target: target} = request, value) do
    if :process_response in target.hooks do
      case target.adapter.process_response(request.command, value) do
        {:ok, value} ->
          {:ok, value}

        {:error, reason} ->
          {:error, CallError.new(reason, CallError.context(target, request.command))}
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
    {args, Enum.find(ids, &text?/1)}
  end

  defp invalid(message), do: {:error, {:validation, message}}
end
