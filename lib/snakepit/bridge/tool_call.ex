defmodule Snakepit.Bridge.ToolCall do
  @moduledoc false
  # Runs an Elixir tool for a client: from the request message to the reply.

  alias Snakepit.Bridge.{Any, SessionStore, SessionTools, ToolContext, ToolRegistry}
  alias Snakepit.{Encoder, Native}
  alias Snakepit.Pool.Registry, as: Workers

  # Beyond that a stack trace tells nothing more.
  @max_frames 32

  @type answer :: %{:success => boolean, optional(atom) => term}

  @doc """
  `request` is an ExecuteToolRequest or ExecuteElixirToolRequest as a map;
  `allowed` says whether a tool that was found may be called so.
  """
  @spec run(map, map, map, (map -> {:ok, map} | {:error, term})) :: answer
  def run(request, binaries, context, allowed) do
    started = System.monotonic_time()
    worker = worker(request, context)

    answer =
      with {:ok, tool} <- find(request, worker),
           {:ok, tool} <- allowed.(tool),
           {:ok, params} <- parameters(request, binaries),
           :ok <- enter(request, context, worker),
           {:ok, result} <- ToolRegistry.run(tool, params) do
        result(result, tool, Map.put(request, :asked, context[:request]))
      else
        {:failed, kind, error, stacktrace} -> crash(kind, error, stacktrace)
        {:error, reason} -> refusal(reason)
      end

    taken = System.monotonic_time() - started
    Map.put(answer, :execution_time_ms, System.convert_time_unit(taken, :native, :millisecond))
  end

  # ---- who asks, and for what ---------------------------------------------

  # The worker at the other end, or the one that a client says it is.
  defp worker(_request, %{worker: worker}), do: worker

  defp worker(%{metadata: %{"worker_id" => id}}, _context) do
    with true <- Process.whereis(Workers) != nil,
         {:ok, metadata} <- Workers.get_worker_metadata(id) do
      %{id: id, pool: metadata[:pool_name]}
    else
      _ -> nil
    end
  end

  defp worker(_request, _context), do: nil

  @doc "The tool of that name that the request's session sees."
  @spec find(map, map | nil) :: {:ok, map} | {:error, term}
  def find(%{tool_name: "snakepit." <> _ = name} = request, worker) do
    case SessionTools.find(name) do
      nil -> registered(request, worker)
      tool -> if known?(request.session_id, worker), do: {:ok, tool}, else: unknown()
    end
  end

  def find(request, worker), do: registered(request, worker)

  defp registered(%{session_id: session_id, tool_name: name}, worker) do
    case ToolRegistry.lookup(session_id, name) do
      # Tools for all sessions are there for callers without one.
      {:ok, tool, :everywhere} -> {:ok, tool}
      {:ok, tool, _whose} -> if known?(session_id, worker), do: {:ok, tool}, else: unknown()
      error -> if known?(session_id, nil), do: error, else: unknown()
    end
  end

  # What a worker of ours runs is a session that a caller named, although it may
  # not have been noted yet.
  defp known?(_session_id, %{}), do: true
  defp known?(session_id, nil), do: match?({:ok, _}, SessionStore.get_session(session_id))

  defp unknown, do: {:error, :not_found}

  @doc "The parameters, those of `binaries` before others of the same name."
  @spec parameters(map, map) :: {:ok, map} | {:error, term}
  def parameters(%{arguments_cbor: cbor} = request, binaries) when cbor != "" do
    case Native.cbor_decode({cbor, Map.get(request, :beside, [])}) do
      {:ok, %{} = arguments} ->
        {:ok, arguments |> Map.delete("correlation_id") |> Map.merge(binaries)}

      {:ok, _other} ->
        {:error, :invalid_arguments}

      {:error, reason} ->
        {:error, {:invalid_parameter, "arguments_cbor", reason}}
    end
  end

  def parameters(request, binaries) do
    request.parameters
    |> Map.delete("correlation_id")
    |> Enum.reduce_while({:ok, binaries}, fn {key, any}, {:ok, params} ->
      case Any.decode(any) do
        {:ok, value} -> {:cont, {:ok, Map.put_new(params, key, value)}}
        {:error, reason} -> {:halt, {:error, {:invalid_parameter, key, reason}}}
      end
    end)
  end

  # What the tool and the calls that it makes know.
  defp enter(request, context, worker) do
    id = correlation_id(request, context)
    _ = Logger.metadata(correlation_id: id)
    pool = worker && worker.pool && Atom.to_string(worker.pool)

    ToolContext.put(%ToolContext{
      tool: request.tool_name,
      session_id: request.session_id,
      correlation_id: id,
      worker_id: worker && worker.id,
      deadline: deadline(request, context),
      path: ToolContext.parse_path(request.metadata["call_path"], pool)
    })
  end

  defp deadline(%{time_left_ms: ms}, _context) when ms > 0,
    do: System.monotonic_time(:millisecond) + ms

  defp deadline(_request, %{time_left: ms}) when is_integer(ms),
    do: System.monotonic_time(:millisecond) + ms

  defp deadline(_request, _context), do: :infinity

  defp correlation_id(request, context) do
    header = List.keyfind(context[:headers] || [], "x-snakepit-correlation-id", 0)

    [request.metadata["correlation_id"], parameter_id(request), header && elem(header, 1)]
    |> Enum.find(&(is_binary(&1) and &1 != "")) || new_correlation_id()
  end

  @doc "An id for a call that came without one."
  @spec new_correlation_id() :: String.t()
  def new_correlation_id,
    do: "sp-" <> Base.encode16(:crypto.strong_rand_bytes(12), case: :lower)

  defp parameter_id(%{parameters: %{"correlation_id" => any}}) do
    with {:ok, id} <- Any.decode(any), do: id
  end

  defp parameter_id(_request), do: nil

  # ---- what the tool gave back --------------------------------------------

  # A tool may also say how it went.
  defp result({:ok, result}, tool, request), do: result(result, tool, request)

  defp result({:error, reason}, _tool, _request) do
    text = if is_exception(reason), do: safe_message(reason), else: reason_text(reason)
    failure(text, "returned", type_name(reason), [], python(reason))
  end

  defp result({:binary, bytes}, tool, request) when is_binary(bytes) do
    with %{success: true} = answer <- binary(bytes, tool, request),
         do: Map.put(answer, :result, Any.from_json("{}"))
  end

  # A worker is handed either of the two beside the message: the bytes.
  defp result({:binary, bytes, meta}, tool, request) when is_binary(bytes) do
    with %{success: true} = answer <- result(meta, tool, Map.delete(request, :asked)),
         do: Map.merge(answer, binary(bytes, tool, request))
  end

  # In the encoding of the request.
  defp result(term, tool, %{arguments_cbor: cbor} = request) when cbor != "" do
    case cbor(term, request) do
      {:ok, bytes} -> %{success: true, result_cbor: bytes}
      {:error, reason} -> not_encodable(reason, tool)
    end
  end

  defp result(term, tool, _request) do
    case Any.encode(term) do
      {:ok, any} -> %{success: true, result: any}
      {:error, reason} -> not_encodable(reason, tool)
    end
  end

  # A worker of ours reads it where the reply says that it lies.
  defp binary(bytes, tool, %{asked: asked, arguments_cbor: cbor})
       when is_reference(asked) and cbor != "" and bytes != "" do
    case Native.request_encode(asked, {:binary, bytes}) do
      {:ok, cbor} -> %{success: true, binary_cbor: cbor}
      {:error, reason} -> not_encodable(reason, tool)
    end
  end

  defp binary(bytes, _tool, _request), do: %{success: true, binary_result: bytes}

  defp cbor(term, request) do
    with {:error, {:encode_struct, _path}} <- encode(term, request),
         do: term |> Encoder.plain() |> encode(request)
  end

  defp encode(term, %{asked: asked}) when is_reference(asked),
    do: Native.request_encode(asked, term)

  defp encode(term, _request), do: Native.cbor_encode(term)

  defp not_encodable(reason, tool) do
    {path, what} =
      case reason do
        {:encode, path, what} -> {path, what}
        other -> {[], reason_text(other)}
      end

    place = Enum.map_join(path, &"[#{inspect(&1)}]")
    text = "the result of tool #{tool.name} cannot be encoded: result#{place} is #{what}"
    failure(text, "result", "EncodingError", [], nil)
  end

  defp crash(kind, error, stacktrace) do
    frames =
      stacktrace |> Enum.take(@max_frames) |> Enum.map(&Exception.format_stacktrace_entry/1)

    failure(
      crash_text(kind, error),
      Atom.to_string(kind),
      type_name(error),
      frames,
      python(error)
    )
  end

  defp crash_text(:error, error), do: safe_message(error)
  defp crash_text(:throw, %{original: {:nocatch, value}}), do: "thrown: #{inspect(value)}"

  defp crash_text(:exit, %{original: {:exit, reason}}),
    do: "exited: #{Exception.format_exit(reason)}"

  # A message is code of the user's, too.
  defp safe_message(error) do
    Exception.message(error)
  rescue
    _ -> inspect(error)
  end

  # What a Python tool raised, on its way back to Python.
  defp python(%{python_type: type, message: message} = error) when is_binary(type) do
    %{
      type: valid(type),
      message: valid(to_string(message)),
      traceback: valid(Map.get(error, :python_traceback) || "")
    }
  end

  defp python(_other), do: nil

  defp refusal(reason) do
    type = if is_tuple(reason), do: elem(reason, 0), else: reason
    failure(reason_text(reason), "refused", type_text(type), [], nil)
  end

  defp type_text(type) when is_atom(type), do: Atom.to_string(type)
  defp type_text(_type), do: "error"

  # Plain clients read the text, ours the structure.
  defp failure(text, kind, type, stacktrace, python) do
    text = valid(text)
    details = %{type: type, message: text, kind: kind, stacktrace: stacktrace}
    details = if python, do: Map.put(details, :python, python), else: details

    metadata =
      case Native.json_encode(details) do
        {:ok, json} -> %{"error" => json}
        {:error, _} -> %{}
      end

    %{success: false, error_message: text, metadata: metadata}
  end

  defp type_name(%module{}), do: inspect(module)
  defp type_name(_other), do: "error"

  # ---- tools of workers ---------------------------------------------------

  @doc "Runs a worker's tool for another client."
  @spec forward(map, map) :: answer
  def forward(tool, request) do
    with {:ok, params} <- parameters(request, %{}),
         opts = [binary_parameters: request.binary_parameters] ++ timeout(request.metadata),
         {:ok, result} <- ToolRegistry.execute_remote(tool, request.session_id, params, opts) do
      result(result, tool, request)
    else
      {:error, {:remote_tool_unreachable, _, _} = reason} -> refusal(reason)
      {:error, {:invalid_parameter, _, _} = reason} -> refusal(reason)
      {:error, reason} -> result({:error, reason}, tool, request)
    end
  end

  @doc "What the client allows for it, as an option of the call."
  @spec timeout(map) :: [timeout: pos_integer]
  def timeout(%{"timeout_ms" => text}) do
    case Integer.parse(text) do
      {ms, ""} when ms > 0 -> [timeout: ms]
      _ -> []
    end
  end

  def timeout(_metadata), do: []

  # ---- texts --------------------------------------------------------------

  @doc "Why something was refused."
  @spec reason_text(term) :: String.t()
  def reason_text(:invalid_arguments), do: "the arguments are not a map"
  def reason_text(reason) when is_atom(reason), do: Atom.to_string(reason)
  def reason_text(reason) when is_binary(reason), do: valid(reason)

  def reason_text({:tool_not_found, session, name}),
    do: "Tool '#{name}' not found in session '#{session}'"

  def reason_text({:tool_not_local, name}),
    do: "Tool '#{name}' belongs to a worker and is not an Elixir tool"

  def reason_text({:tool_not_exposed, name}),
    do:
      "Tool '#{name}' is not exposed; register it with exposed_to_python: true " <>
        "to let others call it"

  def reason_text({:remote_tool_unreachable, name, worker_id}),
    do: "Tool '#{name}' belongs to worker '#{worker_id}', which cannot be reached from here"

  def reason_text({:invalid_parameter, key, {:decode, text}}),
    do: "parameter '#{key}' is not JSON: #{text}"

  def reason_text(reason), do: inspect(reason)

  @doc "Text that can be sent."
  @spec valid(binary) :: String.t()
  def valid(text) do
    if String.valid?(text), do: text, else: inspect(text)
  end
end
