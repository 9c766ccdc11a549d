defmodule Snakepit.StatsTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Pool

  @sums [:requests, :answered, :failed, :running, :queued]

  defp adds_up?(stats) do
    stats.requests == stats.answered + stats.failed + stats.running + stats.queued and
      stats.failed ==
        stats.cancelled + stats.queue_timeouts + stats.timeouts + stats.workers_lost +
          stats.refused
  end

  defp assert_adds_up(stats) do
    assert adds_up?(stats), "they do not add up: #{inspect(stats)}"
    stats
  end

  defp idle do
    eventually(fn ->
      match?(%{busy: 0, queued: 0, running: 0, abandoned: 0}, assert_adds_up(Pool.get_stats()))
    end)
  end

  defp diff(before), do: Map.new(Pool.get_stats(), fn {key, n} -> {key, n - before[key]} end)

  describe "one kind of end at a time" do
    setup do
      start_pools(pool_size: 1, pool_max_queue_size: 1)
      {:ok, before: Pool.get_stats(), path: signal_path()}
    end

    test "answers, with a result or an exception", %{before: before} do
      assert {:ok, 1} = Snakepit.execute("echo", %{value: 1})
      assert {:error, _} = Snakepit.execute("echo", %{nonsense: 1})
      assert :ok = Snakepit.execute_stream("numbers", %{count: 3}, fn _ -> :ok end)
      idle()
      assert %{requests: 3, answered: 3, failed: 0, errors: 1} = diff(before)
    end

    test "running, queued, refused by the full queue", %{before: before, path: path} do
      holder = occupy(path)
      waiting = Task.async(fn -> Snakepit.execute("pid", %{}) end)
      eventually(fn -> Pool.get_stats().queued == 1 end)
      assert {:error, _} = Snakepit.execute("pid", %{})
      assert %{requests: 2, running: 1, queued: 1, pool_saturated: 1, errors: 1} = diff(before)
      assert_adds_up(Pool.get_stats())
      go(path)
      assert [{:ok, pid}, {:ok, pid}] = Task.await_many([holder, waiting], 60_000)
      idle()
      assert %{requests: 2, answered: 2, failed: 0, running: 0, queued: 0} = diff(before)
    end

    test "time-outs, of the queue and of the call", %{before: before, path: path} do
      holder = occupy(path)
      assert {:error, _} = Snakepit.execute("pid", %{}, queue_timeout: 1)
      go(path)
      assert {:ok, _} = Task.await(holder, 60_000)
      assert {:error, _} = Snakepit.execute("hold", %{path: signal_path()}, timeout: 1)
      idle()

      assert %{requests: 3, answered: 1, failed: 2, queue_timeouts: 1, timeouts: 1} = diff(before)
    end

    test "what a worker still does for nobody is not running", %{before: before, path: path} do
      call = Snakepit.async("stubborn", %{path: path})
      await_file(path <> ".started")
      assert %{running: 1, abandoned: 0, busy: 1} = diff(before)
      assert :ok = Snakepit.cancel(call)
      assert %{running: 0, abandoned: 1, busy: 1, cancelled: 1, failed: 1} = diff(before)
      go(path)
      idle()
      assert %{requests: 1, answered: 0, failed: 1} = diff(before)
    end

    test "callers that die", %{before: before, path: path} do
      caller = spawn(fn -> Snakepit.execute("hold", %{path: path}) end)
      await_file(path <> ".started")
      Process.exit(caller, :kill)
      eventually(fn -> Pool.get_stats().cancelled == before.cancelled + 1 end)
      idle()
      assert %{requests: 1, answered: 0, failed: 1, cancelled: 1, errors: 0} = diff(before)
    end

    test "calls that are not valid are no requests", %{before: before} do
      assert {:error, _} = Snakepit.execute("echo", :no_map)
      assert {:error, _} = Snakepit.execute("echo", %{}, timeout: :soon)
      assert %{requests: 0, failed: 0, errors: 2} = diff(before)
    end

    test "a strict session whose worker goes away", %{before: before, path: path} do
      assert {:ok, os_pid} = Snakepit.execute_in_session("s", "pid", %{})
      opts = [session_id: "s", affinity: :strict_queue]
      holder = occupy(path, opts)
      waiting = Task.async(fn -> Snakepit.execute("pid", %{}, opts) end)
      eventually(fn -> Pool.get_stats().queued == 1 end)
      kill(os_pid)
      assert {:error, %{details: %{reason: :worker_exit}}} = Task.await(holder, 60_000)
      assert {:error, _} = Task.await(waiting, 60_000)
      assert %{requests: 3, answered: 1, failed: 2, refused: 1} = diff(before)
      assert_adds_up(Pool.get_stats())
    end
  end

  # ---- under load ---------------------------------------------------------

  test "at every moment, whatever callers and workers do" do
    start_pools(pool_size: 3, pool_max_queue_size: 8)
    seed = :erlang.unique_integer([:positive])
    watcher = Task.async(fn -> watch(0) end)

    1..6
    |> Enum.map(fn n -> Task.async(fn -> calls(seed, n, 25) end) end)
    |> Task.await_many(300_000)

    send(watcher.pid, :enough)
    {looks, wrong} = Task.await(watcher, 60_000)
    assert wrong == nil, "they do not add up: #{inspect(wrong)} (seed #{seed})"
    assert looks > 0
    idle()
    stats = assert_adds_up(Pool.get_stats())
    assert %{running: 0, queued: 0} = stats
    assert stats.requests > 0 and stats.answered > 0 and stats.failed > 0
  end

  defp watch(looks) do
    stats = Pool.get_stats()

    cond do
      not adds_up?(stats) -> {looks, stats}
      receive(do: (:enough -> true), after: (0 -> false)) -> {looks + 1, nil}
      true -> watch(looks + 1)
    end
  end

  defp calls(seed, n, count) do
    :rand.seed(:exsss, {seed, n, 0})
    for _ <- 1..count, do: call(Enum.random(1..20))
  end

  defp call(n) when n <= 6, do: Snakepit.execute("echo", %{value: n})
  defp call(n) when n <= 8, do: Snakepit.execute("echo", %{nonsense: n})
  defp call(n) when n <= 10, do: Snakepit.execute("echo", %{value: n}, timeout: n - 9)
  defp call(n) when n <= 12, do: Snakepit.execute("compute", %{seconds: 0.01}, timeout: 5)
  defp call(13), do: Snakepit.execute("echo", %{value: 1}, queue_timeout: 0)
  defp call(14), do: Snakepit.execute_stream("numbers", %{count: 100}, fn _ -> :halt end)
  defp call(15), do: Snakepit.execute_stream("numbers", %{count: 9, fail_at: 5}, fn _ -> :ok end)
  defp call(16), do: Snakepit.execute("end", %{status: 3})
  defp call(17), do: Snakepit.execute_in_session("s", "pid", %{}, affinity: :strict_queue)

  defp call(n) when n in [18, 19] do
    call = Snakepit.async("compute", %{seconds: 0.01})
    if n == 19, do: Snakepit.await(call, 1)
    Snakepit.cancel(call)
  end

  defp call(20) do
    {pid, monitor} = spawn_monitor(fn -> Snakepit.execute("compute", %{seconds: 0.01}) end)
    Process.exit(pid, :kill)
    receive do: ({:DOWN, ^monitor, _, _, _} -> :ok)
  end

  # ---- of one pool, of all ------------------------------------------------

  test "by name, text or process" do
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env]))

    start_pools(
      pools: for(name <- [:left, :right], do: Map.merge(common, %{name: name, pool_size: 1}))
    )

    for _ <- 1..2, do: {:ok, _} = Snakepit.execute("pid", %{}, pool: :left)
    {:ok, _} = Snakepit.execute("pid", %{}, pool: "right")
    left = Pool.get_stats(:left)
    right = Snakepit.get_stats("right")
    assert %{requests: 2, workers: 1} = left
    assert %{requests: 1, workers: 1} = right
    assert Pool.get_stats(Pool, :left) == left
    assert Pool.get_stats(Process.whereis(Pool), "left") == left

    for all <- [
          Pool.get_stats(),
          Pool.get_stats(Pool),
          Snakepit.get_stats(),
          Pool.get_stats(Process.whereis(Pool))
        ] do
      for key <- @sums, do: assert(all[key] == left[key] + right[key])
      assert Map.keys(all) == Map.keys(left)
    end

    [one] = Pool.list_workers(:left)
    [two] = Snakepit.list_workers("right")
    assert one != two
    assert Pool.list_workers(Pool, :left) == [one]
    assert Pool.list_workers(Process.whereis(Pool), :right) == [two]
    assert Enum.sort(Pool.list_workers(Process.whereis(Pool))) == Enum.sort([one, two])
    assert Enum.sort(Snakepit.list_workers()) == Enum.sort([one, two])
    assert {:error, {:pool_not_found, :none}} = Pool.get_stats(:none)
    assert {:error, {:pool_not_found, "none"}} = Pool.get_stats(Pool, "none")
    assert {:error, {:pool_not_found, :none}} = Pool.list_workers(:none)
    assert {:error, {:pool_not_found, 7}} = Snakepit.list_workers(7)
  end
end
