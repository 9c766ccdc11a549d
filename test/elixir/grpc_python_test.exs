defmodule Snakepit.Adapters.GRPCPythonTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv, only: [put_env: 1]
  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.Adapters.GRPCPython
  alias Snakepit.GRPC.Client
  alias Snakepit.Pool.Registry

  @tools "snakepit_program_tools.ProgramTools"

  test "the port is up to the worker, and gRPC is there" do
    assert GRPCPython.get_port() == 0
    assert GRPCPython.grpc_available?()
    assert GRPCPython.uses_grpc?()
    assert File.regular?(GRPCPython.script_path())
    assert ["--adapter", _] = GRPCPython.script_args()
  end

  test "some commands have a time of their own" do
    put_env(grpc_command_timeout: 5)
    assert GRPCPython.command_timeout("batch_inference", %{}) == 300_000
    assert GRPCPython.command_timeout("process_large_dataset", %{}) == 600_000
    assert GRPCPython.command_timeout("any", %{}) == 5
  end

  test "where nobody listens there is no connection" do
    # One that is taken, so that nobody else begins to listen there.
    {:ok, socket} = :socket.open(:inet, :stream, :tcp)
    :ok = :socket.bind(socket, %{family: :inet, addr: {127, 0, 0, 1}, port: 0})
    {:ok, %{port: port}} = :socket.sockname(socket)
    assert GRPCPython.init_grpc_connection(port) == {:error, :unavailable}
    :ok = :socket.close(socket)
  end

  # A look at the file every now and then is all that others can count on.
  test "that a worker is ready is told to its process, and to no other" do
    start_pools(transport: :grpc)
    {:ok, path} = Snakepit.execute("env", %{name: "SNAKEPIT_READY_BELL"})
    assert Path.dirname(path) == Snakepit.Pool.ApplicationCleanup.run_dir()

    {:ok, _} = Registry.register_worker("heard", self())
    {:ok, socket} = :gen_udp.open(0, [:binary, ifaddr: {:local, ""}])
    worker = worker_pid()

    # Whatever is said there, those that are ready already have nothing of it.
    for text <-
          ["nobody", "", :crypto.strong_rand_bytes(5_000) | Snakepit.list_workers()] ++
            List.duplicate("x", 200) ++ ["heard"],
        do: :ok = ring(socket, path, text)

    assert_receive :ready_file_written, 60_000
    refute_received :ready_file_written
    assert worker_pid() == worker
  end

  # It is full from time to time.
  defp ring(socket, path, text) do
    case :gen_udp.send(socket, {:local, path}, 0, text) do
      {:error, :eagain} -> ring(socket, path, text)
      result -> result
    end
  end

  describe "one worker" do
    setup do
      start_pools(transport: :grpc, adapter_args: ["--adapter", @tools])
      [worker] = Snakepit.list_workers()
      {:ok, pid} = Registry.get_worker_pid(worker)
      {:ok, port} = GenServer.call(pid, {:get_port})
      {:ok, connection} = GRPCPython.init_grpc_connection(port)
      on_exit(fn -> Snakepit.Native.channel_close(connection.channel) end)
      %{connection: connection, port: port}
    end

    test "answers without a pool", %{connection: connection, port: port} do
      assert connection.port == port
      assert {:ok, 5} = GRPCPython.grpc_execute(connection, "s", "echo", %{value: 5})
      assert {:ok, 5} = GRPCPython.grpc_execute(connection, "s", "echo", %{value: 5}, 60_000)

      assert {:ok, <<0>>} =
               GRPCPython.grpc_execute(connection, "s", "echo", %{}, nil,
                 binary_parameters: %{"value" => <<0>>}
               )

      assert {:error, %Error.ValueError{}} =
               GRPCPython.grpc_execute(connection.channel, "s", "fail", %{
                 kind: "ValueError",
                 text: "no"
               })
    end

    test "streams the chunks that a pool's stream gives", %{connection: connection} do
      collect = fn run ->
        test = self()
        ref = make_ref()
        assert run.(&send(test, {ref, Map.delete(&1, "_metadata")})) == :ok
        collected(ref, [])
      end

      ours =
        collect.(&GRPCPython.grpc_execute_stream(connection, "s", "numbers", %{count: 3}, &1))

      assert ours == collect.(&Snakepit.execute_stream("numbers", %{count: 3}, &1))
      assert length(ours) >= 3
      assert List.last(ours)["is_final"]
    end

    test "a stream ends when its callback says so", %{connection: connection} do
      stream =
        &GRPCPython.grpc_execute_stream(connection, "s", "numbers", %{count: 1_000}, &1, 60_000)

      assert stream.(fn _ -> :halt end) == :ok
      assert stream.(fn _ -> {:halt, :enough} end) == {:error, :enough}
      assert_raise RuntimeError, "mine", fn -> stream.(fn _ -> raise "mine" end) end
      assert {:ok, 1} = Client.execute_tool(connection.channel, "s", "echo", %{value: 1})
    end
  end

  defp collected(ref, chunks) do
    receive do
      {^ref, chunk} -> collected(ref, [chunk | chunks])
    after
      0 -> Enum.reverse(chunks)
    end
  end
end
