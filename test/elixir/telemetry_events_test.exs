defmodule Snakepit.TelemetryEventsTest do
  # What events say, where that is not tested with what they tell of.
  use ExUnit.Case, async: false

  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  alias Snakepit.Bridge.SessionStore
  alias Snakepit.{CircuitBreaker, Executor}
  alias Snakepit.Error.PythonException

  @moduletag :capture_log

  describe "pool, status" do
    @status [:snakepit, :pool, :status]

    test "is told now and then, of each pool" do
      start_pools(
        pool_status_interval_ms: 1,
        pools: [
          Map.new(name: :one, pool_size: 1) |> Map.merge(tools()),
          Map.new(name: :two, pool_size: 2) |> Map.merge(tools())
        ]
      )

      path = signal_path()
      held = occupy(path, pool_name: :one)
      waiting = Snakepit.async("pid", %{}, pool_name: :one)
      id = listen([@status])

      assert_receive {^id, @status, %{queue_depth: 1} = measured, %{pool_name: :one} = about},
                     60_000

      assert measured == %{
               queue_depth: 1,
               total_workers: 1,
               available_workers: 0,
               busy_workers: 1,
               segments_sent: 0,
               segments_received: 0,
               segments_missing: 0
             }

      assert about.node == node()

      assert_receive {^id, @status, %{total_workers: 2, busy_workers: 0}, %{pool_name: :two}},
                     60_000

      go(path)
      assert {:ok, _} = Task.await(held, 60_000)
      assert {:ok, _} = Snakepit.await(waiting)
    end

    test "is not told at all where the interval is 0" do
      id = listen([@status])
      start_pools(pool_status_interval_ms: 0)
      assert {:ok, _} = Snakepit.execute("pid", %{})
      state = :sys.get_state(Snakepit.Pool)
      assert map_size(state.pools) == 1
      refute_received {^id, @status, _, _}
    end
  end

  defp tools do
    defaults() |> Keyword.take([:adapter_args, :adapter_env, :transport, :prefork]) |> Map.new()
  end

  describe "pool, worker, restarted" do
    @restarted [:snakepit, :pool, :worker, :restarted]

    test "counts, and says what was before" do
      start_pools([])
      id = listen([@restarted])
      [worker] = Snakepit.list_workers()

      for count <- 1..2 do
        {:ok, before} = Snakepit.Pool.Registry.get_worker_pid(worker)
        assert {:error, _} = Snakepit.execute("die_once", %{path: signal_path(), number: 9})
        told = event(id, @restarted)
        assert %{worker_id: ^worker, pool_name: :default, previous_pid: ^before} = told
        assert told.worker_pid != before and told.reason != nil
        assert {:ok, told.worker_pid} == Snakepit.Pool.Registry.get_worker_pid(worker)
        assert %{restart_count: ^count, downtime: downtime} = told.measurements
        assert downtime > 0
      end
    end

    test "is not told of a worker that is replaced by another one" do
      start_pools([])
      id = listen([@restarted, [:snakepit, :worker, :recycled]])
      [worker] = Snakepit.list_workers()
      :ok = Snakepit.Worker.LifecycleManager.recycle_worker(:default, worker)
      assert %{worker_id: ^worker} = event(id, [:snakepit, :worker, :recycled])
      assert {:ok, _} = Snakepit.execute("pid", %{})
      refute_received {^id, @restarted, _, _}
    end
  end

  describe "grpc" do
    @call [:snakepit, :grpc, :call]
    @stream [:snakepit, :grpc, :stream]
    @connection [:snakepit, :grpc, :connection]
    @rpcs for(what <- [:start, :stop, :exception], do: @call ++ [what]) ++
            for(what <- [:opened, :message, :closed], do: @stream ++ [what])

    test "a call is told as what it is on the wire" do
      start_pools(transport: :grpc)
      id = listen(@rpcs)
      [worker] = Snakepit.list_workers()
      assert {:ok, _} = Snakepit.execute("pid", %{}, correlation_id: "c", timeout: 9_000)
      start = event(id, @call ++ [:start])
      assert %{rpc_method: "ExecuteTool", command: "pid", correlation_id: "c"} = start
      assert %{worker_id: ^worker, pool_name: :default, timeout_ms: 9_000} = start
      stop = event(id, @call ++ [:stop])
      assert %{status: :ok, worker_id: ^worker, measurements: %{duration: duration}} = stop
      assert duration > 0

      assert {:error, _} = Snakepit.execute("no_such_tool", %{}, session_id: "s")
      assert %{session_id: "s"} = event(id, @call ++ [:start])
      assert %{status: :error, error_kind: :python_error} = event(id, @call ++ [:stop])

      inputs = Stream.map([1], fn _ -> throw(:oops) end)
      assert catch_throw(Snakepit.execute("sum_all", %{}, inputs: inputs)) == :oops
      assert %{rpc_method: "ExecuteInteractiveTool"} = event(id, @call ++ [:start])
      assert %{kind: :throw, reason: :oops} = event(id, @call ++ [:exception])
    end

    test "a stream is, with its messages" do
      start_pools(transport: :grpc)
      id = listen(@rpcs)

      for read <- [
            fn -> Snakepit.execute_stream("numbers", %{count: 3}, fn _ -> :ok end) end,
            fn -> "numbers" |> Snakepit.stream(%{count: 3}) |> Stream.run() end
          ] do
        assert :ok = read.()
        opened = event(id, @stream ++ [:opened])
        assert %{rpc_method: "ExecuteStreamingTool", command: "numbers"} = opened
        closed = event(id, @stream ++ [:closed])
        assert %{status: :ok, measurements: %{message_count: count}} = closed
        assert count >= 3

        for n <- 1..count do
          told = event(id, @stream ++ [:message])
          assert %{sequence_number: ^n, message_size: size} = told.measurements
          assert size > 0
        end
      end

      throwing = fn -> Snakepit.execute_stream("numbers", %{count: 3}, &throw/1) end
      assert catch_throw(throwing.()) != nil
      assert %{status: :error, error_kind: :throw} = event(id, @stream ++ [:closed])
    end

    test "nothing of it is told of workers that have the local carrier" do
      start_pools(transport: :local)
      id = listen([[:snakepit, :request, :executed], @connection ++ [:lost] | @rpcs])
      [worker] = Snakepit.list_workers()
      assert {:ok, _} = Snakepit.execute("pid", %{})
      assert :ok = Snakepit.execute_stream("numbers", %{count: 3}, fn _ -> :ok end)
      assert {:error, _} = Snakepit.execute("die_once", %{path: signal_path(), number: 9})
      for _ <- 1..3, do: event(id, [:snakepit, :request, :executed])
      eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{})) end)
      assert [^worker] = Snakepit.list_workers()
      refute_received {^id, [:snakepit, :grpc | _], _, _}
    end

    test "connections come, go, and are made again for another pool process" do
      id = listen(for what <- [:established, :reconnected, :lost], do: @connection ++ [what])
      start_pools(transport: :grpc)
      [worker] = Snakepit.list_workers()
      established = event(id, @connection ++ [:established])
      assert %{worker_id: ^worker, pool_name: :default, python_port: port} = established

      Process.exit(Process.whereis(Snakepit.Pool), :kill)
      assert %{python_port: ^port} = event(id, @connection ++ [:reconnected])
      eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{})) end)

      assert {:error, _} = Snakepit.execute("die_once", %{path: signal_path(), number: 9})
      lost = event(id, @connection ++ [:lost])
      assert %{worker_id: ^worker, python_port: ^port, measurements: %{uptime: uptime}} = lost
      assert uptime > 0

      # The next one's; a planned end is not a loss.
      assert %{worker_id: ^worker} = event(id, @connection ++ [:established])
      _ = stop_app()
      refute_received {^id, _, _, _}
    end
  end

  test "session_store, session: what becomes of a session" do
    store = [:snakepit, :session_store, :session]
    id = listen(for w <- [:created, :accessed, :updated, :deleted, :expired], do: store ++ [w])
    session = "s#{System.unique_integer([:positive])}"

    steps = [
      created: fn -> {:ok, _} = SessionStore.create_session(session) end,
      accessed: fn -> {:ok, _} = SessionStore.get_session(session) end,
      updated: fn -> {:ok, _} = SessionStore.update_session(session, & &1) end,
      deleted: fn -> :ok = SessionStore.delete_session(session) end,
      created: fn -> {:ok, _} = SessionStore.create_session(session, ttl: 0) end,
      expired: fn ->
        eventually(fn ->
          _ = SessionStore.cleanup_expired_sessions()
          not SessionStore.session_exists?(session)
        end)
      end
    ]

    for {what, step} <- steps do
      step.()

      assert_receive {^id, name, %{count: 1, system_time: _}, %{session_id: ^session}}, 60_000
      assert name == store ++ [what]
    end

    assert {:error, :not_found} = SessionStore.get_session(session)
    refute_received {^id, _, _, %{session_id: ^session}}
  end

  test "retry, backoff: before each wait" do
    backoff = [:snakepit, :retry, :backoff]
    id = listen([backoff])
    fail = fn -> {:error, :timeout} end
    assert fail.() == Executor.execute_with_retry(fail, max_attempts: 3, backoff_ms: [1, 2])

    for {attempt, wait} <- [{1, 1}, {2, 2}] do
      told = event(id, backoff)
      assert told.measurements == %{attempt: attempt, delay_ms: wait}
      assert told.last_error == {:error, :timeout}
    end

    refute_received {^id, _, _, _}
  end

  test "error, python_exception: each that a tool raises, once" do
    name = [:snakepit, :error, :python_exception]
    id = listen([name])
    context = %{"library" => "numpy", "function" => "dot"}

    _ =
      PythonException.from_wire(%{
        "type" => "ValueError",
        "message" => "no",
        "context" => context,
        "cause" => %{"type" => "KeyError", "message" => "inner"}
      })

    assert %{python_type: "ValueError", library: "numpy", function: "dot", error_message: "no"} =
             event(id, name)

    refute_received {^id, _, _, _}
  end

  test "circuit_breaker, call: what a breaker lets through, and what not" do
    call = [:snakepit, :circuit_breaker, :call]
    id = listen([call ++ [:allowed], call ++ [:rejected]])
    name = :"breaker#{System.unique_integer([:positive])}"
    opts = [name: name, failure_threshold: 1, reset_timeout_ms: 60_000]
    breaker = start_supervised!({CircuitBreaker, opts})
    assert {:error, :no} = CircuitBreaker.call(breaker, fn -> {:error, :no} end)
    assert %{pool: ^name, state: :closed} = event(id, call ++ [:allowed])
    assert {:error, :circuit_open} = CircuitBreaker.call(breaker, fn -> :ok end)
    assert %{pool: ^name, state: :open} = event(id, call ++ [:rejected])
    refute CircuitBreaker.allow_call?(breaker)
    assert %{state: :open} = event(id, call ++ [:rejected])
    assert :ok = CircuitBreaker.reset(breaker)
    assert CircuitBreaker.allow_call?(breaker)
    assert %{state: :closed} = event(id, call ++ [:allowed])
  end
end
