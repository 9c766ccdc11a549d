defmodule Snakepit.MultiPoolTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Pool}

  defmodule Slow do
    defdelegate executable_path, to: Snakepit.Adapters.GRPCPython
    defdelegate script_path, to: Snakepit.Adapters.GRPCPython
    defdelegate script_args, to: Snakepit.Adapters.GRPCPython
    def uses_grpc?, do: true
    def command_timeout("hold", _args), do: 150
    def command_timeout(_command, _args), do: 60_000
    def validate_command("forbidden", _args), do: {:error, "it is forbidden"}
    def validate_command(_command, _args), do: :ok
    def prepare_args("echo", args), do: Map.update(args, :value, nil, &[&1])
    def prepare_args(_command, args), do: args
    def process_response("echo", value), do: {:ok, {:processed, value}}
    def process_response(_command, value), do: {:ok, value}
  end

  defmodule NoStreams do
    defdelegate executable_path, to: Snakepit.Adapters.GRPCPython
    defdelegate script_path, to: Snakepit.Adapters.GRPCPython
    defdelegate script_args, to: Snakepit.Adapters.GRPCPython
  end

  setup_all do
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env]))

    start_pools(
      pools: [
        Map.merge(common, %{name: :first, pool_size: 2}),
        Map.merge(common, %{name: :slow, pool_size: 1, adapter_module: Slow}),
        Enum.to_list(Map.merge(common, %{name: :plain, pool_size: 1, adapter_module: NoStreams}))
      ]
    )
  end

  test "each have their own workers" do
    assert [_, _] = Pool.list_workers(Pool, :first)
    assert [slow] = Pool.list_workers(Pool, :slow)
    assert String.starts_with?(slow, "slow_worker_")
    assert length(Snakepit.list_workers()) == 4
    assert %{workers: 4} = Snakepit.get_stats()
    assert %{workers: 1} = Snakepit.get_stats(:slow)
    {:ok, %{process_pid: os_pid}} = Snakepit.GRPCWorker.get_info(slow)
    assert worker_pid(pool: :slow) == os_pid
    assert worker_pid(pool_name: "slow") == os_pid
  end

  test "the first is the default one" do
    pids = for _ <- 1..5, do: worker_pid()

    {:ok, %{process_pid: slow}} = Snakepit.GRPCWorker.get_info(hd(Pool.list_workers(Pool, :slow)))

    refute slow in pids
  end

  test "an adapter's time-outs are those of its pool" do
    path = signal_path()

    assert {:error, %Error{category: :timeout, details: %{timeout_ms: 150}}} =
             Snakepit.execute("hold", %{path: path}, pool: :slow)

    eventually(fn -> match?(%{busy: 0}, Snakepit.get_stats(:slow)) end)
  end

  test "an adapter may refuse and change what passes through it" do
    assert {:error, %Error{category: :validation, message: "it is forbidden"}} =
             Snakepit.execute("forbidden", %{}, pool: :slow)

    assert Snakepit.execute("echo", %{value: 1}, pool: :slow) == {:ok, {:processed, [1]}}
  end

  test "an adapter without gRPC cannot stream" do
    assert {:error, %Error{category: :validation, message: message, details: details}} =
             Snakepit.execute_stream("numbers", %{count: 1}, fn _ -> :ok end, pool: :plain)

    assert message =~ "Streaming not supported"
    assert details.adapter == NoStreams
    assert {:ok, _} = Snakepit.execute("pid", %{}, pool: :plain)
  end

  test "waiting may be for one of them" do
    assert Pool.await_ready(:slow) == :ok
    assert {:error, %Error{category: :pool}} = Pool.await_ready(:nowhere)
  end
end
