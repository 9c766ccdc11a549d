defmodule Snakepit.GRPC.BridgeServerTest do
  # Not async: the server's own tools are for all sessions.
  use ExUnit.Case, async: false

  alias Snakepit.Bridge.{SessionStore, ToolRegistry}
  alias Snakepit.GRPC.{BridgeServer, Client, Listener}
  alias Snakepit.{Error, Native}
  alias Snakepit.Test.Interop

  @patience 60_000

  setup do
    name = :"listener_#{System.unique_integer([:positive])}"
    listener = start_supervised!({Listener, name: name, config: internal()})
    session = "bridge-#{System.pid()}-#{System.unique_integer([:positive])}"

    {:ok, _} =
      SessionStore.create_session(session,
        metadata: %{"list" => [1, "two"], user: "ann", n: 1, pid: self()}
      )

    on_exit(fn -> SessionStore.delete_session(session) end)
    register_tools(session)
    port = Listener.info(name).port
    {:ok, listener: listener, port: port, session: session, address: "127.0.0.1:#{port}"}
  end

  defp internal do
    %{
      mode: :internal,
      host: "127.0.0.1",
      bind_host: "127.0.0.1",
      port: nil,
      base_port: nil,
      pool_size: nil
    }
  end

  defp external(port), do: %{internal() | mode: :external, port: port}

  # ---- the tools that client.py calls -------------------------------------

  defp register_tools(session) do
    test = self()

    {:ok, meeting} = Agent.start_link(fn -> [] end)
    {:ok, holders} = Agent.start_link(fn -> MapSet.new() end)

    expose(session, "add", fn %{"a" => a, "b" => b} -> a + b end, %{
      description: "Adds two numbers",
      owner: :me,
      parameters: [
        %{name: "a", type: "integer", required: true, validation: %{min: 0}},
        %{name: :b, type: "integer", default: 10}
      ]
    })

    ToolRegistry.register_elixir_tool(session, "hidden", fn _ -> :secret end)
    expose(session, "echo", & &1)
    expose(session, "wrapped", fn _ -> {:ok, "inside"} end)
    expose(session, "refuses", fn _ -> {:error, "not today"} end)
    expose(session, "date", fn _ -> ~D[2024-02-29] end)
    expose(session, "nothing", fn _ -> nil end)
    expose(session, "length", fn %{"text" => text} -> byte_size(text) end)
    expose(session, "binary", fn %{"size" => n} -> {:binary, :binary.copy(<<0>>, n)} end)

    expose(session, "binary_meta", fn %{"size" => n} ->
      {:binary, :binary.copy(<<0>>, n), %{size: n}}
    end)

    expose(session, "sizes", fn params ->
      Map.new(params, fn {key, {:binary, bytes}} -> {key, ["binary", byte_size(bytes)]} end)
    end)

    expose(session, "correlation", fn _ -> Logger.metadata()[:correlation_id] end)
    expose(session, "raise", fn %{"text" => text} -> raise ArgumentError, text end)
    expose(session, "throw", fn _ -> throw(:ball) end)
    expose(session, "exit", fn _ -> exit(:bye) end)
    expose(session, "clause", fn %{"never" => x} -> x end)
    expose(session, "unencodable", fn _ -> %{inner: [self()]} end)
    expose(session, "suicide", fn _ -> Process.exit(self(), :kill) end)
    expose(session, "holding", fn _ -> Agent.get(holders, &alive?/1) end)

    expose(session, "hold", fn _ ->
      me = self()
      Agent.update(holders, &MapSet.put(&1, me))
      send(test, {:holding, me})
      Process.sleep(:infinity)
    end)

    expose(session, "meet", fn %{"i" => i, "n" => n} -> meet(meeting, i, n) end)
  end

  defp expose(session, name, fun, metadata \\ %{}) do
    metadata = Map.put(metadata, :exposed_to_python, true)
    :ok = ToolRegistry.register_elixir_tool(session, name, fun, metadata)
  end

  defp alive?(pids), do: Enum.any?(pids, &Process.alive?/1)

  # Returns when `n` are here.
  defp meet(meeting, i, n) do
    me = self()

    all =
      Agent.get_and_update(meeting, fn waiting ->
        {[me | waiting], [me | waiting]}
      end)

    if length(all) == n, do: Enum.each(all, &send(&1, :all_here))
    receive(do: (:all_here -> i))
  end

  # ---- plain grpcio -------------------------------------------------------

  for scenario <- ~w(ping sessions metadata_of_elixir exposed_tools elixir_tools reply_fields
                     binary_results correlation register_tools tool_failures killed_tool
                     streaming_is_refused unknown_methods no_message garbage hundred_at_once
                     thousand big cancel deadline) do
    test "grpcio: #{scenario}", %{address: address, session: session} do
      {said, status} = Interop.python("client.py", [address, session, unquote(scenario)])
      assert status == 0, said
    end
  end

  test "a client that is killed takes its tool with it", context do
    port = Interop.open("client.py", [context.address, context.session, "hang"])
    assert_receive {:holding, tool}, @patience
    monitor = Process.monitor(tool)
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    {_, 0} = System.cmd("kill", ["-9", to_string(os_pid)])
    assert_receive {:DOWN, ^monitor, :process, _, {:shutdown, :rpc_cancelled}}, @patience
    assert_receive {^port, {:exit_status, _}}, @patience
    {said, status} = Interop.python("client.py", [context.address, context.session, "add"])
    assert status == 0, said
  end

  test "calls that are open when the server stops end with UNAVAILABLE", context do
    port = Interop.open("client.py", [context.address, context.session, "hang"])
    assert_receive {:holding, _tool}, @patience
    :ok = stop_supervised(Listener)
    assert_receive {^port, {:data, {:eol, "UNAVAILABLE " <> _}}}, @patience
    assert_receive {^port, {:exit_status, 0}}, @patience
    assert {:error, :unavailable} = Client.connect(context.port)
  end

  # ---- our client ---------------------------------------------------------

  test "Client speaks with it", %{port: port, session: session} do
    assert {:ok, channel} = Client.connect(port)
    assert {:ok, %{message: text, server_time: %{seconds: _}}} = Client.ping(channel, "hi")
    assert is_binary(text)
    mine = session <> "-client"
    assert {:ok, %{success: true}} = Client.initialize_session(channel, mine)
    assert {:ok, %{session: %{id: ^mine, active: true} = got}} = Client.get_session(channel, mine)
    assert got.metadata["elixir_node"] == to_string(node())
    assert abs(DateTime.diff(got.created_at, DateTime.utc_now())) < 600
    assert {:ok, %{success: true}} = Client.heartbeat(channel, mine)
    assert {:ok, %{success: true}} = Client.cleanup_session(channel, mine)
    assert {:ok, %{success: false}} = Client.heartbeat(channel, mine)
    assert {:error, :not_found} = Client.get_session(channel, mine)
    assert {:error, :internal} = Client.initialize_session(channel, "")
    assert {:ok, %{status: "healthy"}} = Client.health(channel, "me")
    assert {:ok, %{service: "snakepit.bridge.BridgeService"}} = Client.get_info(channel)
  end

  test "Client runs tools", %{port: port, session: session} do
    {:ok, channel} = Client.connect(port)
    run = &Client.execute_tool(channel, session, &1, &2, &3)
    assert {:ok, 5} = run.("add", %{a: 2, b: 3}, [])
    value = %{"a" => [1, 2.5, nil, true, "x"], "n" => 2 ** 100}
    assert {:ok, ^value} = run.("echo", value, [])
    assert {:ok, {:binary, <<0, 0>>}} = run.("binary", %{size: 2}, [])
    assert {:ok, {:binary, <<0>>, %{"size" => 1}}} = run.("binary_meta", %{size: 1}, [])

    assert {:ok, %{"x" => ["binary", 3]}} =
             run.("sizes", %{}, binary_parameters: %{x: <<1, 2, 3>>})

    assert {:ok, "mine"} = run.("correlation", %{}, correlation_id: "mine")
    assert {:ok, "arg"} = run.("correlation", %{correlation_id: "arg"}, [])
    assert {:error, "no"} = run.("raise", %{text: "no"}, [])
    assert {:error, "not_found"} = Client.execute(channel, "add", %{})
    assert {:error, {:invalid_parameter, :x, {:encode, [], _}}} = run.("echo", %{x: self()}, [])

    assert {:error, {:invalid_parameter, :b, :not_binary}} =
             run.("sizes", %{}, binary_parameters: %{b: 1})

    hold_for(run, 100)

    assert {:ok, stream} = Client.execute_streaming_tool(channel, session, "add", %{})

    assert [{:error, %Error{category: :grpc_error, grpc_status: :unimplemented}}] =
             Enum.to_list(stream)

    # Reading it again calls again.
    assert [{:error, _}] = Enum.to_list(stream)
    {:messages, messages} = Process.info(self(), :messages)
    assert Enum.reject(messages, &match?({:holding, _}, &1)) == []
  end

  # Again with more time where that was over before the tool ran.
  defp hold_for(run, ms) do
    assert {:error, :timeout} = run.("hold", %{}, timeout: ms)
    assert ms < 2 * @patience

    receive do
      {:holding, _} -> :ok
    after
      0 -> hold_for(run, 2 * ms)
    end
  end

  test "nobody there" do
    assert {:error, :unavailable} = Client.connect(1)
    assert {:error, reason} = Client.connect("host.invalid:1")
    assert reason in [:unavailable, :timeout]
  end

  # ---- answers without the network ----------------------------------------

  test "handlers answer maps", %{session: session} do
    assert BridgeServer.service_name(:ignored) == "snakepit.bridge.BridgeService"

    assert %{message: _, server_time: %{seconds: _, nanos: _}} =
             BridgeServer.ping(%{message: ""}, %{})

    assert %{session_valid: true} = BridgeServer.heartbeat(%{session_id: session}, %{})
    assert {:error, 5, text} = BridgeServer.get_session(%{session_id: "no-such"}, %{})
    assert text =~ "no-such"

    assert {:error, 3, "PingRequest.message is not UTF-8"} =
             BridgeServer.handle("/snakepit.bridge.BridgeService/Ping", <<10, 1, 255>>, %{})

    assert {:error, 12, _} = BridgeServer.handle("/snakepit.bridge.BridgeService/Nope", "", %{})
    assert {:error, 12, _} = BridgeServer.handle("/a/b", "", %{})
  end

  test "a tool for all sessions needs no session" do
    name = "everywhere.#{System.unique_integer([:positive])}"
    on_exit(fn -> ToolRegistry.cleanup_session(:all_sessions) end)
    :ok = ToolRegistry.register_elixir_tool(name, fn %{"x" => x} -> x * 2 end, %{})

    {:ok, bytes} =
      Native.message_encode(:ExecuteElixirToolRequest, %{
        session_id: "no-such-session",
        tool_name: name,
        parameters: %{"x" => %{type_url: "", value: "21"}}
      })

    assert {:ok, reply} =
             BridgeServer.handle("/snakepit.bridge.BridgeService/ExecuteElixirTool", bytes, %{})

    assert {:ok, %{success: true, result: %{value: "42"}}} =
             Native.message_decode(:ExecuteElixirToolResponse, reply)
  end

  # ---- the listener -------------------------------------------------------

  test "a port that is in use is said to be", %{port: port} do
    Process.flag(:trap_exit, true)

    assert {:error, {:grpc_listener_failed, {:listen, "127.0.0.1", ^port, :eaddrinuse}}} =
             Listener.start_link(name: :taken, config: external(port))
  end

  test "a port that becomes free in time is taken", %{port: port, listener: listener} do
    # The first attempt fails for sure; this listener goes before the last.
    Application.put_env(:snakepit, :grpc_listener_reuse_attempts, 1_000)
    Application.put_env(:snakepit, :grpc_listener_reuse_retry_delay_ms, 10)

    on_exit(fn ->
      Application.delete_env(:snakepit, :grpc_listener_reuse_attempts)
      Application.delete_env(:snakepit, :grpc_listener_reuse_retry_delay_ms)
    end)

    assert Process.alive?(listener)

    test = self()

    task =
      Task.async(fn ->
        {:ok, next} = Listener.start_link(name: :next, config: external(port))
        send(test, {:info, Listener.info(next)})
        receive(do: (:stop -> GenServer.stop(next)))
      end)

    :ok = stop_supervised(Listener)
    assert_receive {:info, %{port: ^port, mode: :external}}, @patience
    send(task.pid, :stop)
    assert :ok = Task.await(task, @patience)
  end

  test "an external pool takes the first free port", %{port: port} do
    # What is taken by others in between is skipped too.
    config = %{internal() | mode: :external_pool, base_port: port, pool_size: 50}
    start_supervised!({Listener, name: :pooled, config: config}, id: :pooled)
    assert %{mode: :external_pool, port: got} = Listener.info(:pooled)
    assert got > port and got < port + 50
    Process.flag(:trap_exit, true)

    assert {:error, {:grpc_listener_failed, {:no_free_port, ^port, 1}}} =
             Listener.start_link(name: :full, config: %{config | pool_size: 1})
  end

  test "an address of another host is refused" do
    Process.flag(:trap_exit, true)
    config = %{internal() | bind_host: "192.0.2.1"}

    assert {:error, {:grpc_listener_failed, {:listen, "192.0.2.1", 0, :eaddrnotavail}}} =
             Listener.start_link(name: :elsewhere, config: config)
  end

  test "the application's listener is found by its name" do
    refute Process.whereis(Listener)
    assert {:error, :not_listening} = Listener.listener_info()
    assert {:error, :timeout} = Listener.await_ready(0)
    assert_raise RuntimeError, ~r/not running/, fn -> Listener.address() end
    start_supervised!({Listener, []}, id: :application)
    assert {:ok, %{mode: :internal, port: port} = info} = Listener.listener_info()
    assert {:ok, ^info} = Listener.await_ready()
    assert {Listener.host(), Listener.port(), Listener.mode()} == {"127.0.0.1", port, :internal}
    assert Listener.address() == "127.0.0.1:#{port}"
    assert {:ok, _} = Client.connect(Listener.address())
    :ok = stop_supervised(:application)
    assert {:error, :not_listening} = Listener.listener_info()
  end

  test "wrong configuration is named" do
    Process.flag(:trap_exit, true)
    before = Application.get_env(:snakepit, :grpc_listener)
    on_exit(fn -> restore(before) end)
    Application.put_env(:snakepit, :grpc_listener, %{mode: :external, host: "127.0.0.1"})

    assert {:error, {:grpc_listener_failed, {:invalid_grpc_listener_config, :missing_port}}} =
             Listener.start_link(name: :wrong)
  end

  defp restore(nil), do: Application.delete_env(:snakepit, :grpc_listener)
  defp restore(value), do: Application.put_env(:snakepit, :grpc_listener, value)

  # ---- the server beneath -------------------------------------------------

  test "the owner's death stops the server" do
    test = self()

    owner =
      spawn(fn ->
        {:ok, _server, port} = Native.server_start("127.0.0.1", 0, %{methods: ["/a.B/C"]})
        send(test, {:port, port})
        receive(do: ({:snakepit_rpc, _, _, _, _, _} -> send(test, :arrived)))
        Process.sleep(:infinity)
      end)

    assert_receive {:port, port}, @patience
    channel = Native.channel_open("127.0.0.1:#{port}")
    ref = make_ref()
    {:ok, _} = Native.rpc_unary(channel, ref, "/a.B/C", "x", @patience, [])
    assert_receive :arrived, @patience
    Process.exit(owner, :kill)
    assert_receive {^ref, {:error, {:grpc, 14, _}}}, @patience
  end

  test "a stream waits for a reader that is slow" do
    {server, call, rpc, ref} = stream_call()
    block = :binary.copy(<<1>>, 100_000)
    sent = send_until_full(call, block, 0)
    assert sent < 1_000
    assert {:error, :full} = Native.server_send(call, block)
    Native.call_credit(rpc, 10_000)
    assert_receive {:snakepit_rpc_ready, ^call}, @patience
    assert Native.server_send(call, "last") in [:ok, :wait]
    assert :ok = Native.server_finish(call)
    assert {:error, :cancelled} = Native.server_send(call, "late")
    assert {:error, :cancelled} = Native.server_finish(call)
    chunks = read(ref, [])
    assert length(chunks) == sent + 1
    assert List.last(chunks) == "last"
    Native.server_stop(server)
    assert_receive {:snakepit_server_stopped, ^server}, @patience
  end

  test "a stream whose reader leaves is cancelled" do
    {server, call, rpc, _ref} = stream_call()
    block = :binary.copy(<<1>>, 100_000)
    send_until_full(call, block, 0)
    Native.call_cancel(rpc)
    assert_receive {:snakepit_rpc_cancelled, ^call}, @patience
    assert {:error, :cancelled} = Native.server_send(call, block)
    assert {:error, :cancelled} = Native.server_fail(call, 13, "late")
    Native.server_stop(server)
    assert_receive {:snakepit_server_stopped, ^server}, @patience
  end

  test "a message beyond the bound is refused" do
    {:ok, server, port} =
      Native.server_start("127.0.0.1", 0, %{methods: ["/a.B/C"], max_receive: 1000})

    channel = Native.channel_open("127.0.0.1:#{port}")
    ref = make_ref()

    {:ok, _} =
      Native.rpc_unary(channel, ref, "/a.B/C", String.duplicate("x", 1001), @patience, [])

    assert_receive {^ref, {:error, {:grpc, 8, _}}}, @patience

    {:ok, _} =
      Native.rpc_unary(channel, ref, "/a.B/C", String.duplicate("x", 1000), @patience, [])

    assert_receive {:snakepit_rpc, call, "/a.B/C", bytes, _, _}, @patience
    assert byte_size(bytes) == 1000
    assert :ok = Native.server_reply(call, ["io", ?d, "ata"])
    assert_receive {^ref, {:ok, "iodata"}}, @patience
    Native.server_stop(server)
    assert_receive {:snakepit_server_stopped, ^server}, @patience
  end

  test "wrong arguments are badarg" do
    good = %{methods: []}

    for {host, port, options} <- [
          {:host, 0, good},
          {"", 0, good},
          {"a\0b", 0, good},
          {"127.0.0.1", -1, good},
          {"127.0.0.1", 65_536, good},
          {"127.0.0.1", 0, %{}},
          {"127.0.0.1", 0, %{methods: [:a]}},
          {"127.0.0.1", 0, %{methods: ["a" | "b"]}},
          {"127.0.0.1", 0, %{methods: [], max_receive: -1}},
          {"127.0.0.1", 0, []}
        ],
        do: assert_raise(ArgumentError, fn -> Native.server_start(host, port, options) end)

    {server, call, _rpc, _ref} = stream_call()
    assert_raise ArgumentError, fn -> Native.server_stop(make_ref()) end
    assert_raise ArgumentError, fn -> Native.server_stop(call) end
    assert_raise ArgumentError, fn -> Native.server_reply(server, "x") end
    assert_raise ArgumentError, fn -> Native.server_reply(call, :x) end
    assert_raise ArgumentError, fn -> Native.server_send(call, 1) end
    assert_raise ArgumentError, fn -> Native.server_send(nil, "x") end
    assert_raise ArgumentError, fn -> Native.server_finish(1) end
    assert_raise ArgumentError, fn -> Native.server_fail(call, 0, "ok is no failure") end
    assert_raise ArgumentError, fn -> Native.server_fail(call, 17, "") end
    assert_raise ArgumentError, fn -> Native.server_fail(call, 1, :text) end
    Native.server_stop(server)
    assert_receive {:snakepit_server_stopped, ^server}, @patience
  end

  defp stream_call do
    {:ok, server, port} = Native.server_start("127.0.0.1", 0, %{methods: ["/a.B/C"]})
    channel = Native.channel_open("127.0.0.1:#{port}")
    ref = make_ref()
    {:ok, rpc} = Native.rpc_stream(channel, ref, "/a.B/C", "x", @patience, [{"x-key", "v"}])
    assert_receive {:snakepit_rpc, call, "/a.B/C", "x", headers, left}, @patience
    assert {"x-key", "v"} in headers
    # gRPC rounds it up on its way.
    assert left in 1..(2 * @patience)
    {server, call, rpc, ref}
  end

  defp send_until_full(call, block, sent) do
    case Native.server_send(call, block) do
      :ok -> send_until_full(call, block, sent + 1)
      :wait -> sent + 1
    end
  end

  defp read(ref, chunks) do
    assert_receive {^ref, answer}, @patience

    case answer do
      {:chunk, bytes} -> read(ref, [bytes | chunks])
      :done -> Enum.reverse(chunks)
    end
  end
end
