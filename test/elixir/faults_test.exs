defmodule Snakepit.FaultsTest do
  # Workers that really crash, and what becomes of the calls on them.
  use ExUnit.Case, async: false

  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  alias Snakepit.{CrashBarrier, Error}
  alias Snakepit.Worker.TaintRegistry

  @moduletag :capture_log

  @long 60_000
  @segv 11
  @abrt 6
  @kill 9

  defp start(barrier, settings \\ []) do
    barrier = Keyword.merge([enabled: true, taint_ms: 600_000, backoff_ms: [1]], barrier)

    start_pools(
      Keyword.merge(
        [pool_size: 2, pool_reconcile_interval_ms: 10, crash_barrier: barrier],
        settings
      )
    )

    signal_path()
  end

  defp die_once(path, number, opts \\ [], args \\ %{}) do
    args = Map.merge(%{path: path, number: number, idempotent: true}, args)
    Snakepit.execute("die_once", args, Keyword.put_new(opts, :timeout, @long))
  end

  # The processes that ran it, in order.
  defp ran(path), do: path |> File.read!() |> String.split() |> Enum.map(&String.to_integer/1)

  defp tainted,
    do: Enum.filter(Snakepit.list_workers(), &CrashBarrier.worker_tainted?/1)

  for {name, number, code, class} <- [
        {"SIGSEGV", @segv, 139, :segfault},
        {"SIGABRT", @abrt, 134, :abort},
        {"SIGKILL", @kill, 137, :oom}
      ] do
    test "#{name}: another worker answers, the first is avoided" do
      seen = listen(for what <- [:crash, :tainted, :restarted], do: [:snakepit, :worker, what])
      path = start(mark_on: [:segfault, :abort, :oom])
      assert {:ok, second} = die_once(path, unquote(number))
      assert [first, ^second] = ran(path)
      assert first != second

      assert %{worker_id: id, pool: :default, reason: unquote(class), exit_code: unquote(code)} =
               event(seen, [:snakepit, :worker, :crash])

      assert %{measurements: %{duration_ms: 600_000}} =
               event(seen, [:snakepit, :worker, :tainted])

      assert CrashBarrier.worker_tainted?(id)

      # It comes back, and gets nothing: one call at a time finds the other.
      assert %{worker_id: ^id} = event(seen, [:snakepit, :worker, :restarted])
      eventually(fn -> id in Snakepit.list_workers() end)
      assert Enum.uniq(for _ <- 1..20, do: worker_pid()) == [second]
      holder = occupy(path <> ".hold")

      assert {:error, %Error{details: %{reason: :queue_timeout}}} =
               Snakepit.execute("pid", %{}, queue_timeout: 0)

      go(path <> ".hold")
      assert {:ok, ^second} = Task.await(holder, @long)
    end
  end

  test "a device that fails is a crash whatever the exit status" do
    path = start([])
    say = "RuntimeError: CUDA error: device-side assert triggered on cuda:1"
    # SIGABRT is none by itself here.
    seen = listen([[:snakepit, :worker, :tainted]])
    assert {:ok, _} = die_once(path, @abrt, [], %{say: say})
    assert %{worker_id: id} = event(seen, [:snakepit, :worker, :tainted])

    assert {:ok, %{reason: :gpu, device: {:cuda, 1}, exit_code: 134}} =
             TaintRegistry.worker_info(id)
  end

  test "without the mark the crash is an error that says what it was" do
    path = start([])

    assert {:error, %Error{category: :worker, details: details}} =
             die_once(path, @segv, [], %{idempotent: false})

    assert %{
             type: :worker_crash,
             classification: :segfault,
             exit_code: 139,
             signal: 11,
             reason: :worker_exit,
             command: "die_once"
           } = details

    refute Map.has_key?(details, :retries)
    assert [_one] = ran(path)
    assert CrashBarrier.worker_tainted?(details.worker_id)
  end

  test "the option says it too, and is not sent to the tool" do
    path = start([])
    assert {:ok, _} = die_once(path, @segv, [idempotent: true], %{idempotent: false})
    path = path <> "2"
    assert {:error, %Error{}} = die_once(path, @segv, idempotent: false)
    assert [_one] = ran(path)
  end

  test "retry: :always and :never" do
    path = start(retry: :always)
    assert {:ok, _} = die_once(path, @segv, [], %{idempotent: false})
    path = start(retry: :never)
    assert {:error, %Error{details: %{type: :worker_crash}}} = die_once(path, @segv)
  end

  test "switched off: no taint, no retry, the error as ever" do
    path = start(enabled: false)
    assert {:error, %Error{details: %{reason: :worker_exit} = details}} = die_once(path, @segv)
    refute Map.has_key?(details, :type)
    refute CrashBarrier.worker_tainted?(details.worker_id)
  end

  test "what is no crash is not retried" do
    path = start([])

    assert {:error, %Error{details: %{reason: :worker_exit, exit_status: 3, worker_id: id}}} =
             Snakepit.execute("end", %{status: 3}, idempotent: true, timeout: @long)

    refute CrashBarrier.worker_tainted?(id)
    # SIGABRT is none unless it is asked for.
    assert {:error, %Error{details: %{signal: 6} = details}} = die_once(path, @abrt)
    refute CrashBarrier.worker_tainted?(details.worker_id)
  end

  test "a worker that Snakepit itself has to kill has not crashed" do
    path = start([], pool_size: 1, cancel_grace_ms: 1)
    first = worker_pid()
    stuck = &Snakepit.execute("deadlock", %{path: path}, timeout: &1)

    assert {:error, %Error{category: :timeout}} =
             timed_out_running(path <> ".started", 1_000, stuck)

    assert worker_pid(timeout: @long) != first
    assert [id] = Snakepit.list_workers()
    refute CrashBarrier.worker_tainted?(id)
  end

  test "a pool's only worker is not avoided when it is back" do
    path = start([backoff_ms: [1]], pool_size: 1)
    assert {:ok, second} = die_once(path, @segv)
    assert [first, ^second] = ran(path)
    assert first != second
    assert [id] = tainted()
    assert id in Snakepit.list_workers()
    assert worker_pid() == second
  end

  test "an avoided worker serves when the last other one goes" do
    path = start([])
    assert {:ok, second} = die_once(path, @segv)
    eventually(fn -> length(Snakepit.list_workers()) == 2 end)
    assert [_id] = tainted()
    # SIGTERM: no crash, nobody is tainted by it.
    kill(second, "TERM")
    eventually(fn -> match?({:ok, pid} when pid != second, Snakepit.execute("pid", %{})) end)
  end

  test "when the time is over the worker serves again" do
    path = start(taint_ms: 1)
    assert {:ok, second} = die_once(path, @segv)
    eventually(fn -> Snakepit.get_stats(:default).workers == 2 end)
    assert tainted() == []
    holder = occupy(path <> ".hold")
    first = holder(path <> ".hold")
    assert worker_pid(timeout: @long) != first
    go(path <> ".hold")
    assert {:ok, ^first} = Task.await(holder, @long)
    assert second in [first, worker_pid()]
  end

  test "no retry begins that cannot end in time" do
    path = start(backoff_ms: [600_000])
    assert {:error, %Error{details: details}} = die_once(path, @segv, timeout: @long)
    assert %{type: :worker_crash, timeout_ms: @long} = details
    refute Map.has_key?(details, :retries)
    assert [_one] = ran(path)
  end

  test "a retry that finds no worker gives the crash, and says so" do
    path = start([])
    holder = occupy(path <> ".hold")
    assert {:error, %Error{details: details}} = die_once(path, @segv, queue_timeout: 0)
    assert %{type: :worker_crash, retries: 1, retry_error: :queue_timeout} = details
    go(path <> ".hold")
    assert {:ok, _} = Task.await(holder, @long)
  end

  test "a retry waits for a worker no longer than crash_barrier_checkout_timeout" do
    path = start([], crash_barrier_checkout_timeout: 0)
    holder = occupy(path <> ".hold")

    assert {:error, %Error{details: details}} =
             die_once(path, @segv, queue_timeout: @long, timeout: :infinity)

    assert %{type: :worker_crash, retries: 1, retry_error: :queue_timeout} = details
    go(path <> ".hold")
    assert {:ok, _} = Task.await(holder, @long)
  end

  test "at most so many retries" do
    path = start(max_retries: 2, taint_ms: 0)
    tries = for n <- 1..3, do: "#{path}.#{n}"
    # Each of three tries dies once.
    seen = listen(for what <- [:attempt, :exhausted, :success], do: [:snakepit, :retry, what])

    assert {:error, %Error{details: %{retries: 2, type: :worker_crash}}} =
             Snakepit.execute("die_each", %{paths: tries, number: @segv, idempotent: true},
               timeout: @long
             )

    assert %{measurements: %{attempt: 1}, pool: :default, operation: "die_each"} =
             event(seen, [:snakepit, :retry, :attempt])

    assert %{measurements: %{attempt: 2}} = event(seen, [:snakepit, :retry, :attempt])
    assert %{measurements: %{attempts: 3}} = event(seen, [:snakepit, :retry, :exhausted])
    assert Enum.all?(tries, &File.exists?/1)
  end

  test "a stream that has given nothing is made again, one that has is not" do
    path = start(taint_ms: 0)
    test = self()
    keep = fn chunk -> send(test, {:chunk, chunk["n"]}) end
    args = %{path: path, number: @segv, chunks: 0, idempotent: true}
    assert :ok = Snakepit.execute_stream("die_once_in_stream", args, keep, timeout: @long)
    assert [_, second] = ran(path)
    assert_received {:chunk, ^second}

    path = path <> "2"
    args = %{args | path: path, chunks: 9}

    first = fn chunk ->
      if chunk["n"] == 8, do: go(path)
      keep.(chunk)
    end

    assert {:error, %Error{details: %{chunks_delivered: true, type: :worker_crash}}} =
             Snakepit.execute_stream("die_once_in_stream", args, first, timeout: @long)

    assert [_one] = ran(path)
  end

  test "a call with inputs is not made again: they are gone" do
    path = start([])

    assert {:error, %Error{details: %{type: :worker_crash}}} =
             die_once(path, @segv, inputs: [1, 2, 3])

    assert [_one] = ran(path)
  end

  test "async: the retry is made when it is awaited, and within that time" do
    path = start(backoff_ms: [1])
    args = %{path: path, number: @segv, idempotent: true}
    call = Snakepit.async("die_once", args, timeout: @long)
    assert {:ok, second} = Snakepit.await(call)
    assert [_, ^second] = ran(path)
  end

  test "many calls at once, each answered once" do
    path = start([max_retries: 3, taint_ms: 0], pool_size: 2)

    answers =
      1..12
      |> Enum.map(fn n -> Task.async(fn -> die_once("#{path}.#{rem(n, 3)}", @segv) end) end)
      |> Task.await_many(2 * @long)

    assert Enum.all?(answers, &match?({:ok, _}, &1))
  end
end
