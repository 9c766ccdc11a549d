defmodule Snakepit.WorkerProfileTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  alias Snakepit.{Config, WorkerProfile}
  alias Snakepit.Pool.Registry, as: Workers

  @moduletag :capture_log

  defmodule Marked do
    @behaviour WorkerProfile

    @impl true
    def start_worker(config) do
      env = [{"MARK", "of #{config.pool_name}"} | config.adapter_env]
      WorkerProfile.Process.start_worker(%{config | adapter_env: env})
    end

    @impl true
    defdelegate stop_worker(worker), to: WorkerProfile.Process
    @impl true
    defdelegate execute_request(worker, request, timeout), to: WorkerProfile.Process
    @impl true
    defdelegate get_capacity(worker), to: WorkerProfile.Process
    @impl true
    defdelegate get_load(worker), to: WorkerProfile.Process
    @impl true
    defdelegate health_check(worker), to: WorkerProfile.Process
  end

  defmodule Broken do
    def start_worker(_config), do: raise("no worker today")
  end

  defp start(pool) do
    start_pools(pools: [pool(pool)], pooling_enabled: true, log_level: :none)
    [id] = Snakepit.list_workers()
    {:ok, worker} = Workers.get_worker_pid(id)
    worker
  end

  defp pool(pool) do
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env, :transport]))
    common |> Map.merge(%{name: :default, pool_size: 1}) |> Map.merge(Map.new(pool))
  end

  @threads [
    worker_profile: :thread,
    threads_per_worker: 2,
    adapter_args: ["--adapter", "snakepit_test_tools.ThreadedTestTools"]
  ]

  test "of processes: one call at a time" do
    worker = start([])
    assert WorkerProfile.Process.get_capacity(worker) == 1
    assert WorkerProfile.Process.get_load(worker) == 0
    assert :ok = WorkerProfile.Process.health_check(worker)
    request = %{command: "echo", args: %{value: 7}, session_id: "s"}
    assert {:ok, 7} = WorkerProfile.Process.execute_request(worker, request, 60_000)
    path = signal_path()
    task = occupy(path)
    assert WorkerProfile.Process.get_load(worker) == 1

    assert {:ok, %{profile: :process, capacity: 1, load: 1, available_capacity: 0}} =
             WorkerProfile.Process.get_metadata(worker)

    go(path)
    assert {:ok, _} = Task.await(task, 60_000)
    assert :ok = WorkerProfile.Process.stop_worker(worker)
    refute Process.alive?(worker)
    assert {:error, _} = WorkerProfile.Process.health_check(worker)
    assert {:error, _} = WorkerProfile.Process.execute_request(worker, request, 1_000)
  end

  test "of threads: several" do
    worker = start(@threads)
    assert WorkerProfile.Thread.get_capacity(worker) == 2
    paths = for _ <- 1..2, do: signal_path()
    tasks = Enum.map(paths, &occupy/1)
    assert WorkerProfile.Thread.get_load(worker) == 2

    assert {:ok, %{profile: :thread, capacity: 2, available_capacity: 0, threading: _}} =
             WorkerProfile.Thread.get_metadata(worker)

    Enum.each(paths, &go/1)
    assert [{:ok, _}, {:ok, _}] = Task.await_many(tasks, 60_000)
  end

  test "capacity_strategy: :profile gives a worker one call at a time" do
    worker = start([capacity_strategy: :profile] ++ @threads)
    assert WorkerProfile.Thread.get_capacity(worker) == 1
  end

  test "capacity_strategy: :hybrid tells when a worker has no room left" do
    worker = start([capacity_strategy: :hybrid] ++ @threads)
    events = listen([[:snakepit, :pool, :capacity_reached]])
    paths = for _ <- 1..2, do: signal_path()
    tasks = Enum.map(paths, &occupy/1)

    assert %{worker_pid: ^worker, profile: :thread, measurements: %{capacity: 2, load: 2}} =
             event(events, [:snakepit, :pool, :capacity_reached])

    Enum.each(paths, &go/1)
    assert [{:ok, _}, {:ok, _}] = Task.await_many(tasks, 60_000)
  end

  test "of the user's starts the pool's workers, and their replacements" do
    start(worker_profile: Marked)
    assert {:ok, "of default"} = Snakepit.execute("env", %{name: "MARK"})
    [id] = Snakepit.list_workers()
    assert :ok = Snakepit.Worker.LifecycleManager.recycle_worker(:default, id)
    assert {:ok, "of default"} = Snakepit.execute("env", %{name: "MARK"})
    kill(worker_pid())

    eventually(fn ->
      match?({:ok, "of default"}, Snakepit.execute("env", %{name: "MARK"}))
    end)
  end

  test "of the user's that fails is a worker that does not start" do
    start_app(pools: [pool(worker_profile: Broken)], pooling_enabled: true, log_level: :none)
    assert {:error, %{message: message}} = Snakepit.Pool.await_ready(Snakepit.Pool, 60_000)
    assert message =~ "no worker today"
  end

  test "is named by an atom or a module" do
    assert Config.get_profile_module(%{worker_profile: :process}) == WorkerProfile.Process
    assert Config.get_profile_module(%{worker_profile: :thread}) == WorkerProfile.Thread
    assert Config.get_profile_module(%{worker_profile: Marked}) == Marked
    assert {:ok, _} = Config.validate_pool_config(name: :a, worker_profile: Marked)

    for wrong <- [:fibre, Enum, "thread!", 3] do
      assert {:error, {:invalid_profile, ^wrong, text}} =
               Config.validate_pool_config(name: :a, worker_profile: wrong)

      assert text =~ "worker_profile"
    end
  end

  test "events tell of the pool's start and its workers' ends" do
    events =
      listen([
        [:snakepit, :pool, :init_started],
        [:snakepit, :pool, :init_complete],
        [:snakepit, :pool, :worker_ready],
        [:snakepit, :pool, :worker, :spawned],
        [:snakepit, :pool, :worker, :terminated],
        [:snakepit, :pool, :saturated]
      ])

    worker = start(max_queue_size: 0)
    started = event(events, [:snakepit, :pool, :init_started])
    assert %{measurements: %{total_workers: 1, count: 1}} = started

    assert %{pool_name: :default, worker_pid: ^worker, mode: :process, python_pid: os_pid} =
             event(events, [:snakepit, :pool, :worker, :spawned])

    assert os_pid == worker_pid()
    assert %{pool_name: :default} = event(events, [:snakepit, :pool, :worker_ready])
    complete = event(events, [:snakepit, :pool, :init_complete])
    assert %{pool_workers: %{default: 1}, measurements: %{total_workers: 1}} = complete

    path = signal_path()
    task = occupy(path)
    assert {:error, _} = Snakepit.execute("pid", %{})

    assert %{pool: :default, busy_workers: 1, measurements: %{max_queue_size: 0}} =
             event(events, [:snakepit, :pool, :saturated])

    go(path)
    assert {:ok, _} = Task.await(task, 60_000)
    assert stop_app() == []
    ended = event(events, [:snakepit, :pool, :worker, :terminated])
    assert %{planned: true, measurements: %{total_commands: 2}} = ended
  end
end
