defmodule Snakepit.TaintTest do
  # Workers that are tainted by hand while they serve, in a pool without a crash barrier.
  use ExUnit.Case, async: false

  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  alias Snakepit.{Error, GRPCWorker}
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Worker.TaintRegistry

  @moduletag :capture_log

  @long 60_000
  @forever 600_000

  setup context do
    start_pools(
      Keyword.merge([pool_size: 2, pool_reconcile_interval_ms: 10], context[:app] || [])
    )

    workers = Enum.sort(Snakepit.list_workers())
    # So that what they tell of their start comes before what a test does.
    Enum.each(workers, &settle/1)
    {:ok, workers: workers}
  end

  # Its process has done what it was doing.
  defp settle(id) do
    {:ok, pid} = Workers.get_worker_pid(id)
    :sys.get_state(pid, @long)
  end

  defp taint(id, ms \\ @forever), do: TaintRegistry.taint_worker(id, duration_ms: ms)
  defp clear(id), do: TaintRegistry.clear_worker(id)

  defp os_pid(id) do
    {:ok, %{process_pid: pid}} = GRPCWorker.get_info(id)
    pid
  end

  # Which of them a call finds one after the other.
  defp found(n \\ 20), do: Enum.uniq(for _ <- 1..n, do: worker_pid(timeout: @long))

  defp nobody_free,
    do: match?({:error, %Error{details: %{reason: :queue_timeout}}}, try_once())

  defp try_once, do: Snakepit.execute("pid", %{}, queue_timeout: 0)
  defp available, do: Snakepit.get_stats().available

  defp in_session(id, opts \\ []),
    do: Snakepit.execute_in_session(id, "pid", %{}, Keyword.put(opts, :timeout, @long))

  defp session, do: "tainted-#{System.unique_integer([:positive])}"

  # Of workers that come back.
  defp listen_for_workers,
    do: listen(for what <- [:spawn_started, :spawned], do: [:snakepit, :pool, :worker, what])

  defp await_worker(seen, id) do
    assert %{worker_id: ^id} = event(seen, [:snakepit, :pool, :worker, :spawned])
    settle(id)
  end

  # A session and its worker.
  defp session_on(id) do
    name = session()
    pid = os_pid(id)
    # The one that was used last has the next call.
    if in_session(name) == {:ok, pid}, do: name, else: session_elsewhere(id, pid)
  end

  defp session_elsewhere(id, pid) do
    name = session()
    path = signal_path()
    other = occupy(path)
    assert holder(path) != pid
    assert in_session(name) == {:ok, pid}
    go(path)
    assert {:ok, _} = Task.await(other, @long)
    assert id in Snakepit.list_workers()
    name
  end

  test "it gets nothing from then on, until it is cleared", %{workers: [one, two]} do
    for id <- [one, two], other <- [one, two] -- [id] do
      assert taint(id) == :ok
      assert found() == [os_pid(other)]
      assert %{workers: 2, available: 1, busy: 0} = Snakepit.get_stats()
      assert Enum.sort(Snakepit.list_workers()) == [one, two]

      path = signal_path()
      held = occupy(path)
      assert nobody_free()
      assert clear(id) == :ok
      assert found() == [os_pid(id)]
      go(path)
      assert Task.await(held, @long) == {:ok, os_pid(other)}
    end
  end

  test "what runs there ends there, what waits goes elsewhere", %{workers: workers} do
    path = signal_path()
    held = occupy(path)
    first = holder(path)
    {[id], [other]} = Enum.split_with(workers, &(os_pid(&1) == first))
    path2 = signal_path()
    held2 = occupy(path2)
    waits = Snakepit.async("pid", %{}, timeout: @long)
    taint(id)
    go(path)
    assert Task.await(held, @long) == {:ok, first}
    assert nobody_free()
    assert %{queued: 1} = Snakepit.get_stats()
    go(path2)
    second = os_pid(other)
    assert Snakepit.await(waits) == {:ok, second}
    assert Task.await(held2, @long) == {:ok, second}
  end

  test "a pool whose workers are all tainted has them all", %{workers: [one, two]} do
    taint(one)
    taint(two)
    assert available() == 2
    path = signal_path()
    held = occupy(path)
    assert Enum.sort([holder(path) | found()]) == Enum.sort([os_pid(one), os_pid(two)])
    go(path)
    assert {:ok, _} = Task.await(held, @long)
    clear(one)
    assert found() == [os_pid(one)]
    clear(two)
    assert available() == 2
  end

  @tag app: [pool_size: 1]
  test "a pool's only worker is not avoided, nor are its sessions refused",
       %{workers: [id]} do
    name = session()
    pid = os_pid(id)
    assert in_session(name) == {:ok, pid}
    taint(id)
    assert TaintRegistry.worker_tainted?(id)
    assert in_session(name, affinity: :strict_fail_fast) == {:ok, pid}
  end

  test "it serves when the last other one goes, and no longer when that is back",
       %{workers: [one, two]} do
    seen = listen_for_workers()
    first = os_pid(one)
    taint(one)
    path = signal_path()
    held = occupy(path)
    second = holder(path)
    waits = Snakepit.async("pid", %{}, timeout: @long)
    kill(second)
    assert {:error, %Error{details: %{reason: :worker_exit}}} = Task.await(held, @long)
    assert {:ok, pid} = Snakepit.await(waits)
    assert pid != second
    await_worker(seen, two)
    assert %{workers: 2, available: 1} = Snakepit.get_stats()
    assert found() == [os_pid(two)]
    assert os_pid(one) == first
    assert os_pid(two) != second
  end

  test "it serves when the process of the last other one is killed", %{workers: [one, two]} do
    seen = listen_for_workers()
    taint(one)
    path = signal_path()
    held = occupy(path)
    {:ok, pid} = Workers.get_worker_pid(two)
    waits = Snakepit.async("pid", %{}, timeout: @long)
    Process.exit(pid, :kill)
    assert {:error, %Error{}} = Task.await(held, @long)
    assert {:ok, _} = Snakepit.await(waits)
    await_worker(seen, two)
    assert %{workers: 2, available: 1} = Snakepit.get_stats()
    assert found() == [os_pid(two)]
  end

  test "sessions: strict ones are refused, :hint goes elsewhere", %{workers: [one, two]} do
    for mode <- [:strict_queue, :strict_fail_fast] do
      name = session_on(one)
      pid = os_pid(one)
      taint(one)

      assert {:error, %Error{category: :pool, details: %{reason: :session_worker_unavailable}}} =
               in_session(name, affinity: mode)

      clear(one)
      assert in_session(name, affinity: mode) == {:ok, pid}
    end

    name = session_on(one)
    taint(one)
    assert in_session(name) == {:ok, os_pid(two)}
  end

  test "a strict call that waits for it is refused", %{workers: workers} do
    name = session()
    path = signal_path()
    held = occupy(path, session_id: name)
    {[id], _} = Enum.split_with(workers, &(os_pid(&1) == holder(path)))
    waits = Task.async(fn -> in_session(name, affinity: :strict_queue) end)
    eventually(fn -> Snakepit.get_stats().queued == 1 end)
    taint(id)

    assert {:error, %Error{details: %{reason: :session_worker_unavailable}}} =
             Task.await(waits, @long)

    go(path)
    assert {:ok, _} = Task.await(held, @long)
  end

  test "when its time is over it serves again, however often that was changed",
       %{workers: [one, two]} do
    taint(one)
    taint(one, 1)
    eventually(fn -> available() == 2 end)
    refute TaintRegistry.worker_tainted?(one)

    # The time of the first is no end of the second.
    taint(one, 1)
    taint(one)
    marker = "marker-#{System.unique_integer([:positive])}"
    taint(marker, 1)
    eventually(fn -> not TaintRegistry.worker_tainted?(marker) end)
    settle(one)
    assert available() == 1
    assert found() == [os_pid(two)]

    taint(one, 0)
    assert available() == 2
  end

  test "a start is told of as one after a taint only if it was one", %{workers: [one, two]} do
    seen = listen([[:snakepit, :worker, :restarted]])
    taint(one, 1)
    # Over before the worker looks.
    taint(one, 0)
    eventually(fn -> available() == 2 end)
    TaintRegistry.taint_worker(two, duration_ms: @forever, reason: :by_hand)
    Enum.each([one, two], &settle/1)
    back = listen_for_workers()

    for id <- [one, two] do
      kill(os_pid(id), "TERM")
      await_worker(back, id)
    end

    assert %{worker_id: ^two, reason: :by_hand} = event(seen, [:snakepit, :worker, :restarted])
    refute_received {^seen, _, _, _}
  end

  test "whatever is done at once, what is known is what holds", %{workers: [one, two]} do
    for _ <- 1..30 do
      acts = for id <- [one, two], _ <- 1..3, act <- [&taint/1, &clear/1], do: {act, id}

      acts
      |> Enum.shuffle()
      |> Enum.map(fn {act, id} -> Task.async(fn -> act.(id) end) end)
      |> Task.await_many(@long)

      tainted = Enum.count([one, two], &TaintRegistry.worker_tainted?/1)
      assert available() == if(tainted == 1, do: 1, else: 2)
    end
  end

  test "calls and taints at once: each call is answered", %{workers: [one, two]} do
    callers =
      for _ <- 1..4 do
        Task.async(fn ->
          for _ <- 1..50, do: Snakepit.execute("echo", %{value: 1}, timeout: @long)
        end)
      end

    for _ <- 1..25, id <- [one, two], act <- [&taint/1, &clear/1], do: act.(id)
    answers = callers |> Task.await_many(@long) |> List.flatten()
    assert Enum.uniq(answers) == [{:ok, 1}]
    assert %{available: 2, queued: 0} = Snakepit.get_stats()
  end

  test "one that is being started again is avoided when it is back",
       %{workers: [one, two]} do
    seen = listen_for_workers()
    kill(os_pid(one), "TERM")
    assert %{worker_id: ^one} = event(seen, [:snakepit, :pool, :worker, :spawn_started])
    taint(one)
    await_worker(seen, one)
    assert %{workers: 2, available: 1} = Snakepit.get_stats()
    assert found() == [os_pid(two)]
    clear(one)
    assert available() == 2
  end

  test "a worker's own process may do it", %{workers: [one, two]} do
    event = [:snakepit, :pool, :worker, :spawned]
    id = {__MODULE__, make_ref()}
    own = fn _event, _measurements, %{worker_id: worker}, _ -> taint(worker) end
    :ok = Snakepit.Telemetry.attach(id, event, own, nil)
    on_exit(fn -> Snakepit.Telemetry.detach(id) end)
    seen = listen_for_workers()
    kill(os_pid(one), "TERM")
    await_worker(seen, one)
    assert %{workers: 2, available: 1} = Snakepit.get_stats()
    assert TaintRegistry.worker_tainted?(one)
    assert found() == [os_pid(two)]
  end

  test "one that retires does not come back by it", %{workers: workers} do
    path = signal_path()
    held = occupy(path)
    {[id], _} = Enum.split_with(workers, &(os_pid(&1) == holder(path)))
    {:ok, pid} = Workers.get_worker_pid(id)
    GRPCWorker.retire(pid, :manual)
    assert %{phase: :retiring} = settle(id)
    for act <- [&taint/1, &clear/1], do: assert(act.(id) == :ok)
    assert available() == 1
    monitor = Process.monitor(pid)
    go(path)
    assert {:ok, _} = Task.await(held, @long)
    assert_receive {:DOWN, ^monitor, _, _, {:shutdown, {:retired, :manual}}}, @long
  end

  test "one that retires leaves the calls to those that are avoided", %{workers: workers} do
    path = signal_path()
    held = occupy(path)
    {[id], [other]} = Enum.split_with(workers, &(os_pid(&1) == holder(path)))
    taint(other)
    assert nobody_free()
    {:ok, pid} = Workers.get_worker_pid(id)
    GRPCWorker.retire(pid, :manual)
    assert found(5) == [os_pid(other)]
    go(path)
    assert {:ok, _} = Task.await(held, @long)
  end

  test "of two workers the one that is tainted goes when the pool shrinks",
       %{workers: [one, two]} do
    assert in_session(session_on(one)) == {:ok, os_pid(one)}
    taint(one)
    :ok = Snakepit.Pool.resize(Snakepit.Pool, 1)
    eventually(fn -> Snakepit.list_workers() == [two] end)
  end

  test "a worker that nobody knows, and times that are none", %{workers: [one | _]} do
    assert taint("nobody") == :ok
    assert clear("nobody") == :ok

    for ms <- [-1, 1.5, "5", :infinity] do
      assert_raise ArgumentError, ~r/duration_ms is how long .* got: #{inspect(ms)}/, fn ->
        taint(one, ms)
      end
    end

    # Longer than a timer can be set for.
    assert taint(one, 1_000_000_000_000_000) == :ok
    assert available() == 1
    assert clear(one) == :ok
    assert available() == 2
  end
end
