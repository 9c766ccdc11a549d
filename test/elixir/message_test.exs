defmodule Snakepit.Bridge.MessageTest do
  use ExUnit.Case, async: true

  alias Snakepit.Bridge.{
    CleanupSessionRequest,
    CleanupSessionResponse,
    ExecuteElixirToolRequest,
    ExecuteElixirToolResponse,
    ExecuteToolRequest,
    ExecuteToolResponse,
    GetExposedElixirToolsRequest,
    GetExposedElixirToolsResponse,
    GetSessionRequest,
    HeartbeatRequest,
    HeartbeatResponse,
    InitializeSessionRequest,
    InitializeSessionResponse,
    Message,
    ParameterSpec,
    PingRequest,
    PingResponse,
    Proto,
    RegisterToolsRequest,
    RegisterToolsResponse,
    SessionConfig,
    SessionStore,
    TelemetryControl,
    TelemetryEvent,
    TelemetryEventFilter,
    TelemetrySamplingUpdate,
    TelemetryToggle,
    TelemetryValue,
    ToolChunk,
    ToolRegistration,
    ToolRegistry,
    ToolSpec
  }

  alias Snakepit.{GRPC, Native}
  alias Snakepit.GRPC.BridgeServer

  doctest Message

  @proto Path.expand("../../proto/snakepit_bridge.proto", __DIR__)

  defp messages, do: Proto.messages(File.read!(@proto))
  defp module(name), do: Module.concat(Snakepit.Bridge, name)
  defp again(%module{} = message), do: message |> module.encode() |> module.decode()

  # ---- all of them --------------------------------------------------------

  test "there is a struct for each message, with the defaults that the native part has" do
    assert length(messages()) > 30

    for {name, _fields} <- messages() do
      module = module(name)
      empty = struct!(module)
      assert module.new() == empty
      assert module.encode(empty) == ""
      assert module.decode("") == empty

      # Members of oneofs are not there until they are set.
      {:ok, native} = Native.message_decode(name, "")
      oneofs = for {key, nil} <- Map.from_struct(empty), not is_map_key(native, key), do: key
      assert empty |> Map.from_struct() |> Map.drop(oneofs) == native
    end
  end

  test "what is random comes back" do
    seed = System.unique_integer([:positive])
    :rand.seed(:exsss, {seed, 1, 2})
    all = Map.new(messages())

    for {name, _} <- messages(), _ <- 1..40 do
      message = random(name, all, 3)
      assert again(message) == message, "seed #{seed}: #{inspect(message)}"
    end
  end

  defp random(name, all, depth) do
    fields =
      all[name]
      |> Enum.chunk_by(&(&1.group || &1.name))
      |> Enum.map(fn
        [%{group: nil} = field] ->
          {field.name, random_field(field, all, depth)}

        members ->
          member = Enum.random(members)
          {member.group, Enum.random([nil, {member.name, value(member.kind, all, depth)}])}
      end)

    struct!(module(name), fields)
  end

  defp random_field(%{label: :list, kind: kind}, all, depth),
    do: for(_ <- some(), do: value(kind, all, depth))

  defp random_field(%{label: :map, kind: kind}, all, depth),
    do: for(_ <- some(), into: %{}, do: {value(:string, all, depth), value(kind, all, depth)})

  defp random_field(%{kind: kind}, all, depth) do
    optional? = kind in [:any, :timestamp] or is_tuple(kind)
    if optional? and (depth == 0 or coin()), do: nil, else: value(kind, all, depth)
  end

  defp some, do: Enum.take([1, 2, 3], :rand.uniform(4) - 1)
  defp coin, do: :rand.uniform(2) == 1

  defp value(:string, _, _), do: Enum.random(["", "a", "żółw", "line\n", "0"])
  defp value(:bytes, _, _), do: :rand.bytes(:rand.uniform(5) - 1)
  defp value(:bool, _, _), do: coin()
  defp value(:integer, _, _), do: Enum.random([0, 1, 2, 127, 128, 0x7FFFFFFF])
  defp value(:float, _, _), do: Enum.random([0.0, 1.5, -2.0e300])
  defp value(:any, all, depth), do: %{type_url: "u", value: value(:bytes, all, depth)}
  defp value(:timestamp, _, _), do: %{seconds: :rand.uniform(100), nanos: :rand.uniform(100)}
  defp value({:message, name}, all, depth), do: random(name, all, max(depth - 1, 0))

  # ---- single ones --------------------------------------------------------

  test "oneofs are one field" do
    for control <- [
          {:toggle, %TelemetryToggle{enabled: true}},
          {:sampling, %TelemetrySamplingUpdate{sampling_rate: 0.5, event_patterns: ["a.*"]}},
          {:filter, %TelemetryEventFilter{allow: ["a"], deny: ["b", "c"]}}
        ] do
      assert again(%TelemetryControl{control: control}) == %TelemetryControl{control: control}
    end

    event = %TelemetryEvent{
      event_parts: ["python", "call", "stop"],
      measurements: %{
        "duration" => %TelemetryValue{value: {:int_value, 7}},
        "rss" => %TelemetryValue{value: {:float_value, 0.0}}
      },
      timestamp_ns: 5
    }

    assert again(event) == event
  end

  test "the bytes are those of the protocol" do
    assert PingRequest.encode(%PingRequest{message: "hi"}) == <<10, 2, "hi">>
    assert PingRequest.decode(<<10, 2, "hi">>) == %PingRequest{message: "hi"}

    assert TelemetryControl.encode(%TelemetryControl{control: {:toggle, %TelemetryToggle{}}}) ==
             <<10, 0>>

    tool = %ToolSpec{
      name: "t",
      parameters: [%ParameterSpec{name: "p", default_value: %{type_url: "u", value: "1"}}]
    }

    {:ok, bytes} = Native.message_encode(:ToolSpec, Message.to_map(tool))
    assert ToolSpec.decode(bytes) == tool
  end

  test "nested messages may be maps, and an Any a struct of somebody's" do
    reply = %InitializeSessionResponse{available_tools: %{"t" => %{name: "t"}}}
    assert %{available_tools: %{"t" => %ToolSpec{name: "t"}}} = again(reply)

    assert %{config: %SessionConfig{enable_caching: true}} =
             again(%InitializeSessionRequest{config: %{enable_caching: true}})
  end

  test "what a field does not take is refused by its name" do
    assert_raise ArgumentError, ~r/^PingRequest.message is not/, fn ->
      PingRequest.encode(%PingRequest{message: 1})
    end

    assert_raise ArgumentError, ~r/^TelemetryControl.toggle.enabled is not/, fn ->
      TelemetryControl.encode(%TelemetryControl{control: {:toggle, %TelemetryToggle{enabled: 1}}})
    end

    assert_raise ArgumentError, ~r/PingRequest/, fn -> PingRequest.decode(<<10, 5, "x">>) end
    assert_raise KeyError, fn -> PingRequest.new(text: "x") end
    assert PingRequest.new(message: "x") == %PingRequest{message: "x"}
    assert PingRequest.new(%{message: "x"}) == %PingRequest{message: "x"}
  end

  # ---- where they are used ------------------------------------------------

  defp session do
    id = "message-test-#{System.pid()}-#{System.unique_integer([:positive])}"
    on_exit(fn -> SessionStore.delete_session(id) end)
    id
  end

  defp any(json), do: %{type_url: "", value: json}

  test "handlers take them and answer with them" do
    id = session()
    assert %PingResponse{message: "pong"} = BridgeServer.ping(%PingRequest{message: "x"}, nil)

    assert %InitializeSessionResponse{success: true} =
             BridgeServer.initialize_session(%InitializeSessionRequest{session_id: id}, %{})

    :ok =
      ToolRegistry.register_elixir_tool(id, "double", fn %{"x" => x} -> 2 * x end, %{
        exposed_to_python: true,
        description: "twice",
        parameters: [%{name: "x", type: "integer", required: true, default: 1}]
      })

    assert %GetExposedElixirToolsResponse{
             tools: [
               %ToolSpec{
                 name: "double",
                 parameters: [%ParameterSpec{name: "x", required: true, default_value: %{}}]
               }
             ]
           } =
             BridgeServer.get_exposed_elixir_tools(
               %GetExposedElixirToolsRequest{session_id: id},
               %{}
             )

    call = [session_id: id, tool_name: "double", parameters: %{"x" => any("21")}]

    assert %ExecuteToolResponse{success: true, result: %{value: "42"}} =
             BridgeServer.execute_tool(ExecuteToolRequest.new(call), %{})

    assert %ExecuteElixirToolResponse{success: true, result: %{value: "42"}} =
             BridgeServer.execute_elixir_tool(ExecuteElixirToolRequest.new(call), %{})

    assert %RegisterToolsResponse{success: false, error_message: text} =
             BridgeServer.register_tools(
               %RegisterToolsRequest{
                 session_id: id,
                 worker_id: "python-1",
                 tools: [%ToolRegistration{name: "double"}]
               },
               %{}
             )

    assert text =~ "duplicate_tool"

    assert %HeartbeatResponse{session_valid: true} =
             BridgeServer.heartbeat(%HeartbeatRequest{session_id: id}, %{})

    assert %{session_id: ^id, tool_count: 1} =
             BridgeServer.get_session(%GetSessionRequest{session_id: id}, %{})

    assert %CleanupSessionResponse{success: true, resources_cleaned: 1} =
             BridgeServer.cleanup_session(%CleanupSessionRequest{session_id: id}, %{})

    assert %HeartbeatResponse{session_valid: false} =
             BridgeServer.heartbeat(%HeartbeatRequest{session_id: id}, %{})
  end

  test "the client gives them" do
    start_supervised!({GRPC.Endpoint, name: nil}, id: :endpoint)
    |> then(&assert(is_pid(&1)))

    endpoint = start_supervised!({GRPC.Endpoint, name: __MODULE__.Endpoint, max_receive: 1_000})
    assert GRPC.Endpoint.services() == [BridgeServer]
    assert GRPC.Endpoint.port(endpoint) == GRPC.Endpoint.port(__MODULE__.Endpoint)
    {:ok, channel} = GRPC.ClientImpl.connect(GRPC.Endpoint.port(endpoint))
    id = session()
    assert {:ok, %PingResponse{server_time: %{seconds: _}}} = GRPC.Client.ping(channel, "hi")

    :ok = ToolRegistry.register_elixir_tool(id, "t", fn _ -> 1 end, %{exposed_to_python: true})

    assert {:ok, %InitializeSessionResponse{available_tools: %{"t" => %ToolSpec{name: "t"}}}} =
             GRPC.Client.initialize_session(channel, id, %SessionConfig{enable_telemetry: true})

    assert {:ok, %InitializeSessionResponse{success: true}} =
             GRPC.ClientImpl.initialize_session(channel, id, %{enable_caching: false})

    assert {:error, reason} =
             GRPC.Client.execute_tool(channel, id, "t", %{x: String.duplicate("x", 2_000)})

    assert inspect(reason) =~ "resource_exhausted"
    assert {:ok, 1} = GRPC.Client.execute_tool(channel, id, "t", %{})
    assert {:ok, %CleanupSessionResponse{}} = GRPC.Client.cleanup_session(channel, id)

    assert {:error, {:already_started, ^endpoint}} =
             GRPC.Endpoint.start_link(name: __MODULE__.Endpoint)
  end

  test "chunks are ToolChunks" do
    assert %ToolChunk{chunk_id: "", data: "", is_final: false, metadata: %{}} = ToolChunk.new()
    assert again(%ToolChunk{chunk_id: "t-1", data: "{}", is_final: true}).is_final
  end
end
