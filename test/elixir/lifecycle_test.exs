defmodule Snakepit.LifecycleTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv
  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  alias Snakepit.{Error, Pool}
  alias Snakepit.Worker.{LifecycleConfig, LifecycleManager}

  doctest LifecycleConfig

  @moduletag :capture_log
  @recycled [:snakepit, :worker, :recycled]

  defp start(pool, settings \\ []) do
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env, :transport]))
    pool = common |> Map.merge(%{name: :default, pool_size: 2}) |> Map.merge(Map.new(pool))

    start_pools(Keyword.merge([pools: [pool], pooling_enabled: true, log_level: :none], settings))

    listen([@recycled])
  end

  # Callers that call until they are stopped; what went wrong, and the largest
  # number of workers that took calls.
  defp under_load(callers, fun) do
    stop = :atomics.new(1, [])
    tasks = for _ <- 1..callers, do: Task.async(fn -> call_on(stop, 0, []) end)
    sizes = Task.async(fn -> watch_size(stop, 0) end)
    eventually(fn -> Snakepit.get_stats().requests > callers end)
    result = fun.()
    :atomics.put(stop, 1, 1)
    {calls, failures} = tasks |> Task.await_many(60_000) |> Enum.unzip()
    {result, Enum.sum(calls), List.flatten(failures), Task.await(sizes, 60_000)}
  end

  defp call_on(stop, calls, failures) do
    if :atomics.get(stop, 1) == 1 do
      {calls, failures}
    else
      case Snakepit.execute("pid", %{}, timeout: 60_000, queue_timeout: 60_000) do
        {:ok, _} -> call_on(stop, calls + 1, failures)
        error -> call_on(stop, calls + 1, [error | failures])
      end
    end
  end

  defp watch_size(stop, most) do
    size = Snakepit.get_stats().workers

    if :atomics.get(stop, 1) == 1 do
      most
    else
      Process.sleep(1)
      watch_size(stop, max(most, size))
    end
  end

  defp os_pids, do: Enum.sort(Pool.ProcessRegistry.get_active_process_pids())

  describe "by hand" do
    test "under load no call fails and the pool does not grow" do
      events = start(pool_size: 2)
      before = os_pids()
      ids = Snakepit.list_workers()

      {_, calls, failures, most} =
        under_load(6, fn ->
          for id <- ids, do: assert(:ok = LifecycleManager.recycle_worker(:default, id))
          for id <- ids, do: assert(%{worker_id: ^id, reason: :manual} = event(events, @recycled))
        end)

      assert failures == []
      assert calls > 0
      assert most <= 3
      eventually(fn -> match?(%{workers: 2, available: 2}, Snakepit.get_stats()) end)
      eventually(fn -> length(os_pids()) == 2 end)
      assert os_pids() -- before == os_pids()
      # One that is about to end is a worker until it has.
      eventually(fn -> length(Snakepit.list_workers()) == 2 end)
      assert Snakepit.list_workers() -- ids == Snakepit.list_workers()
    end

    test "what runs is finished, in its process, before that ends" do
      events = start(pool_size: 1)
      [id] = Snakepit.list_workers()
      path = signal_path()
      task = occupy(path)
      held = holder(path)
      assert :ok = LifecycleManager.recycle_worker(Snakepit.Pool, id)
      assert worker_pid() != held
      assert held in os_pids()
      go(path)
      assert {:ok, ^held} = Task.await(task, 60_000)

      assert %{reason: :manual, request_count: 1, pool: :default, measurements: %{count: 1}} =
               event(events, @recycled)

      eventually(fn -> held not in os_pids() end)
    end

    test "what does not end in time is told why" do
      put_env(lifecycle_drain_timeout_ms: 10)
      start([pool_size: 1], lifecycle_drain_timeout_ms: 10, graceful_shutdown_timeout_ms: 100)
      [id] = Snakepit.list_workers()
      task = occupy(signal_path())
      assert :ok = LifecycleManager.recycle_worker(:default, id)
      assert {:error, %Error{category: :worker, message: message}} = Task.await(task, 60_000)
      assert message =~ "had to be replaced (manual)"
    end

    test "only of workers that there are, in their pool" do
      start(pool_size: 1)
      [id] = Snakepit.list_workers()
      assert {:error, :worker_not_found} = LifecycleManager.recycle_worker(:default, "none")
      assert {:error, :pool_mismatch} = LifecycleManager.recycle_worker(:other, id)
    end

    test "without a replacement the old one goes on" do
      start(pool_size: 1)
      [id] = Snakepit.list_workers()
      pid = worker_pid()
      put_system_env(%{"SNAKEPIT_PYTHON" => "/nonexistent/python"})
      assert {:error, _} = LifecycleManager.recycle_worker(:default, id)
      assert worker_pid() == pid
      assert Snakepit.list_workers() == [id]
    end

    test "sessions that prefer it move, strict ones are told" do
      start(pool_size: 1)
      [id] = Snakepit.list_workers()
      {:ok, _} = Snakepit.execute_in_session("hint", "pid", %{})
      {:ok, pid} = Snakepit.execute_in_session("strict", "pid", %{}, affinity: :strict_queue)
      assert :ok = LifecycleManager.recycle_worker(:default, id)
      assert {:ok, other} = Snakepit.execute_in_session("hint", "pid", %{})
      assert other != pid

      assert {:error, %Error{details: %{reason: :session_worker_unavailable}}} =
               Snakepit.execute_in_session("strict", "pid", %{}, affinity: :strict_queue)
    end
  end

  describe "by itself" do
    test "after so many requests another one answers, and no call fails" do
      events = start(pool_size: 1, worker_max_requests: 5)
      [id] = Snakepit.list_workers()
      first = worker_pid()
      for _ <- 1..4, do: worker_pid()

      assert %{worker_id: ^id, reason: :max_requests, request_count: count} =
               event(events, @recycled)

      assert count >= 5
      assert worker_pid() != first

      {_, _calls, failures, most} =
        under_load(4, fn -> for _ <- 1..2, do: event(events, @recycled) end)

      assert failures == []
      assert most <= 2
    end

    test "by age, and no call fails" do
      events = start([pool_size: 2, worker_ttl: {1, :seconds}], lifecycle_check_interval: 20)

      before = os_pids()

      {_, _calls, failures, most} =
        under_load(4, fn ->
          for _ <- 1..2, do: assert(%{reason: :ttl_expired} = event(events, @recycled))
        end)

      assert failures == []
      assert most <= 3
      eventually(fn -> os_pids() -- before == os_pids() and length(os_pids()) >= 2 end)
    end

    test "by the memory of its process and of what that started" do
      events = start([pool_size: 1, memory_threshold_mb: 150], lifecycle_check_interval: 20)

      {:ok, pid} = Snakepit.execute("hold_memory", %{megabytes: 200})

      assert %{reason: :memory_threshold, memory_mb: mb, memory_threshold_mb: 150} =
               found = event(events, @recycled)

      # It is looked at while it grows.
      assert mb >= 150 and found.measurements.memory_mb == mb
      assert worker_pid() != pid
      assert %{default: 1} = LifecycleManager.memory_recycle_counts()
      assert %{memory_recycles_by_pool: %{default: 1}} = LifecycleManager.get_stats()
    end

    test "a worker that dies is told as such" do
      events = start(pool_size: 1)
      kill(worker_pid())
      assert %{reason: :worker_died} = event(events, @recycled)
      eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{})) end)
    end
  end

  test "a worker that does not answer a health check is replaced" do
    start([pool_size: 1, heartbeat: %{enabled: false}],
      lifecycle_health_check_interval: 50,
      grpc_worker_health_check_timeout_ms: 1_000
    )

    events = listen([[:snakepit, :worker, :health_check_failed]])
    pid = worker_pid()
    kill(pid, "STOP")
    assert %{pool: :default} = event(events, [:snakepit, :worker, :health_check_failed])
    eventually(fn -> match?({:ok, other} when other != pid, Snakepit.execute("pid", %{})) end)
  end

  test "what is known is counted, also after the manager failed" do
    start(pool_size: 2, worker_ttl: {1, :hours}, worker_max_requests: 4)
    for _ <- 1..3, do: worker_pid()

    assert %{total_workers: 2, workers_by_pool: %{default: 2}, total_requests: 3} =
             LifecycleManager.get_stats()

    assert %{workers_near_ttl: 0} = LifecycleManager.get_stats()
    manager = Process.whereis(LifecycleManager)
    Process.exit(manager, :kill)
    eventually(fn -> Process.whereis(LifecycleManager) not in [nil, manager] end)
    eventually(fn -> match?(%{total_workers: 2}, LifecycleManager.get_stats()) end)
    assert is_integer(worker_pid())
  end

  test "workers that are tracked by hand count and are forgotten" do
    start(pool_size: 1)
    :ok = LifecycleManager.track_worker(:mine, "mine", self(), %{worker_ttl: {1, :minutes}})
    :ok = LifecycleManager.increment_request_count("mine")
    assert %{total_workers: 2, total_requests: 1} = LifecycleManager.get_stats()
    :ok = LifecycleManager.track_worker(:mine, "mine", self(), worker_ttl: {1, :minutes})
    assert %{total_workers: 2} = LifecycleManager.get_stats()
    manager = Process.whereis(LifecycleManager)

    # Whoever hands in what is no configuration hears of it; the others do not.
    for {pid, config} <- [{self(), nil}, {self(), 5}, {nil, %{}}] do
      assert_raise FunctionClauseError, fn ->
        LifecycleManager.track_worker(:mine, "bad", pid, config)
      end
    end

    assert %{total_workers: 2} = LifecycleManager.get_stats()
    assert Process.whereis(LifecycleManager) == manager
    :ok = LifecycleManager.untrack_worker("mine")
    assert %{total_workers: 1, total_requests: 0} = LifecycleManager.get_stats()
  end

  describe "a lifecycle configuration" do
    test "knows units, and makes the configuration of a replacement" do
      config =
        LifecycleConfig.ensure(:p, %{worker_ttl: {2, :minutes}, worker_profile: :thread, x: 1})

      assert config.worker_ttl_seconds == 120
      assert config.profile_module == Snakepit.WorkerProfile.Thread
      assert config.pool_name == :p
      assert LifecycleConfig.ensure(:q, config).pool_name == :p

      assert %{worker_id: "w", worker_ttl: {2, :minutes}, pool_name: :p, x: 1} =
               LifecycleConfig.to_worker_config(config, "w")
    end

    test "has no limits where none are given" do
      assert %{worker_ttl_seconds: :infinity, worker_max_requests: :infinity} =
               LifecycleConfig.ensure(:p, %{})
    end
  end
end
