defmodule Snakepit.GRPC.AccessTest do
  # Not async: the environment of the application is changed.
  use ExUnit.Case, async: false

  alias Snakepit.Bridge.{SessionStore, ToolRegistry}
  alias Snakepit.{Config, Error, Native}
  alias Snakepit.GRPC.{Auth, Client, Endpoint, Listener, Peer, Served, TLS, Token}
  alias Snakepit.Test.{Certs, Interop}

  @patience 60_000
  @watch "/grpc.health.v1.Health/Watch"
  @fixed "a-token-of-this-tests-own"

  setup do
    session = "access-#{System.pid()}-#{System.unique_integer([:positive])}"
    {:ok, _} = SessionStore.create_session(session)

    :ok =
      ToolRegistry.register_elixir_tool(session, "touch", fn _ -> "done" end, %{
        exposed_to_python: true
      })

    on_exit(fn -> SessionStore.delete_session(session) end)
    {:ok, session: session}
  end

  defp listen(settings, opts \\ []) do
    before = Application.get_env(:snakepit, :grpc_listener)
    Application.put_env(:snakepit, :grpc_listener, settings)
    {:ok, config} = Config.grpc_listener_config()

    if before,
      do: Application.put_env(:snakepit, :grpc_listener, before),
      else: Application.delete_env(:snakepit, :grpc_listener)

    name = :"access_#{System.unique_integer([:positive])}"
    start_supervised!({Listener, [name: name, config: config] ++ opts}, id: name)
    Listener.info(name).port
  end

  # `env` comes after what the helper gives.
  defp python(port, session, scenario, env, host \\ "127.0.0.1") do
    {said, status} = Interop.python("access.py", ["#{host}:#{port}", session, scenario], env)
    assert status == 0, said
  end

  defp no_token, do: {"SNAKEPIT_GRPC_TOKEN", nil}
  defp token(token), do: {"SNAKEPIT_GRPC_TOKEN", token}

  # ---- the token ----------------------------------------------------------

  test "without the token, or with another one, nothing runs or is read", %{session: session} do
    port = listen(%{})
    known = {"TEST_TOKEN", Token.run()}
    python(port, session, "refused", [no_token(), known])
    python(port, session, "refused", [token("x"), known])
    python(port, session, "let_in", [])
  end

  test "whether it is there and what it serves anyone may ask", %{session: session} do
    python(listen(%{}), session, "open_to_all", [no_token()])
  end

  test "auth: :none lets everyone in", %{session: session} do
    port = listen(auth: :none)
    python(port, session, "let_in", [no_token()])
  end

  test "a token of one's own", %{session: session} do
    token = @fixed
    port = listen(%{"token" => token, "auth" => "token"})
    python(port, session, "refused", [{"TEST_TOKEN", token}])
    assert {:ok, channel} = Client.connect(port)
    assert {:ok, "done"} = Client.execute_tool(channel, session, "touch", %{})
    python(port, session, "let_in", [token(token)])
  end

  test "Client shows the token of a listener of its VM only", %{session: session} do
    port = listen(%{})

    for target <- [port, "127.0.0.1:#{port}", "localhost:#{port}"] do
      {:ok, channel} = Client.connect(target)
      assert {:ok, "done"} = Client.execute_tool(channel, session, "touch", %{})
      assert :ok = Client.close(channel)
    end

    {:ok, channel} = Client.connect(port, token: nil)
    assert {:error, %Error{grpc_status: :unauthenticated}} = Client.get_session(channel, session)
    {:ok, channel} = Client.connect(port, token: "wrong")
    assert {:error, %Error{grpc_status: :unauthenticated}} = Client.heartbeat(channel, session)
    {:ok, channel} = Client.connect("ipv4:127.0.0.1:#{port}")
    assert {:error, %Error{grpc_status: :unauthenticated}} = Client.heartbeat(channel, session)
    {:ok, channel} = Client.connect("ipv4:127.0.0.1:#{port}", token: Token.run())
    assert {:ok, %{success: true}} = Client.heartbeat(channel, session)
    assert Listener.token_at(1) == nil
  end

  test "an endpoint of one's own may have its own rules", %{session: session} do
    start_supervised!({Endpoint, name: :open, auth: :none}, id: :open)
    {:ok, channel} = Client.connect(Endpoint.port(:open), token: nil)
    assert {:ok, "done"} = Client.execute_tool(channel, session, "touch", %{})
    start_supervised!({Endpoint, name: :closed, token: @fixed}, id: :closed)
    {:ok, channel} = Client.connect(Endpoint.port(:closed), token: nil)
    assert {:error, %Error{grpc_status: :unauthenticated}} = Client.heartbeat(channel, session)
    {:ok, channel} = Client.connect(Endpoint.port(:closed), token: @fixed)
    assert {:ok, %{success: true}} = Client.heartbeat(channel, session)
  end

  test "the application's listener says its token" do
    start_supervised!({Listener, []}, id: :application)
    assert Listener.token() == Token.run()
    assert byte_size(Token.run()) >= 43
    assert Listener.for_workers() == %{address: Listener.address(), token: Token.run()}
    :ok = stop_supervised(:application)
    assert Listener.for_workers() == nil
    assert_raise RuntimeError, ~r/not running/, fn -> Listener.token() end
  end

  test "the token is in no state that a crash report would show", %{session: _} do
    port = listen(%{})
    {pid, _token} = :persistent_term.get({Listener, :at, port})
    refute inspect(:sys.get_state(pid), limit: :infinity) =~ Token.run()
  end

  test "what is served" do
    assert [bridge | _] = services = Served.services()
    assert bridge == "snakepit.bridge.BridgeService"
    assert length(services) == 4
    methods = Served.methods()
    assert length(methods) == 10 + 2 + 2
    assert Enum.all?(methods, fn "/" <> path -> hd(String.split(path, "/")) in services end)
    open = Enum.filter(methods, &Auth.open?/1)
    assert length(open) == 5 and "/#{bridge}/Ping" in open
    assert {:error, 12, _} = Served.handle("/no.Such/Method", "", %{})
  end

  test "where a client is, as gRPC names it" do
    for {text, address} <- [
          {"ipv4:127.0.0.1:40000", {{127, 0, 0, 1}, 40_000}},
          {"ipv6:%5B::1%5D:1", {{0, 0, 0, 0, 0, 0, 0, 1}, 1}},
          {"ipv6:[::ffff:10.0.0.7]:65535", {{10, 0, 0, 7}, 65_535}}
        ],
        do: assert({:ok, ^address} = Peer.parse(text))

    for text <- [
          "",
          "unix:/tmp/x",
          "ipv4:",
          "ipv4:1.2.3.4",
          "ipv4:a:1",
          "ipv4:1.2.3.4:0",
          "ipv4:1.2.3.4:65536"
        ],
        do: assert(:error = Peer.parse(text))

    assert Peer.loopback?({127, 9, 9, 9})
    refute Peer.loopback?({10, 0, 0, 7})
  end

  test "a connection of this VM's own is none of a worker's" do
    {:ok, listening} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(listening)
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [])
    {:ok, mine} = :inet.port(socket)
    memory = Peer.new_memory()
    refute Peer.worker?("ipv4:127.0.0.1:#{mine}", {{127, 0, 0, 1}, port}, memory)
    refute Peer.worker?("ipv4:127.0.0.1:#{mine}", {{127, 0, 0, 1}, port + 1}, memory)
    refute Peer.worker?("ipv4:10.0.0.7:#{mine}", {{127, 0, 0, 1}, port}, memory)
    assert :ets.info(memory, :size) == 0
    :ok = :gen_tcp.close(socket)
    :ok = :gen_tcp.close(listening)
  end

  # ---- health and reflection ----------------------------------------------

  test("health", %{session: session}, do: python(listen(%{}), session, "health", []))
  test("reflection", %{session: session}, do: python(listen(%{}), session, "reflection", []))

  test "so many watches and no more, which nobody else feels", %{session: session} do
    port = listen(%{})
    {:ok, channel} = Client.connect(port)
    watch = fn ref -> Native.rpc_stream(channel, ref, @watch, "", @patience, []) end

    watches =
      for _ <- 1..1_000 do
        ref = make_ref()
        {:ok, rpc} = watch.(ref)
        assert_receive {^ref, {:chunk, _serving}}, @patience
        rpc
      end

    ref = make_ref()
    {:ok, _rpc} = watch.(ref)
    assert_receive {^ref, {:error, {:grpc, 8, _}}}, @patience
    assert {:ok, _} = Client.ping(channel, "still there?")
    assert {:ok, "done"} = Client.execute_tool(channel, session, "touch", %{})
    Enum.each(watches, &Native.call_cancel/1)
  end

  test "a watch ends with the listener", %{session: session} do
    name = :watched

    start_supervised!({Listener, name: name, config: elem(Config.grpc_listener_config(), 1)},
      id: name
    )

    address = "127.0.0.1:#{Listener.info(name).port}"
    port = Interop.open("access.py", [address, session, "watch_until_the_end"])
    assert_receive {^port, {:data, {:eol, "1"}}}, @patience
    :ok = stop_supervised(name)
    assert_receive {^port, {:data, {:eol, "UNAVAILABLE"}}}, @patience
    assert_receive {^port, {:exit_status, 0}}, @patience
  end

  test "a message beyond the bound is refused", %{session: session} do
    python(listen(%{}, max_receive: 1_000), session, "oversized", [])
  end

  # ---- TLS ----------------------------------------------------------------

  defp certs(name \\ "own"), do: Certs.make(dir(), name)

  defp dir do
    dir =
      Path.join(
        System.tmp_dir!(),
        "snakepit-certs-#{System.pid()}-#{System.unique_integer([:positive])}"
      )

    on_exit(fn -> File.rm_rf(dir) end)
    dir
  end

  defp client_env(certs), do: [{"TEST_CERT", certs.client_cert}, {"TEST_KEY", certs.client_key}]

  test "TLS: the client trusts the server's certificate or does not come in", context do
    %{session: session} = context
    certs = certs()
    foreign = certs("foreign")
    port = listen(tls: [cert: certs.cert, key: certs.key])
    python(port, session, "let_in", [{"TEST_CA", certs.ca}], "localhost")
    python(port, session, "open_to_all", [{"TEST_CA", certs.ca}])
    python(port, session, "unreachable", [{"TEST_CA", foreign.ca}])
    python(port, session, "unreachable", [])
    # The token is wanted all the same.
    known = {"TEST_TOKEN", Token.run()}
    python(port, session, "refused", [no_token(), known, {"TEST_CA", certs.ca}])
  end

  test "mutual TLS: a client without a certificate, or with another's, is refused", context do
    %{session: session} = context
    certs = certs()
    foreign = certs("foreign")
    port = listen(tls: %{cert: certs.cert, key: certs.key, ca: certs.client_ca})
    trust = {"TEST_CA", certs.ca}
    python(port, session, "let_in", [trust | client_env(certs)])
    python(port, session, "unreachable", [trust])
    python(port, session, "unreachable", [trust | client_env(foreign)])

    port =
      listen(tls: %{cert: certs.cert, key: certs.key, ca: certs.client_ca, verify: :verify_none})

    python(port, session, "let_in", [trust])
  end

  test "Client speaks TLS", %{session: session} do
    certs = certs()
    foreign = certs("foreign")
    tls = [cert: certs.cert, key: File.read!(certs.key), ca: certs.client_ca]
    port = listen(tls: tls)
    own = [ca: certs.ca, cert: certs.client_cert, key: certs.client_key]
    {:ok, channel} = Client.connect("localhost:#{port}", tls: own)
    assert {:ok, "done"} = Client.execute_tool(channel, session, "touch", %{})
    {:ok, channel} = Client.connect("localhost:#{port}", tls: Map.new(own), token: nil)
    assert {:error, %Error{grpc_status: :unauthenticated}} = Client.heartbeat(channel, session)
    refused = &assert({:error, :unavailable} = Client.connect("localhost:#{port}", &1))
    refused.([])
    refused.(tls: true)
    refused.(tls: [ca: certs.ca])
    refused.(tls: Keyword.put(own, :ca, foreign.ca))
    refused.(tls: [ca: certs.ca, cert: foreign.client_cert, key: foreign.client_key])
    refused.(tls: Keyword.put(own, :server_name, "elsewhere.test"))
  end

  test "the name in the certificate counts, and can be said", %{session: session} do
    certs = Certs.make(dir(), "named", dNSName: ~c"bridge.test")
    port = listen(tls: [cert: certs.cert, key: certs.key])
    assert {:error, :unavailable} = Client.connect(port, tls: [ca: certs.ca])
    tls = [ca: certs.ca, server_name: "bridge.test"]
    assert {:ok, channel} = Client.connect(port, tls: tls)
    assert {:ok, "done"} = Client.execute_tool(channel, session, "touch", %{})
  end

  test "what is wrong with certificates is said" do
    certs = certs()
    foreign = certs("foreign")
    [{:Certificate, _, _}] = certs.cert |> File.read!() |> :public_key.pem_decode()
    junk = Path.join(Path.dirname(certs.cert), "junk.pem")

    File.write!(
      junk,
      "-----BEGIN CERTIFICATE-----\nnot base64 at all\n-----END CERTIFICATE-----\n"
    )

    locked = Path.join(Path.dirname(certs.cert), "locked.pem")

    File.write!(locked, """
    -----BEGIN EC PRIVATE KEY-----
    Proc-Type: 4,ENCRYPTED
    DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF

    MTIzNDU2Nzg5MDEyMzQ1Ng==
    -----END EC PRIVATE KEY-----
    """)

    own = [cert: certs.cert, key: certs.key]

    for {tls, text} <- [
          {[], ":cert and :key"},
          {[cert: certs.cert], ":key"},
          {[key: certs.key], ":cert"},
          {[cert: "/no/such.pem", key: certs.key], "/no/such.pem"},
          {[cert: certs.key, key: certs.key], "no certificate"},
          {[cert: certs.cert, key: certs.cert], "no private key"},
          {[cert: junk, key: certs.key], "no certificate"},
          {[cert: certs.cert, key: locked], "encrypted"},
          {[cert: certs.cert, key: foreign.key], "not the key of"},
          {own ++ [verify: :verify_peer], ":ca"},
          {own ++ [verify: true], ":verify_none"},
          {own ++ [cacert: certs.ca], ":cacert"},
          {own ++ [ca: 1], ":ca"},
          {"cert.pem", "keyword list"}
        ] do
      Process.flag(:trap_exit, true)
      config = Map.put(elem(Config.grpc_listener_config(), 1), :tls, tls)

      assert {:error, {:grpc_listener_failed, {:invalid_grpc_listener_config, {:tls, why}}}} =
               Listener.start_link(name: :wrong, config: config)

      assert why =~ text
    end

    for {tls, text} <- [
          {[verify: :verify_none], "always verifies"},
          {[ca: "/no/such.pem"], "/no/such.pem"},
          {[server_name: ""], ":server_name"},
          {:yes, "keyword list"}
        ] do
      assert {:error, {:tls, why}} = Client.connect(1, tls: tls)
      assert why =~ text
    end
  end

  test "keys on curves, and what belongs together" do
    {:namedCurve, _} = curve = {:namedCurve, :secp256r1}
    one = Certs.make(dir(), "one", [dNSName: ~c"a.test"], curve)
    two = Certs.make(dir(), "two", [dNSName: ~c"a.test"], curve)
    assert {:ok, %{verify: false}} = TLS.load([cert: one.cert, key: one.key], :server)
    assert {:error, ":key is not" <> _} = TLS.load([cert: one.cert, key: two.key], :server)
    assert {:error, ":key is not" <> _} = TLS.load([cert: one.cert, key: certs().key], :server)
  end

  test "wrong values for auth and token are named" do
    before = Application.get_env(:snakepit, :grpc_listener)
    on_exit(fn -> restore(before) end)

    for {settings, why} <- [
          {%{auth: true}, :invalid_auth},
          {%{auth: "all"}, :invalid_auth},
          {%{token: "short"}, :invalid_token},
          {%{token: "with a blank, which no token has"}, :invalid_token},
          {%{token: :an_atom_of_some_length}, :invalid_token}
        ] do
      Application.put_env(:snakepit, :grpc_listener, settings)

      assert {:error, {:invalid_grpc_listener_config, ^why} = reason} =
               Config.grpc_listener_config()

      assert Config.Explain.text(:grpc_listener, reason) =~ "grpc_listener"
    end
  end

  defp restore(nil), do: Application.delete_env(:snakepit, :grpc_listener)
  defp restore(value), do: Application.put_env(:snakepit, :grpc_listener, value)

  # ---- beneath ------------------------------------------------------------

  test "what more a client sends is read one by one" do
    {:ok, server, port} = Native.server_start("127.0.0.1", 0, %{methods: ["/a.B/C"]})
    channel = Native.channel_open("127.0.0.1:#{port}", %{authorization: "Bearer x"})
    ref = make_ref()
    {:ok, _rpc} = Native.rpc_stream(channel, ref, "/a.B/C", "first", @patience, [])
    assert_receive {:snakepit_rpc, call, "/a.B/C", "first", headers, _}, @patience
    assert {"authorization", "Bearer x"} in headers
    assert "ipv4:127.0.0.1:" <> _ = Native.server_peer(call)
    assert :ok = Native.server_read(call)
    assert_receive {:snakepit_rpc_message, ^call, nil}, @patience
    # The client said that there is no more.
    assert {:error, :cancelled} = Native.server_read(call)
    assert :ok = Native.server_finish(call)
    assert_receive {^ref, :done}, @patience
    assert {:error, :cancelled} = Native.server_read(call)
    Native.server_stop(server)
    assert_receive {:snakepit_server_stopped, ^server}, @patience
  end

  test "wrong options of channels and servers are badarg" do
    for options <- [
          :none,
          %{tls: true},
          %{tls: %{ca: :text}},
          %{tls: %{cert: "a\0b"}},
          %{authorization: "line\nbreak"},
          %{authorization: :token},
          %{authorization: String.duplicate("x", 5_000)}
        ],
        do: assert_raise(ArgumentError, fn -> Native.channel_open("127.0.0.1:1", options) end)

    assert_raise ArgumentError, fn ->
      Native.server_start("127.0.0.1", 0, %{methods: [], tls: :yes})
    end

    for tls <- [%{}, %{cert: "x", key: "y"}],
        do:
          assert(
            {:error, :listen} =
              Native.server_start("127.0.0.1", 0, %{methods: ["/a.B/C"], tls: tls})
          )

    assert_raise ArgumentError, fn -> Native.server_peer(make_ref()) end
    assert_raise ArgumentError, fn -> Native.server_read(make_ref()) end
  end
end
