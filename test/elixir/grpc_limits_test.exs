defmodule Snakepit.GRPC.LimitsTest do
  # Not async: the environment of the application is changed, and its log is read.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog

  alias Snakepit.{Config, Native}
  alias Snakepit.GRPC.{Client, Endpoint, Listener}
  alias Snakepit.Test.{AppEnv, Certs, Interop}

  @patience 60_000

  setup do
    AppEnv.put_env(log_level: :warning)
  end

  defp listen(settings, keys) do
    Application.put_all_env(snakepit: keys)
    name = :"limits_#{System.unique_integer([:positive])}"
    {:ok, internal} = Config.grpc_listener_config()
    config = Map.merge(internal, Map.new(settings))
    start_supervised!({Listener, [name: name, config: config]}, id: name)
    {name, Listener.info(name).port}
  end

  # nil when it was closed before there was a word of it.
  defp dial(port) do
    case :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false]) do
      {:ok, socket} -> socket
      {:error, :econnreset} -> nil
    end
  end

  # gRPC speaks first on a connection that it has.
  defp taken?(nil), do: false

  defp taken?(socket) do
    case :gen_tcp.recv(socket, 0, @patience) do
      {:ok, _settings} -> true
      {:error, reason} when reason in [:closed, :econnreset] -> false
    end
  end

  # Once its end is seen here, the listener hears of it at its own time.
  defp taken_at_last?(port, left \\ 6_000) do
    socket = dial(port)

    cond do
      taken?(socket) -> socket
      left == 0 -> flunk("no connection is taken")
      true -> taken_at_last?(port, left - 1)
    end
  end

  test "more connections than grpc_max_connections are closed, and told of once" do
    {name, port} = listen([], grpc_max_connections: 2)

    log =
      capture_log(fn ->
        [first, second] = for _ <- 1..2, do: dial(port)
        assert taken?(first) and taken?(second)
        for _ <- 1..3, do: refute(taken?(dial(port)))

        # What has a connection keeps it, and what ends makes room.
        assert :ok = :gen_tcp.send(first, "no HTTP at all\r\n\r\n" <> String.duplicate("x", 64))
        assert :closed = until_closed(first)
        third = taken_at_last?(port)
        refute taken?(dial(port))
        Enum.each([second, third], &:gen_tcp.close/1)
        assert _ = taken_at_last?(port)
        # It has been told before they were closed.
        _ = Listener.info(name)
      end)

    assert [_, told] = String.split(log, "127.0.0.1:#{port} has 2 connections and refuses more")
    assert told =~ "raise config :snakepit, grpc_max_connections"
  end

  defp until_closed(socket) do
    case :gen_tcp.recv(socket, 0, @patience) do
      {:ok, _} -> until_closed(socket)
      {:error, reason} when reason in [:closed, :econnreset] -> :closed
    end
  end

  test "clients of gRPC are refused as of a server that is not there" do
    {_name, port} = listen([], grpc_max_connections: 1)

    capture_log(fn ->
      {:ok, first} = Client.connect(port)
      assert {:ok, _} = Client.ping(first, "first")
      assert {:error, :unavailable} = Client.connect(port)
      # The same by grpcio.
      {said, status} = Interop.python("access.py", ["127.0.0.1:#{port}", "s", "unreachable"], [])
      assert status == 0, said
      assert {:ok, _} = Client.ping(first, "first")
      :ok = Client.close(first)
      assert _ = taken_at_last?(port)
    end)
  end

  test "each listener counts its own, and :infinity counts none" do
    {_name, one} = listen([], grpc_max_connections: 1)
    {_name, other} = listen([], grpc_max_connections: :infinity)
    assert taken?(dial(one))
    for _ <- 1..20, do: assert(taken?(dial(other)))
    endpoint = :"limits_#{System.unique_integer([:positive])}"
    Application.put_env(:snakepit, :grpc_max_connections, 1)
    start_supervised!({Endpoint, name: endpoint})
    port = Endpoint.port(endpoint)
    assert taken?(dial(port))
    capture_log(fn -> refute taken?(dial(port)) end)
  end

  # The threads are named; those of other listeners are there, too.
  test "grpc_num_acceptors threads take connections, at most one per scheduler" do
    schedulers = System.schedulers_online()

    for {wanted, threads} <- [{1, 1}, {1_000, schedulers}] do
      before = acceptors()
      {name, port} = listen([], grpc_num_acceptors: wanted)
      assert length(acceptors() -- before) == threads
      assert taken?(dial(port))
      stop_supervised!(name)
    end
  end

  defp acceptors do
    for task <- File.ls!("/proc/self/task"),
        {:ok, "snakepit_accept\n"} <- [File.read("/proc/self/task/#{task}/comm")],
        do: task
  end

  # The kernel's number for a socket is looked at in test_grpc_front.c.
  test "grpc_socket_backlog is the backlog of the socket" do
    assert {:ok, "127.0.0.1", 0, %{backlog: 7}} = started_with(grpc_socket_backlog: 7)
    beyond = 0x1_0000_0000
    assert {:ok, _, 0, %{backlog: 0x7FFFFFFF}} = started_with(grpc_socket_backlog: beyond)
  end

  defp started_with(keys) do
    traced = {Native, :server_start, 3}
    :erlang.trace_pattern(traced, true, [])
    :erlang.trace(:new_processes, true, [:call])
    listen([], keys)

    receive do
      {:trace, _pid, :call, {Native, :server_start, [host, port, options]}} ->
        {:ok, host, port, options}
    after
      @patience -> :nothing
    end
  after
    :erlang.trace(:new_processes, false, [:call])
    :erlang.trace_pattern({Native, :server_start, 3}, false, [])
  end

  test "with TLS gRPC's library listens, and it is said that they do not hold" do
    dir = Path.join(System.tmp_dir!(), "snakepit-limits-#{System.pid()}")
    on_exit(fn -> File.rm_rf(dir) end)
    certs = Certs.make(dir, "limits")
    tls = [cert: certs.cert, key: certs.key]

    log = capture_log(fn -> listen([tls: tls], grpc_max_connections: 5) end)
    assert log =~ "a gRPC listener with TLS knows no grpc_max_connections"
    refute log =~ "grpc_socket_backlog"

    log = capture_log(fn -> listen([tls: tls], grpc_max_connections: 1_000) end)
    refute log =~ "gRPC listener"
  end

  test "what is no number of them is refused" do
    for options <- [
          %{max_connections: 0},
          %{max_connections: -1},
          %{max_connections: "1"},
          %{acceptors: 0},
          %{acceptors: 257},
          %{backlog: 0},
          %{backlog: 1.0}
        ] do
      assert_raise ArgumentError, fn ->
        Native.server_start("127.0.0.1", 0, Map.put(options, :methods, []))
      end
    end
  end
end
