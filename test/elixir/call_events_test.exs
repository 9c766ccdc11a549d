defmodule Snakepit.CallEventsTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  @execute [:snakepit, :grpc_worker, :execute]
  @session [:snakepit, :grpc_worker, :execute_session]
  @stream [:snakepit, :grpc_worker, :execute_stream]
  @executed [:snakepit, :request, :executed]
  @dispatched [:snakepit, :pool, :call, :dispatched]
  @queue [:snakepit, :pool, :queue]

  # A stream that was left early may still have its worker when the next comes.
  @unqueued [@executed, @dispatched] ++
              for(what <- [:start, :stop, :exception], do: @stream ++ [what])

  @all for(
         what <- [:start, :stop, :exception],
         span <- [@execute, @session, @stream],
         do: span ++ [what]
       ) ++
         for(what <- [:enqueued, :dequeued, :timeout], do: @queue ++ [what]) ++
         [@executed, @dispatched]

  setup do
    start_pools([])
    %{id: listen(@all)}
  end

  defp nothing_left(id) do
    refute_received {^id, _event, _measurements, _metadata}
    assert for({{Snakepit.Pool.CallEvents, _} = key, _} <- Process.get(), do: key) == []
    refute Enum.any?(elem(Process.info(self(), :messages), 1), &is_reference(elem(&1, 0)))
  end

  test "a call tells when its worker gets it, and how it ended", %{id: id} do
    assert {:ok, _} = Snakepit.execute("pid", %{}, correlation_id: "c-1", timeout: 60_000)
    [worker] = Snakepit.list_workers()

    assert %{worker_id: ^worker, pool: :default, command: "pid", queued: false} =
             event(id, @dispatched)

    start = event(id, @execute ++ [:start])
    assert %{worker_id: ^worker, worker_pid: pid, command: "pid", operation: :execute} = start

    assert %{correlation_id: "c-1", timeout_ms: 60_000, session_id: nil, span_kind: :client} =
             start

    assert {:ok, ^pid} = Snakepit.Pool.Registry.get_worker_pid(worker)

    stop = event(id, @execute ++ [:stop])
    assert %{status: :ok, worker_id: ^worker, correlation_id: "c-1"} = stop
    assert %{duration: duration, executions: 1} = stop.measurements
    assert duration > 0 and not is_map_key(stop.measurements, :errors)

    assert %{success: true, worker_id: ^worker, pool: :default} = event(id, @executed)
    nothing_left(id)
  end

  test "errors are told as such, and each call has a correlation id", %{id: id} do
    assert {:error, _} = Snakepit.execute("no_such_tool", %{}, session_id: "s")
    assert %{session_id: "s", correlation_id: made} = event(id, @session ++ [:start])
    assert byte_size(made) > 0
    stop = event(id, @session ++ [:stop])
    assert %{status: :error, error_kind: :python_error, correlation_id: ^made} = stop
    assert stop.measurements.errors == 1
    assert %{success: false} = event(id, @executed)
  end

  test "a call that waits tells of the queue", %{id: id} do
    path = signal_path()
    task = occupy(path)
    waiting = Task.async(fn -> Snakepit.execute("pid", %{}) end)
    assert %{command: "pid", measurements: %{queue_depth: 1}} = event(id, @queue ++ [:enqueued])
    go(path)
    assert {:ok, _} = Task.await(waiting, 60_000)
    assert %{measurements: %{queue_time: time}} = event(id, @queue ++ [:dequeued])
    assert time > 0
    assert %{command: "hold", queued: false} = event(id, @dispatched)
    assert %{command: "pid", queued: true} = event(id, @dispatched)
    assert {:ok, _} = Task.await(task, 60_000)
  end

  test "a call that waited in vain was on no worker", %{id: id} do
    path = signal_path()
    task = occupy(path)
    assert %{command: "hold"} = event(id, @execute ++ [:start])
    assert {:error, _} = Snakepit.execute("pid", %{}, queue_timeout: 10)
    assert %{command: "pid"} = event(id, @queue ++ [:timeout])
    assert %{success: false, worker_id: nil, command: "pid"} = event(id, @executed)
    go(path)
    assert {:ok, _} = Task.await(task, 60_000)
    refute_received {^id, [:snakepit, :grpc_worker, _, _], _, %{command: "pid"}}
  end

  test "streams tell the same", %{id: id} do
    assert :ok = Snakepit.execute_stream("numbers", %{count: 3}, fn _ -> :ok end)
    assert %{queued: false} = event(id, @dispatched)
    assert %{operation: :execute_stream} = event(id, @stream ++ [:start])
    assert %{status: :ok} = event(id, @stream ++ [:stop])
    assert %{streaming: true, success: true} = event(id, @executed)

    assert {:error, _} =
             Snakepit.execute_stream("numbers", %{count: 3, fail_at: 1}, fn _ -> :ok end)

    assert %{} = event(id, @dispatched)
    assert %{} = event(id, @stream ++ [:start])
    assert %{status: :error, error_kind: :python_error} = event(id, @stream ++ [:stop])
    assert %{streaming: true, success: false} = event(id, @executed)
    nothing_left(id)
  end

  test "what a callback throws is told", %{id: id} do
    assert catch_throw(Snakepit.execute_stream("numbers", %{count: 3}, &throw/1)) != nil
    assert %{} = event(id, @dispatched)
    assert %{} = event(id, @stream ++ [:start])
    assert %{kind: :throw, stacktrace: [_ | _]} = event(id, @stream ++ [:exception])
    assert %{success: false} = event(id, @executed)
    nothing_left(id)
  end

  test "lazy streams, read to the end or not", %{id: all} do
    :ok = Snakepit.Telemetry.detach(all)
    id = listen(@unqueued)

    for take <- [1, 100] do
      assert [_ | _] = "numbers" |> Snakepit.stream(%{count: 10}) |> Enum.take(take)
      assert %{} = event(id, @dispatched)
      assert %{} = event(id, @stream ++ [:start])
      assert %{status: :ok} = event(id, @stream ++ [:stop])
      assert %{streaming: true, success: true} = event(id, @executed)
    end

    nothing_left(id)
  end

  test "calls with inputs", %{id: id} do
    assert {:ok, 10} = Snakepit.execute("sum_all", %{}, inputs: 1..4)
    assert %{} = event(id, @dispatched)
    assert %{} = event(id, @execute ++ [:start])
    assert %{status: :ok} = event(id, @execute ++ [:stop])
    assert %{success: true} = event(id, @executed)
    nothing_left(id)
  end

  test "calls whose answer is taken later, or never", %{id: id} do
    assert {:ok, _} = "pid" |> Snakepit.async() |> Snakepit.await()
    assert %{} = event(id, @dispatched)
    assert %{} = event(id, @execute ++ [:start])
    assert %{status: :ok} = event(id, @execute ++ [:stop])
    assert %{success: true} = event(id, @executed)

    async = Snakepit.async("hold", %{path: signal_path()})
    assert :ok = Snakepit.cancel(async)
    assert %{} = event(id, @dispatched)
    assert %{} = event(id, @execute ++ [:start])
    assert %{status: :error} = event(id, @execute ++ [:stop])
    assert %{success: false} = event(id, @executed)
    nothing_left(id)
  end

  test "the start is told while the call runs", %{id: id} do
    path = signal_path()
    go = fn -> go(path) end

    handler = fn _event, _measurements, _metadata, test ->
      await_file(path <> ".started")
      send(test, :running)
      go.()
    end

    running = {__MODULE__, make_ref()}
    :ok = Snakepit.Telemetry.attach(running, @execute ++ [:start], handler, self())
    on_exit(fn -> Snakepit.Telemetry.detach(running) end)
    assert {:ok, _} = Snakepit.execute("hold", %{path: path})
    assert_received :running
    assert %{status: :ok} = event(id, @execute ++ [:stop])
  end

  for carrier <- [:local, :grpc] do
    test "who listens to ends only gets them all the same, over #{carrier}", %{id: all} do
      :ok = Snakepit.Telemetry.detach(all)
      start_pools(transport: unquote(carrier))
      id = listen([@executed, @execute ++ [:stop]])
      [worker] = Snakepit.list_workers()

      for call <- [
            fn -> Snakepit.execute("pid", %{}) end,
            fn -> "pid" |> Snakepit.async() |> Snakepit.await() end
          ] do
        assert {:ok, _} = call.()
        assert %{status: :ok, worker_id: ^worker} = event(id, @execute ++ [:stop])
        assert %{success: true, worker_id: ^worker} = event(id, @executed)
      end

      path = signal_path()
      task = occupy(path)
      waiting = Snakepit.async("pid")
      go(path)
      assert {:ok, _} = Task.await(task, 60_000)
      assert {:ok, _} = Snakepit.await(waiting)
      for _ <- 1..2, do: assert(%{worker_id: ^worker} = event(id, @execute ++ [:stop]))
      for _ <- 1..2, do: assert(%{worker_id: ^worker} = event(id, @executed))
      nothing_left(id)
    end
  end

  # With so many some are sent ahead of their turn, others wait.
  test "each of many calls is told once, with a worker", %{id: all} do
    :ok = Snakepit.Telemetry.detach(all)
    start_pools(pool_size: 2)
    workers = Snakepit.list_workers()

    for events <- [[@executed], [@executed, @execute ++ [:start]]] do
      id = listen(events)

      1..40
      |> Enum.map(fn n ->
        Task.async(fn ->
          for i <- 1..25, do: {:ok, _} = Snakepit.execute("echo", %{value: n * i})
          if rem(n, 4) == 0, do: {:ok, _} = "pid" |> Snakepit.async() |> Snakepit.await()
        end)
      end)
      |> Task.await_many(60_000)

      for _ <- 1..(40 * 25 + 10) do
        told = event(id, @executed)
        assert told.worker_id in workers and told.success
        assert told.measurements.duration_us >= 0
      end

      refute_received {^id, @executed, _, _}
      :ok = Snakepit.Telemetry.detach(id)
    end
  end

  test "nothing is made while nobody listens", %{id: id} do
    :ok = Snakepit.Telemetry.detach(id)
    assert Snakepit.Telemetry.calls() == 0
    assert Snakepit.Pool.CallEvents.watch(:execute, nil, nil) == nil
  end
end
