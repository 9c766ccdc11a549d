defmodule Snakepit.GRPC.BridgeServer do
  @moduledoc """
  The BEAM's side of `snakepit.bridge.BridgeService`: sessions, and Elixir tools
  for Python and any other gRPC client.

  Each handler takes the request, as the struct of the message or a map with its
  fields, and the call's `t:context/0` (`%{}` for none); it returns the reply, a
  struct such as `Snakepit.Bridge.PingResponse`, or `{:error, status, text}`.
  """

  alias Snakepit.Bridge.{Any, SessionStore, ToolCall, ToolRegistry, ToolStream}

  alias Snakepit.Bridge.{
    CleanupSessionResponse,
    ExecuteElixirToolResponse,
    ExecuteToolResponse,
    GetExposedElixirToolsResponse,
    GetSessionResponse,
    HeartbeatResponse,
    InitializeSessionResponse,
    ParameterSpec,
    PingResponse,
    RegisterToolsResponse,
    ToolSpec
  }

  alias Snakepit.Native

  import Snakepit.Bridge.ToolCall, only: [reason_text: 1, valid: 1]

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
  @unavailable 14

  # By their places in the service, from 1; StreamTelemetry is the worker's.
  @places {"Ping", "InitializeSession", "CleanupSession", "GetSession", "Heartbeat",
           "ExecuteTool", "ExecuteStreamingTool", "RegisterTools", "GetExposedElixirTools",
           "ExecuteElixirTool", "StreamTelemetry"}

  @typedoc """
  `headers` are the call's metadata; `time_left` is in milliseconds; `call` is there
  for a gRPC call, whose handler may stream; `worker` and `request` are there when a
  worker of ours asks over shared memory.
  """
  @type context :: %{
          optional(:headers) => [{String.t(), binary}],
          optional(:time_left) => timeout,
          optional(:call) => reference,
          optional(:worker) => %{id: String.t(), pool: atom},
          optional(:request) => reference
        }
  @type failure :: {:error, status :: 1..16, text :: String.t()}
  @type answer :: map | failure

  @doc "The name of the service."
  @spec service_name(term) :: String.t()
  def service_name(_ignored \\ nil), do: @service

  @doc "The methods that are served, as gRPC names them."
  @spec methods() :: [String.t()]
  def methods, do: for({name, _} <- @methods, do: "/#{@service}/#{name}")

  @doc """
  Answers one call, bytes to bytes; `method` is its path, or its place in the service.
  `:done` when all was sent already.
  """
  @spec handle(method :: String.t() | non_neg_integer, binary, context) ::
          {:ok, binary} | :done | failure
  def handle(place, bytes, context) when place in 1..tuple_size(@places)//1 do
    name = elem(@places, place - 1)

    # Over shared memory there are no streams.
    case @methods do
      %{^name => {handler, request, reply}} when name != "ExecuteStreamingTool" ->
        handle(handler, request, reply, bytes, context)

      _ ->
        unimplemented(name)
    end
  end

  def handle(place, _bytes, _context) when is_integer(place), do: unimplemented(place)

  def handle("/" <> @service <> "/" <> name = method, bytes, context) do
    case @methods do
      %{^name => {handler, request, reply}} -> handle(handler, request, reply, bytes, context)
      _ -> unimplemented(method)
    end
  end

  def handle(method, _bytes, _context), do: unimplemented(method)

  defp handle(handler, request, reply, bytes, context) do
    with {:ok, request} <- decode(request, bytes),
         %{} = answer <- apply(__MODULE__, handler, [request, context]) do
      encode(reply, answer)
    else
      :done -> :done
      {:error, {:decode, text}} -> {:error, @invalid_argument, text}
      {:error, _status, _text} = failure -> failure
    end
  end

  # What a local worker sent beside the message belongs to the arguments in it.
  defp decode(name, {bytes, beside}) do
    with {:ok, request} <- Native.message_decode(name, bytes),
         do: {:ok, Map.put(request, :beside, beside)}
  end

  defp decode(name, bytes), do: Native.message_decode(name, bytes)

  defp encode(reply, answer) do
    with {:error, {:encode, path, text}} <- Native.message_encode(reply, answer),
         do: {:error, @internal, "#{reply}: #{inspect(path)} #{text}"}
  end

  defp unimplemented(method), do: {:error, @unimplemented, "there is no method #{method}"}

  # ---- sessions -----------------------------------------------------------

  @doc "Ping"
  @spec ping(map, context) :: answer
  def ping(_request, _context), do: %PingResponse{message: "pong", server_time: timestamp()}

  @doc "InitializeSession"
  @spec initialize_session(map, context) :: answer
  def initialize_session(request, _context) do
    case SessionStore.create_session(request.session_id, metadata: request.metadata) do
      {:ok, session} ->
        tools = ToolRegistry.list_exposed_elixir_tools(session.id)

        %InitializeSessionResponse{
          success: true,
          available_tools: Map.new(tools, &{&1.name, tool_spec(&1)})
        }

      {:error, reason} ->
        {:error, @internal, reason_text(reason)}
    end
  end

  @doc "CleanupSession"
  @spec cleanup_session(map, context) :: answer
  def cleanup_session(request, _context) do
    SessionStore.delete_session(request.session_id)
    %CleanupSessionResponse{success: true, resources_cleaned: 1}
  end

  @doc "GetSession"
  @spec get_session(map, context) :: answer
  def get_session(request, _context) do
    case SessionStore.get_session(request.session_id) do
      {:ok, session} ->
        %GetSessionResponse{
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
    %HeartbeatResponse{server_time: timestamp(), session_valid: valid?}
  end

  # ---- tools --------------------------------------------------------------

  @doc "RegisterTools"
  @spec register_tools(map, context) :: answer
  def register_tools(request, context) do
    session_id = request.session_id
    worker_id = if worker = context[:worker], do: worker.id, else: request.worker_id

    with :ok <- worker_session(session_id, worker_id),
         specs = Enum.map(request.tools, &registration(&1, worker_id)),
         {:ok, names} <- ToolRegistry.register_tools(session_id, specs) do
      tool_ids = Map.new(names, &{&1, "#{session_id}:#{&1}"})
      %RegisterToolsResponse{success: true, tool_ids: tool_ids}
    else
      {:error, reason} -> %RegisterToolsResponse{error_message: reason_text(reason)}
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
    %GetExposedElixirToolsResponse{tools: Enum.map(tools, &tool_spec/1)}
  end

  @doc "ExecuteElixirTool: only exposed tools."
  @spec execute_elixir_tool(map, context) :: answer
  def execute_elixir_tool(request, context) do
    request
    |> ToolCall.run(%{}, context, fn
      %{type: :remote} = tool -> {:error, {:tool_not_local, tool.name}}
      %{exposed_to_python: false} = tool -> {:error, {:tool_not_exposed, tool.name}}
      tool -> {:ok, tool}
    end)
    |> timed(context)
    |> as(ExecuteElixirToolResponse)
  end

  @doc "ExecuteTool: any Elixir tool of the session, or one of a worker of ours."
  @spec execute_tool(map, context) :: answer
  def execute_tool(request, context) do
    binaries = Map.new(request.binary_parameters, fn {k, v} -> {k, {:binary, v}} end)

    case ToolCall.find(request, context[:worker]) do
      {:ok, %{type: :remote} = tool} ->
        tool
        |> remote(request)
        |> timed(context)
        |> put_in([:metadata, "tool_type"], "remote")
        |> as(ExecuteToolResponse)

      _local_or_none ->
        request
        |> ToolCall.run(binaries, context, &{:ok, &1})
        |> timed(context)
        |> put_in([:metadata, "tool_type"], "local")
        |> as(ExecuteToolResponse)
    end
  end

  defp remote(tool, request) do
    started = System.monotonic_time(:millisecond)
    answer = ToolCall.forward(tool, request)
    Map.put(answer, :execution_time_ms, System.monotonic_time(:millisecond) - started)
  end

  # As published; a worker over shared memory does not read it.
  defp timed(answer, %{worker: _}), do: Map.put_new(answer, :metadata, %{})

  defp timed(answer, _context) do
    metadata = answer[:metadata] || %{}
    ms = Integer.to_string(answer.execution_time_ms)
    Map.put(answer, :metadata, Map.put(metadata, "execution_time", ms))
  end

  @doc "ExecuteStreamingTool: tools of workers that stream. Elixir tools do not."
  @spec execute_streaming_tool(map, context) :: :done | failure
  def execute_streaming_tool(request, context) do
    with {:ok, tool} <- ToolCall.find(request, nil),
         {:ok, params} <- ToolCall.parameters(request, %{}),
         :ok <- streams(tool, context),
         :ok <- ToolStream.forward(tool, params, request, context) do
      :done
    else
      {:error, :streaming, text} ->
        {:error, @unimplemented, text}

      {:error, :cancelled} ->
        {:error, @unavailable, "the client has gone"}

      {:error, {:failed, text}} ->
        {:error, @internal, text}

      {:error, {:invalid_parameter, _, _} = reason} ->
        {:error, @invalid_argument, reason_text(reason)}

      {:error, :invalid_arguments} ->
        {:error, @invalid_argument, reason_text(:invalid_arguments)}

      {:error, reason} ->
        {:error, @not_found, reason_text(reason)}
    end
  end

  # Only a gRPC call can be streamed to.
  defp streams(%{type: :remote} = tool, %{call: _}) do
    said = Map.get(tool.metadata, "supports_streaming", tool.metadata[:supports_streaming])
    if said in [true, "true", "1", 1], do: :ok, else: no_streaming(tool)
  end

  defp streams(tool, _context), do: no_streaming(tool)

  defp no_streaming(tool),
    do: {:error, :streaming, "Streaming not supported for tool #{tool.name}"}

  # ---- texts --------------------------------------------------------------

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

  defp as(answer, message), do: struct!(message, answer)

  defp tool_spec(tool) do
    %ToolSpec{
      name: tool.name,
      description: valid(tool.description),
      parameters: Enum.map(tool.parameters, &parameter_spec/1),
      metadata: tool.metadata |> Map.drop([:parameters, "parameters"]) |> text_map()
    }
  end

  defp parameter_spec(parameter) do
    get = fn key -> Map.get(parameter, key, Map.get(parameter, Atom.to_string(key))) end

    %ParameterSpec{
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
