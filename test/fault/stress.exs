defmodule Snakepit.StressTest do
  # Everything at once in a real BEAM, for `make test-nif-asan`: calls of all
  # kinds, callers that die, workers that die, pools that close, clients of the
  # gRPC server that go. STRESS_SECONDS each, 20 unless told.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.GRPC.Listener
  alias Snakepit.Native

  @moduletag :capture_log
  @moduletag timeout: :infinity
  @long 120_000
  @ping "/snakepit.bridge.BridgeService/Ping"

  defp seconds, do: String.to_integer(System.get_env("STRESS_SECONDS", "20"))
  defp until, do: System.monotonic_time(:millisecond) + 1000 * seconds()
  defp over?(until), do: System.monotonic_time(:millisecond) >= until

  defp settings(transport) do
    common = Map.new(Keyword.take(defaults(), [:adapter_env]))
    tools = ["--adapter", "snakepit_test_tools.ThreadedTestTools"]

    pools = [
      %{name: :default, pool_size: 2},
      %{name: :threads, pool_size: 1, worker_profile: :thread, threads_per_worker: 3}
    ]

    [
      transport: transport,
      pool_max_queue_size: 30,
      pools: for(pool <- pools, do: common |> Map.merge(pool) |> Map.put(:adapter_args, tools))
    ]
  end

  # ---- callers ------------------------------------------------------------

  defp any_pool, do: Enum.random([:default, :threads])
  defp large, do: String.duplicate("x", 150_000)

  defp options do
    [pool: any_pool(), timeout: Enum.random([0, 1, 3, 10, 50, 5_000])] ++
      Enum.random([
        [],
        [],
        [session_id: Enum.random(~w(a b c))],
        [session_id: "d", affinity: :strict_queue],
        [session_id: "e", affinity: :strict_fail_fast]
      ])
  end

  defp one_call(path) do
    value = Enum.random([1, "text", large()])

    case :rand.uniform(9) do
      1 -> Snakepit.execute("hold", %{path: path}, options())
      2 -> Snakepit.execute_stream("numbers", %{count: 40}, &halt_some/1, options())
      3 -> Snakepit.execute_stream("endless", %{path: path}, &halt_some/1, options())
      4 -> "echo" |> Snakepit.async(%{value: value}, options()) |> Snakepit.cancel()
      5 -> "echo" |> Snakepit.async(%{value: value}, options()) |> Snakepit.await(5)
      6 -> lazily("numbers", %{count: 30})
      7 -> if :rand.uniform(20) == 1, do: Snakepit.execute("end", %{status: 1}, options())
      _ -> Snakepit.execute("echo", %{value: value}, options())
    end
  end

  defp halt_some(_chunk), do: if(:rand.uniform(20) == 1, do: :halt)

  defp lazily(tool, args) do
    tool |> Snakepit.stream(args, options()) |> Enum.take(:rand.uniform(30))
  rescue
    error -> error
  end

  defp call_until(until, path) do
    one_call(path)
    unless over?(until), do: call_until(until, path)
  end

  # Starts callers and kills them.
  defp murder_until(until, path) do
    {pid, monitor} = spawn_monitor(fn -> one_call(path) end)
    for _ <- 1..:rand.uniform(2_000), do: :erlang.yield()
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^pid, _}, @long
    unless over?(until), do: murder_until(until, path)
  end

  # ---- clients of the server ----------------------------------------------

  defp visit_until(until, address) do
    {pid, monitor} =
      spawn_monitor(fn ->
        channel = Native.channel_open(address)
        for _ <- 1..5, do: visit(channel)
        Native.channel_close(channel)
      end)

    if :rand.uniform(3) == 1, do: Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^pid, _}, @long
    unless over?(until), do: visit_until(until, address)
  end

  defp visit(channel) do
    ref = make_ref()
    {:ok, call} = Native.rpc_unary(channel, ref, @ping, "", Enum.random([0, 1, 1_000]), [])
    if :rand.uniform(2) == 1, do: Native.call_cancel(call)

    receive do
      {^ref, _} -> :ok
    after
      2 -> :ok
    end
  end

  # ---- pools without workers ----------------------------------------------

  defp close_until(until) do
    pool = Native.pool_new(:short, 10, 1_000)
    channel = Native.channel_open("unix:/nonexistent/socket")
    worker = spawn(fn -> Process.sleep(:infinity) end)
    _slot = Native.slot_add(pool, worker, "w", "s", 1, channel, [])
    times = {Enum.random([0, 1, 5_000]), 10_000}
    submission = [pool, make_ref(), :unary, "x", %{}, nil, :hint, times, {[], []}]
    _ = apply(Native, :submit, submission)
    for _ <- 1..2, do: spawn(fn -> Native.pool_close(pool) end)
    Process.exit(worker, :kill)
    unless over?(until), do: close_until(until)
  end

  # ---- all ----------------------------------------------------------------

  for transport <- [:local, :grpc] do
    test "over #{transport}" do
      start_pools(settings(unquote(transport)))
      {:ok, %{port: port}} = Listener.await_ready(@long)
      path = signal_path()
      until = until()

      jobs =
        List.duplicate(fn -> call_until(until, path) end, 6) ++
          List.duplicate(fn -> murder_until(until, path) end, 3) ++
          [fn -> visit_until(until, "127.0.0.1:#{port}") end, fn -> close_until(until) end]

      jobs |> Enum.map(&Task.async/1) |> Task.await_many(@long + 1000 * seconds())

      for pool <- [:default, :threads] do
        eventually(fn ->
          match?(%{busy: 0, queued: 0}, Snakepit.Pool.get_stats(Snakepit.Pool, pool))
        end)

        eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{}, pool: pool)) end)
      end
    end

    test "over #{transport}, stopped and started in the middle" do
      for _ <- 1..3 do
        start_pools(settings(unquote(transport)))
        path = signal_path()
        callers = for _ <- 1..20, do: spawn_monitor(fn -> one_call(path) end)
        for _ <- 1..:rand.uniform(20_000), do: :erlang.yield()
        assert stop_app() == []

        for {pid, monitor} <- callers,
            do: assert_receive({:DOWN, ^monitor, :process, ^pid, _}, @long)
      end
    end
  end
end
