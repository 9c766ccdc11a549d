defmodule Snakepit.GRPC.ClientTest do
  # Our client against a server of plain grpcio, written from the proto alone.
  use ExUnit.Case, async: true

  alias Snakepit.Error
  alias Snakepit.GRPC.{Client, ClientImpl}
  alias Snakepit.Test.Interop

  @patience 60_000

  setup_all do
    server = Interop.open("server.py", [])

    port =
      receive do
        {^server, {:data, {:eol, line}}} -> String.to_integer(line)
        {^server, {:exit_status, status}} -> flunk("the server ended with #{status}")
      after
        @patience -> flunk("the server does not start")
      end

    {:ok, port: port}
  end

  setup %{port: port} do
    {:ok, channel} = Client.connect(port)
    on_exit(fn -> Client.close(channel) end)
    {:ok, channel: channel, session: "c-#{System.unique_integer([:positive])}"}
  end

  test "every method", %{channel: channel, session: session} do
    assert {:ok, %{message: "you said hi", server_time: %{seconds: s}}} =
             Client.ping(channel, "hi")

    assert s > 1_700_000_000
    config = %{cache_ttl_seconds: 7, enable_telemetry: true, other: 1}
    assert {:ok, begun} = Client.initialize_session(channel, session, config)
    assert %{success: true, available_tools: %{"echo" => %{description: "Says it again"}}} = begun
    assert {:ok, %{session: got}} = Client.get_session(channel, session)
    assert %{id: ^session, active: true, tool_count: 3, last_activity: %DateTime{}} = got
    assert got.created_at == ~U[2023-11-14 22:13:20Z]
    assert got.metadata["elixir_node"] == to_string(node())
    assert {:ok, _, 0} = DateTime.from_iso8601(got.metadata["initialized_at"])
    assert got.metadata["config"] == "[true, 7, true]"
    assert {:ok, %{success: true}} = Client.heartbeat(channel, session)
    assert {:ok, ended} = Client.cleanup_session(channel, session, true)
    assert %{success: true, resources_cleaned: 11} = ended
    assert {:ok, %{success: false}} = Client.cleanup_session(channel, session)
    assert {:ok, %{success: false}} = Client.heartbeat(channel, session)
    assert {:error, :not_found} = Client.get_session(channel, session)
    assert {:ok, %{status: "healthy", client_id: "me"}} = Client.health(channel, "me")
    assert {:ok, %{service: "snakepit.bridge.BridgeService"}} = Client.get_info(channel)
  end

  test "values, both ways", %{channel: channel, session: session} do
    run = &Client.execute_tool(channel, session, &1, &2, &3)
    value = %{"n" => 2 ** 70, "x" => [1.5, nil, true, %{"é" => "ü"}]}
    assert {:ok, ^value} = run.("echo", value, [])
    assert {:ok, %{"a" => 1}} = run.("echo", [a: 1], [])
    assert {:ok, ["type.googleapis.com/google.protobuf.StringValue"]} = run.("urls", value, [])
    assert {:ok, nil} = run.("absent", %{}, [])
    assert {:ok, "<nope>"} = run.("not_json", %{}, [])
    assert {:ok, 2.0} = run.("double", %{}, [])
    assert {:ok, {:binary, <<0, 255>>}} = run.("binary", %{}, [])
    assert {:ok, {:binary, <<1>>, %{"shape" => [1]}}} = run.("binary_with_more", %{}, [])
    assert {:ok, {:binary, large}} = run.("large", %{}, [])
    assert byte_size(large) == 20_000_000
    assert {:ok, %{"t" => text}} = run.("echo", %{t: String.duplicate("x", 10_000_000)}, [])
    assert byte_size(text) == 10_000_000
    assert {:error, {:invalid_parameter, :p, {:encode, [], _}}} = run.("echo", %{p: self()}, [])

    assert {:error, {:invalid_parameter, :b, :not_binary}} =
             run.("echo", %{}, binary_parameters: %{b: 1})
  end

  test "what goes with a call", %{port: port, channel: channel, session: session} do
    opts = [
      metadata: [{"k", "v"}],
      binary_parameters: %{b: <<0::800>>},
      correlation_id: "mine",
      timeout: @patience
    ]

    assert {:ok, seen} = Client.execute_tool(channel, session, "seen", %{}, opts)

    assert seen == %{
             "session_id" => session,
             "stream" => false,
             "metadata" => %{"k" => "v", "correlation_id" => "mine"},
             "binaries" => %{"b" => 100},
             "headers" => %{"x-snakepit-correlation-id" => "mine"},
             "bounded" => true
           }

    assert {:ok, seen} = Client.execute_tool(channel, session, "seen", %{}, timeout: :infinity)
    assert seen["bounded"] == false
    assert "sp-" <> id = seen["headers"]["x-snakepit-correlation-id"]
    assert byte_size(id) == 24
    assert {:ok, %{"session_id" => "default_session"}} = Client.execute(channel, "seen", %{})
    {:ok, shows} = Client.connect("127.0.0.1:#{port}", token: "the token")
    assert {:ok, %{"headers" => headers}} = Client.execute(shows, "seen", %{}, @patience)
    assert headers["authorization"] == "Bearer the token"
  end

  test "what goes wrong", %{channel: channel, session: session} do
    run = &Client.execute_tool(channel, session, &1, &2, &3)
    assert {:error, %Error.KeyError{} = error} = run.("raises", %{}, [])
    assert error.message == "'k'"
    assert error.python_traceback =~ "KeyError"
    assert error.context["tool_name"] == "raises"
    assert {:error, "no"} = run.("says_no", %{}, [])

    for {code, reason} <- [
          {3, :invalid_argument},
          {4, :timeout},
          {5, :not_found},
          {13, :internal},
          {14, :unavailable}
        ],
        do: assert({:error, ^reason} = run.("aborts", %{code: code}, []))

    for {code, status} <- [{1, :cancelled}, {7, :permission_denied}, {12, :unimplemented}] do
      assert {:error, %Error{category: :grpc_error, grpc_status: ^status} = error} =
               run.("aborts", %{code: code}, [])

      assert error.message =~ "as asked: #{code}"
    end

    assert {:error, :timeout} = run.("slow", %{}, timeout: 50)
    :ok = Client.close(channel)
    assert {:error, :unavailable} = run.("echo", %{}, [])
  end

  test "streams", %{channel: channel, session: session} do
    stream = fn tool ->
      {:ok, stream} =
        Client.execute_streaming_tool(channel, session, tool, %{}, timeout: @patience)

      stream
    end

    chunks = Enum.map(stream.("counts"), fn {:ok, chunk} -> chunk end)
    assert length(chunks) == 101
    assert Enum.map(chunks, & &1.chunk_id) == Enum.map(1..101, &"c-#{&1}")
    assert hd(chunks).data == ~s({"n": 1})
    assert %{is_final: true, metadata: %{"why" => "over"}, data: ""} = List.last(chunks)
    {broken, [last]} = Enum.split(Enum.to_list(stream.("breaks")), 100)
    assert Enum.all?(broken, &match?({:ok, _}, &1))
    assert last == {:error, :internal}
    assert [{:ok, %{chunk_id: "c-1"}}, _, _] = Enum.take(stream.("endless"), 3)
    # The server was told.
    assert {:ok, true} = Client.execute_tool(channel, session, "streams_ended", %{})
    refute_received _
  end

  test "the older name does the same", %{port: port, session: session} do
    assert {:ok, channel} = ClientImpl.connect(port)
    assert {:ok, %{"a" => 1}} = ClientImpl.execute_tool(channel, session, "echo", %{a: 1})
    assert {:ok, %{message: _}} = ClientImpl.ping(channel, "x")
  end
end
