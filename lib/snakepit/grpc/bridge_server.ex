defmodule Snakepit.GRPC.BridgeServer do
  @moduledoc """
  The BEAM's side of `snakepit.bridge.BridgeService`: sessions, and Elixir tools
  for Python and any other gRPC client.

  Each handler takes the request, a map with the fields of the message, and the
  call's `t:context/0`; it returns the reply, a map likewise, or
  `{:error, status, text}`.
  """

  alias Snakepit.Bridge.{Any, SessionStore, ToolRegistry}
  alias Snakepit.Native

  @service "snakepit.bridge.BridgeService"

  # Method => handler, request, reply.
  @methods %{
    "Ping" => {:ping, :PingRequest, :PingResponse},
    "InitializeSession" =>
      {:initialize_session, :InitializeSessionRequest, :InitializeSessionResponse},
    "CleanupSession" => {:cleanup_session, :CleanupSessionRequest, :CleanupSessionResponse},
    "GetSession" => {:get_session, :GetSessionRequest, :GetSessionResponse},
    "Heartbeat" => {:heartbeat, :HeartbeatRequest, :HeartbeatResponse},
    "ExecuteTool" => {:execute_tool, :ExecuteToolRequest, :ExecuteToolResponse},
    "ExecuteStreamingTool" => {:execute_streaming_tool, :ExecuteToolRequest, :ToolChunk},
    "RegisterTools" => {:register_tools, :RegisterToolsRequest, :RegisterToolsResponse},
    "GetExposedElixirTools" =>
      {:get_exposed_elixir_tools, :GetExposedElixirToolsRequest, :GetExposedElixirToolsResponse},
    "ExecuteElixirTool" =>
      {:execute_elixir_tool, :ExecuteElixirToolRequest, :ExecuteElixirToolResponse}
  }

  @invalid_argument 3
  @not_found 5
  @unimplemented 12
  @internal 13

  # Beyond that a stack trace tells nothing more.
  @max_frames 32

  @typedoc "`headers` are the call's metadata; `time_left` is in milliseconds."
  @type context :: %{
          optional(:headers) => [{String.t(), binary}],
          optional(:time_left) => timeout
        }
  @type failure :: {:error, status :: 1..16, text :: String.t()}
  @type answer :: map | failure

  @doc "The name of the service."
  @spec service_name(term) :: String.t()
  def service_name(_ignored \\ nil), do: @service

  @doc "The methods that are served, as gRPC names them."
  @spec methods() :: [String.t()]
  def methods, do: for({name, _} <- @methods, do: "/#{@service}/#{name}")

  @doc "Answers one call, bytes to bytes."
  @spec handle(String.t(), binary, context) :: {:ok, binary} | failure
  def handle("/" <> @service <> "/" <> name = method, bytes, context) do
    case @methods do
      %{^name => {handler, request, reply}} -> handle(handler, request, reply, bytes, context)
      _ -> unimplemented(method)
    end
  end

  def handle(method, _bytes, _context), do: unimplemented(method)

  defp handle(handler, request, reply, bytes, context) do
    with {:ok, request} <- Native.message_decode(request, bytes),
         %{} = answer <- apply(__MODULE__, handler, [request, context]) do
      encode(reply, answer)
    else
      {:error, {:decode, text}} -> {:error, @invalid_argument, text}
      {:error, _status, _text} = failure -> failure
    end
  end

  defp encode(reply, answer) do
    with {:error, {:encode, path, text}} <- Native.message_encode(reply, answer),
         do: {:error, @internal, "#{reply}: #{inspect(path)} #{text}"}
  end

  defp unimplemented(method), do: {:error, @unimplemented, "there is no method #{method}"}

  # ---- sessions -----------------------------------------------------------

  @doc "Ping"
  @spec ping(map, context) :: answer
  def ping(_request, _context), do: %{message: "pong", server_time: timestamp()}

  @doc "InitializeSession"
  @spec initialize_session(map, context) :: answer
  def initialize_session(request, _context) do
    case SessionStore.create_session(request.session_id, metadata: request.metadata) do
      {:ok, session} ->
        tools = ToolRegistry.list_exposed_elixir_tools(session.id)
        %{success: true, available_tools: Map.new(tools, &{&1.name, tool_spec(&1)})}

      {:error, reason} ->
        {:error, @internal, reason_text(reason)}
    end
  end

  @doc "CleanupSession"
  @spec cleanup_session(map, context) :: answer
  def cleanup_session(request, _context) do
    SessionStore.delete_session(request.session_id)
    %{success: true, resources_cleaned: 1}
  end

  @doc "GetSession"
  @spec get_session(map, context) :: answer
  def get_session(request, _context) do
    case SessionStore.get_session(request.session_id) do
      {:ok, session} ->
        %{
          session_id: session.id,
          metadata: text_map(session.metadata),
          created_at: %{seconds: session.created_at + System.time_offset(:second)},
          tool_count: ToolRegistry.count_tools(session.id)
        }

      {:error, :not_found} ->
        {:error, @not_found, "there is no session #{inspect(request.session_id)}"}
    end
  end

  @doc "Heartbeat"
  @spec heartbeat(map, context) :: answer
  def heartbeat(request, _context) do
    valid? = match?({:ok, _}, SessionStore.get_session(request.session_id))
    %{server_time: timestamp(), session_valid: valid?}
  end

  # ---- tools --------------------------------------------------------------

  @doc "RegisterTools"
  @spec register_tools(map, context) :: answer
  def register_tools(request, _context) do
    session_id = request.session_id

    with :ok <- worker_session(session_id, request.worker_id),
         specs = Enum.map(request.tools, &registration(&1, request.worker_id)),
         {:ok, names} <- ToolRegistry.register_tools(session_id, specs) do
      %{success: true, tool_ids: Map.new(names, &{&1, "#{session_id}:#{&1}"})}
    else
      {:error, reason} -> %{success: false, error_message: reason_text(reason)}
    end
  end

  # The session of a worker of ours begins when it registers its tools; others
  # have to begin theirs first.
  defp worker_session(session_id, worker_id) do
    cond do
      SessionStore.session_exists?(session_id) -> :ok
      not worker?(worker_id) -> {:error, :not_found}
      true -> with {:ok, _} <- SessionStore.create_session(session_id), do: :ok
    end
  end

  defp worker?(worker_id) do
    Process.whereis(Snakepit.Pool.Registry) != nil and
      Snakepit.Pool.Registry.worker_exists?(worker_id)
  end

  defp registration(tool, worker_id) do
    %{
      name: tool.name,
      worker_id: worker_id,
      description: tool.description,
      parameters: tool.parameters,
      metadata: Map.put(tool.metadata, "supports_streaming", to_string(tool.supports_streaming))
    }
  end

  @doc "GetExposedElixirTools"
  @spec get_exposed_elixir_tools(map, context) :: answer
  def get_exposed_elixir_tools(request, _context) do
    tools = ToolRegistry.list_exposed_elixir_tools(request.session_id)
    %{tools: Enum.map(tools, &tool_spec/1)}
  end

  @doc "ExecuteElixirTool: only exposed tools."
  @spec execute_elixir_tool(map, context) :: answer
  def execute_elixir_tool(request, context) do
    run(request, %{}, context, fn
      %{type: :remote} = tool -> {:error, {:tool_not_local, tool.name}}
      %{exposed_to_python: false} = tool -> {:error, {:tool_not_exposed, tool.name}}
      tool -> {:ok, tool}
    end)
  end

  @doc "ExecuteTool: any Elixir tool of the session."
  @spec execute_tool(map, context) :: answer
  def execute_tool(request, context) do
    binaries = Map.new(request.binary_parameters, fn {k, v} -> {k, {:binary, v}} end)

    answer =
      run(request, binaries, context, fn
        %{type: :remote} = tool -> {:error, {:remote_tool_unreachable, tool.name, tool.worker_id}}
        tool -> {:ok, tool}
      end)

    put_in(answer, [:metadata, "tool_type"], "local")
  end

  @doc "ExecuteStreamingTool: Elixir tools cannot stream."
  @spec execute_streaming_tool(map, context) :: answer
  def execute_streaming_tool(request, _context) do
    with {:ok, tool} <- find(request),
         {:ok, _params} <- parameters(request, %{}) do
      {:error, @unimplemented, "Streaming not supported for tool #{tool.name}"}
    else
      {:error, {:invalid_parameter, _, _} = reason} ->
        {:error, @invalid_argument, reason_text(reason)}

      {:error, reason} ->
        {:error, @not_found, reason_text(reason)}
    end
  end

  # ---- running an Elixir tool ---------------------------------------------

  defp run(request, binaries, context, allowed) do
    started = System.monotonic_time()
    Logger.metadata(correlation_id: correlation_id(request, context))

    answer =
      with {:ok, tool} <- find(request),
           {:ok, tool} <- allowed.(tool),
           {:ok, params} <- parameters(request, binaries),
           {:ok, result} <- ToolRegistry.run(tool, params) do
        result(result, tool)
      else
        {:failed, kind, error, stacktrace} -> crash(kind, error, stacktrace)
        {:error, reason} -> %{success: false, error_message: reason_text(reason)}
      end

    taken = System.monotonic_time() - started
    ms = System.convert_time_unit(taken, :native, :millisecond)
    metadata = Map.put(answer[:metadata] || %{}, "execution_time", to_string(ms))
    Map.merge(answer, %{execution_time_ms: ms, metadata: metadata})
  end

  # Tools for all sessions are there for callers without one.
  defp find(%{session_id: session_id, tool_name: name}) do
    known? = match?({:ok, _}, SessionStore.get_session(session_id))

    if known? or ToolRegistry.everywhere?(session_id, name),
      do: ToolRegistry.get_tool(session_id, name),
      else: {:error, :not_found}
  end

  defp parameters(request, binaries) do
    request.parameters
    |> Map.delete("correlation_id")
    |> Enum.reduce_while({:ok, binaries}, fn {key, any}, {:ok, params} ->
      case Any.decode(any) do
        {:ok, value} -> {:cont, {:ok, Map.put_new(params, key, value)}}
        {:error, reason} -> {:halt, {:error, {:invalid_parameter, key, reason}}}
      end
    end)
  end

  defp correlation_id(request, context) do
    header = List.keyfind(context[:headers] || [], "x-snakepit-correlation-id", 0)

    [request.metadata["correlation_id"], parameter_id(request), header && elem(header, 1)]
    |> Enum.find(&(is_binary(&1) and &1 != "")) || new_correlation_id()
  end

  @doc false
  @spec new_correlation_id() :: String.t()
  def new_correlation_id,
    do: "sp-" <> Base.encode16(:crypto.strong_rand_bytes(12), case: :lower)

  defp parameter_id(%{parameters: %{"correlation_id" => any}}) do
    with {:ok, id} <- Any.decode(any), do: id
  end

  defp parameter_id(_request), do: nil

  # A tool may also say how it went.
  defp result({:ok, result}, tool), do: result(result, tool)

  defp result({:error, reason}, _tool) do
    text = if is_exception(reason), do: Exception.message(reason), else: reason_text(reason)
    failure(text, %{type: type_name(reason), message: text, kind: "returned", stacktrace: []})
  end

  defp result({:binary, bytes}, _tool) when is_binary(bytes),
    do: %{success: true, binary_result: bytes, result: Any.from_json("{}")}

  defp result({:binary, bytes, meta}, tool) when is_binary(bytes) do
    with %{success: true} = answer <- result(meta, tool),
         do: Map.put(answer, :binary_result, bytes)
  end

  defp result(term, tool) do
    case Any.encode(term) do
      {:ok, any} -> %{success: true, result: any}
      {:error, reason} -> not_encodable(reason, tool)
    end
  end

  defp not_encodable(reason, tool) do
    {path, what} =
      case reason do
        {:encode, path, what} -> {path, what}
        other -> {[], reason_text(other)}
      end

    place = Enum.map_join(path, &"[#{inspect(&1)}]")
    text = "the result of tool #{tool.name} cannot be encoded: result#{place} is #{what}"
    failure(text, %{type: "EncodingError", message: text, kind: "result", stacktrace: []})
  end

  defp crash(kind, error, stacktrace) do
    text = crash_text(kind, error)

    failure(text, %{
      type: type_name(error),
      message: text,
      kind: kind,
      stacktrace:
        stacktrace |> Enum.take(@max_frames) |> Enum.map(&Exception.format_stacktrace_entry/1)
    })
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

  # Plain clients read the text, ours the structure.
  defp failure(text, details) do
    text = valid(text)
    details = %{details | message: text}

    metadata =
      case Native.json_encode(details) do
        {:ok, json} -> %{"error" => json}
        {:error, _} -> %{}
      end

    %{success: false, error_message: text, metadata: metadata}
  end

  defp type_name(%module{}), do: inspect(module)
  defp type_name(_other), do: "error"

  # ---- texts --------------------------------------------------------------

  defp reason_text(reason) when is_atom(reason), do: Atom.to_string(reason)
  defp reason_text(reason) when is_binary(reason), do: valid(reason)

  defp reason_text({:tool_not_found, session, name}),
    do: "Tool '#{name}' not found in session '#{session}'"

  defp reason_text({:tool_not_local, name}),
    do: "Tool '#{name}' belongs to a worker and is not an Elixir tool"

  defp reason_text({:tool_not_exposed, name}),
    do:
      "Tool '#{name}' is not exposed; register it with exposed_to_python: true " <>
        "to let others call it"

  defp reason_text({:remote_tool_unreachable, name, worker_id}),
    do: "Tool '#{name}' belongs to worker '#{worker_id}', which cannot be reached from here"

  defp reason_text({:invalid_parameter, key, {:decode, text}}),
    do: "parameter '#{key}' is not JSON: #{text}"

  defp reason_text(reason), do: inspect(reason)

  defp valid(text) do
    if String.valid?(text), do: text, else: inspect(text)
  end

  defp text_map(map), do: Map.new(map, fn {key, value} -> {text(key), text(value)} end)

  defp text(value) when is_binary(value), do: valid(value)
  defp text(value) when is_atom(value) or is_number(value), do: to_string(value)

  defp text(value) do
    case Any.encode(value) do
      {:ok, %{value: json}} -> json
      {:error, _} -> inspect(value)
    end
  end

  # ---- messages -----------------------------------------------------------

  defp tool_spec(tool) do
    %{
      name: tool.name,
      description: valid(tool.description),
      parameters: Enum.map(tool.parameters, &parameter_spec/1),
      metadata: tool.metadata |> Map.drop([:parameters, "parameters"]) |> text_map()
    }
  end

  defp parameter_spec(parameter) do
    get = fn key -> Map.get(parameter, key, Map.get(parameter, Atom.to_string(key))) end

    %{
      name: text(get.(:name) || ""),
      type: text(get.(:type) || "any"),
      description: text(get.(:description) || ""),
      required: get.(:required) in [true, "true"],
      default_value: default(parameter),
      validation_json: validation(get.(:validation) || get.(:validation_json))
    }
  end

  defp default(parameter) do
    with :error <- Map.fetch(parameter, :default), :error <- Map.fetch(parameter, "default") do
      nil
    else
      {:ok, value} ->
        case Any.encode(value) do
          {:ok, any} -> any
          {:error, _} -> Any.from_json(Native.json_encode(inspect(value)) |> elem(1))
        end
    end
  end

  defp validation(nil), do: ""
  defp validation(json) when is_binary(json), do: valid(json)
  defp validation(rules), do: text(rules)

  defp timestamp do
    now = System.os_time(:nanosecond)
    %{seconds: Integer.floor_div(now, 1_000_000_000), nanos: Integer.mod(now, 1_000_000_000)}
  end
end
