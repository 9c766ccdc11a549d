defmodule Snakepit.GRPC.WorkerAccessTest do
  # The listener of an application with workers. Runs once for each carrier: see
  # `make test`.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.{SessionStore, ToolRegistry}
  alias Snakepit.GRPC.{Client, Listener, Token}
  alias Snakepit.{Error, Native, OSProcess}
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Test.{Certs, Interop}

  @patience 60_000
  @program Path.expand("../interop/access.py", __DIR__)

  defp start(settings \\ []) do
    start_pools([adapter_args: ["--adapter", "bridge_tools.BridgeTools"]] ++ settings)
    session = "worker-access-#{System.pid()}-#{System.unique_integer([:positive])}"
    {:ok, _} = SessionStore.create_session(session)
    on_exit(fn -> if Process.whereis(SessionStore), do: SessionStore.delete_session(session) end)
    expose(session, "touch", fn _ -> "done" end)
    {session, [session_id: session, timeout: @patience]}
  end

  defp expose(session, name, fun) do
    :ok = ToolRegistry.register_elixir_tool(session, name, fun, %{exposed_to_python: true})
  end

  defp python(session, scenario, env \\ []) do
    {said, status} = Interop.python("access.py", [Listener.address(), session, scenario], env)
    assert status == 0, said
  end

  defp inside(session, opts, scenario) do
    args = %{
      program: @program,
      session: session,
      path: to_string(Native.ebin()),
      scenario: scenario
    }

    {:ok, [status, said]} = Snakepit.execute("stand_alone", args, opts)
    {status, said}
  end

  test "a worker knows address and token, and a client of its own needs none" do
    {session, opts} = start()
    told = {Listener.address(), Token.run(), "Bearer " <> Token.run()}

    assert {:ok, [address, token, [{"authorization", header}]]} =
             Snakepit.execute("told", %{}, opts)

    assert {address, token, header} == told
    assert {:ok, "done"} = Snakepit.execute("call", %{name: "touch"}, opts)

    if OSProcess.start_time(1) != nil do
      assert {0, _} = inside(session, opts, "stand_alone")
    end

    # The same program, not below a worker.
    token = [{"SNAKEPIT_GRPC_TOKEN", nil}, {"TEST_TOKEN", Token.run()}]
    python(session, "refused", token)
    {said, 1} = Interop.python("access.py", [Listener.address(), session, "stand_alone"], token)
    assert said =~ "UNAUTHENTICATED"
  end

  test "at an external listener such a client needs the token" do
    {session, opts} =
      start(
        grpc_listener: %{
          mode: :external_pool,
          host: "127.0.0.1",
          base_port: 20_000,
          pool_size: 5_000
        }
      )

    assert {:ok, "done"} = Snakepit.execute("call", %{name: "touch"}, opts)
    {status, said} = inside(session, opts, "stand_alone")
    assert status == 1
    assert said =~ "UNAUTHENTICATED"
  end

  test "with TLS workers reach it at a port of their own" do
    dir =
      Path.join(
        System.tmp_dir!(),
        "snakepit-certs-#{System.pid()}-#{System.unique_integer([:positive])}"
      )

    on_exit(fn -> File.rm_rf(dir) end)
    certs = Certs.make(dir, "tls")
    tls = [cert: certs.cert, key: certs.key, ca: certs.client_ca]
    {session, opts} = start(grpc_listener: [tls: tls])
    assert {:ok, "done"} = Snakepit.execute("call", %{name: "touch"}, opts)
    %{address: inner, token: token} = Listener.for_workers()
    assert inner != Listener.address()
    assert {:ok, [^inner, ^token, _]} = Snakepit.execute("told", %{}, opts)
    own = [ca: certs.ca, cert: certs.client_cert, key: certs.client_key]
    assert {:error, :unavailable} = Client.connect(Listener.port())
    {:ok, channel} = Client.connect(Listener.port(), tls: own)
    assert {:ok, "done"} = Client.execute_tool(channel, session, "touch", %{})
  end

  test "a worker's tools, for any client" do
    {session, opts} = start()
    assert {:ok, [_ | _]} = Snakepit.execute("register", %{}, opts)
    python(session, "worker_unary")
    python(session, "worker_streams")
    python(session, "worker_stream_fails")
    {:ok, channel} = Client.connect(Listener.port())
    {:ok, stream} = Client.execute_streaming_tool(channel, session, "count", %{n: 100})
    chunks = Enum.map(stream, fn {:ok, chunk} -> chunk end)
    assert Enum.map(Enum.drop(chunks, -1), & &1.data) == Enum.map(0..99, &Integer.to_string/1)
    assert %{is_final: true, metadata: %{"tool_type" => "remote"}} = List.last(chunks)
  end

  # Over shared memory there is nothing to connect to.
  test "a worker that serves gRPC wants the token too" do
    start(transport: :grpc)
    [worker] = Snakepit.list_workers()
    {:ok, port} = GenServer.call(elem(Workers.get_worker_pid(worker), 1), {:get_port})
    {:ok, channel} = Client.connect(port)
    assert {:ok, [1]} = Client.execute(channel, "plain", %{x: [1]})
    {:ok, stranger} = Client.connect(port, token: nil)

    for refused <- [
          Client.execute(stranger, "plain", %{x: 1}),
          Client.heartbeat(stranger, "s"),
          Client.initialize_session(stranger, "s")
        ],
        do: assert({:error, %Error{grpc_status: :unauthenticated}} = refused)

    {:ok, stream} = Client.execute_streaming_tool(stranger, "s", "count", %{n: 1})
    assert [{:error, %Error{grpc_status: :unauthenticated}}] = Enum.to_list(stream)
  end

  test "a client that leaves ends the worker's stream" do
    {session, opts} = start()
    path = signal_path()
    assert {:ok, [_ | _]} = Snakepit.execute("register", %{}, opts)
    python(session, "worker_stream_stops", [{"TEST_PATH", path}])
    await_file(path)
    assert {:ok, 1} = Snakepit.execute("plain", %{x: 1}, opts)
  end
end
