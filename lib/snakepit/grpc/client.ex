defmodule Snakepit.GRPC.Client do
  @moduledoc """
  Speaks `snakepit.bridge.BridgeService` with one server: a worker, the BEAM of
  another node, or any other that serves it.

      {:ok, channel} = Client.connect(50051)
      {:ok, %{message: _}} = Client.ping(channel, "hello")
      {:ok, 5} = Client.execute_tool(channel, "s1", "add", %{a: 2, b: 3})

  Every function takes `:timeout` (ms or `:infinity`) as an option. Errors of the
  transport are `:timeout`, `:unavailable`, `:not_found`, `:invalid_argument` and
  `:internal`, others `Snakepit.Error`s with their `:grpc_status`; exceptions of a
  Python tool are `Snakepit.Error.ValueError` and its siblings.
  """

  alias Snakepit.Bridge.{Any, Message, ToolCall, ToolChunk}

  alias Snakepit.Bridge.{
    CleanupSessionRequest,
    CleanupSessionResponse,
    GetSessionRequest,
    GetSessionResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    InitializeSessionRequest,
    InitializeSessionResponse,
    PingRequest,
    PingResponse,
    SessionConfig
  }

  alias Snakepit.{Defaults, Error, Native}
  alias Snakepit.Error.PythonException
  alias Snakepit.GRPC.{BridgeServer, Listener, Status, TLS, Token}

  @connect_timeout 5_000
  @call_timeout 10_000
  # A stream starts with so many chunks; half of them are given back at a time.
  @credit 16

  @type channel :: reference
  @type target :: :inet.port_number() | String.t()
  @type result :: {:ok, term} | {:error, term}

  @doc """
  A channel to a port of this host, or to `"host:port"` or `"unix:/path"`. There has
  to be a server: it is asked once. Retries are up to the caller.

  Options:

    * `:token`, shown with each call. A listener of this VM is shown its own without
      being told to (at `127.0.0.1`, `localhost` and `::1`); `token: nil` shows none
    * `:tls`: `true` to trust the system's certificates, or `[ca: "ca.pem"]` to trust
      those; `:cert` and `:key` where the server wants a certificate too; `:server_name`
      where the server's certificate does not name the target's host. Values are paths
      of PEM files, or their texts
    * `:timeout` of the first question, #{@connect_timeout} ms by default

  What is wrong with `:tls` is `{:error, {:tls, text}}`. A server whose certificate
  is not trusted is `{:error, :unavailable}`.
  """
  @spec connect(target, keyword) :: {:ok, channel} | {:error, term}
  def connect(target, opts \\ [])

  def connect(port, opts) when is_integer(port) and port in 1..65_535,
    do: connect("127.0.0.1:#{port}", opts)

  def connect(target, opts) when is_binary(target) do
    with {:ok, options} <- channel_options(target, opts),
         {:ok, channel} <- open(target, options) do
      timeout = Keyword.get(opts, :timeout, @connect_timeout)

      case ping(channel, "connection_test", timeout: timeout) do
        {:ok, _} ->
          {:ok, channel}

        {:error, reason} ->
          Native.channel_close(channel)
          {:error, reason}
      end
    end
  end

  @doc "Ends a channel: calls that run go on to their end, new ones are `:unavailable`."
  @spec close(channel) :: :ok
  def close(channel), do: Native.channel_close(channel)

  defp open(target, options) do
    case Native.channel_open(target, options) do
      {:error, :tls} -> {:error, {:tls, "gRPC cannot use the certificates"}}
      channel -> {:ok, channel}
    end
  end

  defp channel_options(target, opts) do
    token = Keyword.get_lazy(opts, :token, fn -> own_token(target) end)
    options = if token, do: %{authorization: Token.header(token)}, else: %{}

    case opts[:tls] do
      none when none in [nil, false] ->
        {:ok, options}

      tls ->
        with {:error, text} <- TLS.load(tls, :client) do
          {:error, {:tls, text}}
        else
          {:ok, texts} -> {:ok, Map.put(options, :tls, texts)}
        end
    end
  end

  defp own_token(target) do
    with [_, port] <- Regex.run(~r/\A(?:127\.0\.0\.1|localhost|\[::1\]):(\d{1,5})\z/, target),
         do: port |> String.to_integer() |> Listener.token_at()
  end

  @doc "Whether it is there: `{:ok, %Snakepit.Bridge.PingResponse{}}`."
  @spec ping(channel, String.t(), keyword) :: {:ok, PingResponse.t()} | {:error, term}
  def ping(channel, message, opts \\ []),
    do: call(channel, "Ping", %PingRequest{message: message}, PingResponse, opts)

  @doc """
  Begins a session: `{:ok, %Snakepit.Bridge.InitializeSessionResponse{}}`. `config`
  is a `Snakepit.Bridge.SessionConfig` or a map with some of its fields.
  """
  @spec initialize_session(channel, String.t(), map, keyword) ::
          {:ok, InitializeSessionResponse.t()} | {:error, term}
  def initialize_session(channel, session_id, config \\ %{}, opts \\ []) do
    defaults = %SessionConfig{enable_caching: true, cache_ttl_seconds: 60}

    request = %InitializeSessionRequest{
      session_id: session_id,
      metadata: %{
        "elixir_node" => to_string(node()),
        "initialized_at" => DateTime.to_iso8601(DateTime.utc_now())
      },
      config: Map.merge(defaults, Map.take(config, Map.keys(defaults)))
    }

    call(channel, "InitializeSession", request, InitializeSessionResponse, opts)
  end

  @doc "Ends a session: `{:ok, %Snakepit.Bridge.CleanupSessionResponse{}}`."
  @spec cleanup_session(channel, String.t(), boolean, keyword) ::
          {:ok, CleanupSessionResponse.t()} | {:error, term}
  def cleanup_session(channel, session_id, force \\ false, opts \\ []) do
    request = %CleanupSessionRequest{session_id: session_id, force: force}
    call(channel, "CleanupSession", request, CleanupSessionResponse, opts)
  end

  @doc "`{:ok, %{session: %{id: _, active: true, created_at: _, metadata: _}}}`"
  @spec get_session(channel, String.t(), keyword) :: result
  def get_session(channel, session_id, opts \\ []) do
    request = %GetSessionRequest{session_id: session_id}

    with {:ok, reply} <- call(channel, "GetSession", request, GetSessionResponse, opts) do
      created_at = reply.created_at && DateTime.from_unix!(reply.created_at.seconds)

      session = %{
        id: reply.session_id,
        active: true,
        created_at: created_at,
        last_activity: DateTime.utc_now(),
        metadata: reply.metadata,
        tool_count: reply.tool_count
      }

      {:ok, %{session: session}}
    end
  end

  @doc "Keeps a session alive: `{:ok, %{success: true}}` when there is one."
  @spec heartbeat(channel, String.t(), keyword) :: result
  def heartbeat(channel, session_id, opts \\ []) do
    request = %HeartbeatRequest{session_id: session_id}

    with {:ok, reply} <- call(channel, "Heartbeat", request, HeartbeatResponse, opts),
         do: {:ok, %{success: reply.session_valid}}
  end

  @doc """
  Runs a tool. Options: `:timeout`, `:correlation_id`, `:metadata` (texts),
  `:binary_parameters` (binaries by name).
  """
  @spec execute_tool(channel, String.t(), String.t(), map, keyword) :: result
  def execute_tool(channel, session_id, tool_name, parameters, opts \\ []) do
    opts = Keyword.put_new(opts, :timeout, Defaults.grpc_client_execute_timeout())

    with {:ok, bytes, headers} <- tool_request(session_id, tool_name, parameters, false, opts),
         {:ok, bytes} <- unary(channel, "ExecuteTool", bytes, headers, opts) do
      response(Native.decode_response(bytes))
    end
  end

  @doc """
  Runs a tool that streams. The stream gives `{:ok, %Snakepit.Bridge.ToolChunk{}}`
  for each chunk, and `{:error, reason}` as the last when it failed. The call
  begins when the stream is read, ends when the reader stops, and is read in one
  process.
  """
  @spec execute_streaming_tool(channel, String.t(), String.t(), map, keyword) ::
          {:ok, Enumerable.t()} | {:error, term}
  def execute_streaming_tool(channel, session_id, tool_name, parameters, opts \\ []) do
    opts = Keyword.put_new(opts, :timeout, Defaults.grpc_worker_stream_timeout())

    with {:ok, bytes, headers} <- tool_request(session_id, tool_name, parameters, true, opts) do
      start = fn ->
        ref = make_ref()
        path = path("ExecuteStreamingTool")
        {:ok, rpc} = Native.rpc_stream(channel, ref, path, bytes, opts[:timeout], headers)
        %{ref: ref, rpc: rpc, taken: 0}
      end

      {:ok, Stream.resource(start, &next_chunk/1, &end_stream/1)}
    end
  end

  @doc "Runs a tool without a session of one's own."
  @spec execute(channel, String.t(), map, timeout | nil) :: result
  def execute(channel, command, args, timeout \\ nil) do
    opts = if timeout, do: [timeout: timeout], else: []
    execute_tool(channel, "default_session", command, args, opts)
  end

  @doc "Whether the server answers."
  @spec health(channel, String.t()) :: result
  def health(channel, client_id) do
    with {:ok, _} <- ping(channel, "health_check_#{client_id}"),
         do: {:ok, %{status: "healthy", client_id: client_id}}
  end

  @doc "What this client speaks."
  @spec get_info(channel) :: {:ok, map}
  def get_info(_channel) do
    {:ok,
     %{
       service: BridgeServer.service_name(),
       protocol: "grpc",
       client: "snakepit",
       version: to_string(Application.spec(:snakepit, :vsn) || "")
     }}
  end

  # ---- calls --------------------------------------------------------------

  defp path(method), do: "/#{BridgeServer.service_name()}/#{method}"

  defp call(channel, method, %module{} = request, reply, opts) do
    {name, _fields} = module.__message__()

    with {:ok, bytes} <- Native.message_encode(name, request),
         {:ok, bytes} <- unary(channel, method, bytes, [], opts),
         do: Message.decode(reply, bytes)
  end

  # The answer comes within the time-out: the native part sees to it.
  defp unary(channel, method, bytes, headers, opts) do
    ref = make_ref()
    timeout = Keyword.get(opts, :timeout, @call_timeout)
    {:ok, _rpc} = Native.rpc_unary(channel, ref, path(method), bytes, timeout, headers)

    receive do
      {^ref, {:ok, bytes}} -> {:ok, bytes}
      {^ref, {:error, reason}} -> {:error, reason(reason)}
    end
  end

  defp tool_request(session_id, tool_name, parameters, stream?, opts) do
    {given, parameters} = pop_correlation(parameters)
    id = opts[:correlation_id] || given || ToolCall.new_correlation_id()
    metadata = opts[:metadata] |> Kernel.||(%{}) |> Map.new() |> Map.put("correlation_id", id)

    with {:ok, parameters} <- encode_parameters(parameters),
         {:ok, binaries} <- binaries(opts[:binary_parameters]),
         {:ok, bytes} <-
           Native.message_encode(:ExecuteToolRequest, %{
             session_id: session_id,
             tool_name: tool_name,
             parameters: parameters,
             metadata: metadata,
             stream: stream?,
             binary_parameters: binaries
           }) do
      {:ok, bytes, [{"x-snakepit-correlation-id", id}]}
    end
  end

  defp pop_correlation(parameters) do
    {by_atom, parameters} = parameters |> Map.new() |> Map.pop(:correlation_id)
    {by_text, parameters} = Map.pop(parameters, "correlation_id")
    {by_atom || by_text, parameters}
  end

  defp encode_parameters(parameters) do
    Enum.reduce_while(parameters, {:ok, %{}}, fn {key, value}, {:ok, done} ->
      case Any.encode(value) do
        {:ok, any} -> {:cont, {:ok, Map.put(done, to_string(key), any)}}
        {:error, reason} -> {:halt, {:error, {:invalid_parameter, key, reason}}}
      end
    end)
  end

  defp binaries(map) when is_map(map) do
    case Enum.find(map, fn {_key, value} -> not is_binary(value) end) do
      nil -> {:ok, Map.new(map, fn {key, value} -> {to_string(key), value} end)}
      {key, _} -> {:error, {:invalid_parameter, key, :not_binary}}
    end
  end

  defp binaries(_other), do: {:ok, %{}}

  # ---- answers ------------------------------------------------------------

  defp response({:ok, term}), do: {:ok, term}
  defp response({:binary, bytes, meta}) when meta in [nil, %{}], do: {:ok, {:binary, bytes}}
  defp response({:binary, bytes, meta}), do: {:ok, {:binary, bytes, meta}}

  defp response({:tool_error, %{"type" => type, "message" => message} = info})
       when is_binary(type) and is_binary(message),
       do: {:error, PythonException.from_wire(info)}

  defp response({:tool_error, text}), do: {:error, text}
  defp response({:error, reason}), do: {:error, reason}

  defp reason({:grpc, 4, _text}), do: :timeout
  defp reason({:grpc, status, _text}) when status in [3, 5, 13, 14], do: Status.name(status)

  defp reason({:grpc, status, text}) do
    Error.grpc_error(Status.name(status), text, %{reason: {:grpc, status, text}})
  end

  defp reason(other), do: other

  # ---- streams ------------------------------------------------------------

  defp next_chunk(%{ref: ref} = stream) do
    receive do
      {^ref, {:chunk, bytes}} ->
        {[Message.decode(ToolChunk, bytes)], credit(stream)}

      {^ref, :done} ->
        {:halt, %{stream | rpc: nil}}

      {^ref, {:error, reason}} ->
        {[{:error, reason(reason)}], Map.put(stream, :rpc, :ended)}
    after
      # Only after an end that was given out as an error.
      if(stream.rpc == :ended, do: 0, else: :infinity) -> {:halt, %{stream | rpc: nil}}
    end
  end

  defp credit(%{taken: taken} = stream) when taken + 1 < div(@credit, 2),
    do: %{stream | taken: taken + 1}

  defp credit(stream) do
    Native.call_credit(stream.rpc, div(@credit, 2))
    %{stream | taken: 0}
  end

  defp end_stream(%{rpc: rpc}) when rpc in [nil, :ended], do: :ok

  defp end_stream(%{rpc: rpc, ref: ref}) do
    case Native.call_cancel(rpc) do
      :ok -> flush(ref)
      :ended -> flush_end(ref)
    end
  end

  # Chunks that were on their way.
  defp flush(ref) do
    receive do
      {^ref, _} -> flush(ref)
    after
      0 -> :ok
    end
  end

  defp flush_end(ref) do
    receive do
      {^ref, {:chunk, _}} -> flush_end(ref)
      {^ref, _end} -> :ok
    end
  end
end
