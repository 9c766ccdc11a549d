defmodule Snakepit.ElasticPoolTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  alias Snakepit.{Config, Error, Native, Pool}
  alias Snakepit.Pool.Targets

  @moduletag :capture_log
  @resized [:snakepit, :pool, :resized]

  defp start(pool, settings \\ []) do
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env, :transport]))
    pool = common |> Map.merge(%{name: :default}) |> Map.merge(Map.new(pool))
    start_pools(Keyword.merge([pools: [pool], pooling_enabled: true], settings))
    listen([@resized])
  end

  defp workers(n), do: fn -> match?(%{workers: ^n}, Snakepit.get_stats()) end

  describe "a pool between two sizes" do
    test "grows when calls wait, not beyond its bound, and shrinks when nothing is to do" do
      events = start(min_size: 1, max_size: 3, idle_timeout: 50)
      assert %{workers: 1} = Snakepit.get_stats()
      paths = for _ <- 1..5, do: signal_path()

      tasks =
        for path <- paths do
          Task.async(fn ->
            Snakepit.execute("hold", %{path: path}, timeout: 60_000, queue_timeout: 60_000)
          end)
        end

      assert %{reason: :queueing, pool: :default} = event(events, @resized)
      eventually(fn -> match?(%{workers: 3, busy: 3, queued: 2}, Snakepit.get_stats()) end)
      Enum.each(paths, &go/1)
      assert Enum.all?(Task.await_many(tasks, 60_000), &match?({:ok, _}, &1))
      eventually(workers(1))
      assert %{reason: :idle} = event_after(events, :queueing)
      assert {:ok, _} = Snakepit.execute("pid", %{})
    end

    test "keeps workers that sessions prefer" do
      start(pool_size: 3, min_size: 1, max_size: 3, idle_timeout: 50)
      paths = for _ <- 1..2, do: signal_path()

      # Two at a time, so that they have different workers.
      tasks =
        for {path, n} <- Enum.with_index(paths) do
          task =
            Task.async(fn ->
              Snakepit.execute_in_session("s#{n}", "hold", %{path: path}, timeout: 60_000)
            end)

          await_file(path <> ".started")
          task
        end

      Enum.each(paths, &go/1)
      assert [{:ok, a}, {:ok, b}] = Task.await_many(tasks, 60_000)
      assert a != b
      eventually(workers(2))

      # It looks at them at least twice more.
      for _ <- 1..2 do
        send(Process.whereis(Pool), {:shrink?, :default})
        :sys.get_state(Pool)
      end

      strict = [affinity: :strict_fail_fast]
      assert {:ok, ^a} = Snakepit.execute_in_session("s0", "pid", %{}, strict)
      assert {:ok, ^b} = Snakepit.execute_in_session("s1", "pid", %{}, strict)
      assert %{workers: 2} = Snakepit.get_stats()
    end

    test "gives up no worker that is busy" do
      start(pool_size: 2, min_size: 1, max_size: 2, idle_timeout: 30)
      path = signal_path()
      task = occupy(path)
      eventually(workers(1))
      held = holder(path)
      go(path)
      assert {:ok, ^held} = Task.await(task, 60_000)
      assert worker_pid() == held
    end
  end

  defp event_after(events, reason) do
    case event(events, @resized) do
      %{reason: ^reason} -> event_after(events, reason)
      other -> other
    end
  end

  describe "resize" do
    test "up and down under load fails no call" do
      events = start(pool_size: 1)
      stop = :atomics.new(1, [])

      tasks =
        for _ <- 1..4 do
          Task.async(fn ->
            Stream.repeatedly(fn -> Snakepit.execute("pid", %{}, queue_timeout: 60_000) end)
            |> Stream.take_while(fn _ -> :atomics.get(stop, 1) == 0 end)
            |> Enum.reject(&match?({:ok, _}, &1))
          end)
        end

      assert :ok = Pool.resize(:default, 3)
      assert %{reason: :manual, measurements: %{size: 3, previous: 1}} = event(events, @resized)
      eventually(workers(3))
      assert :ok = Pool.resize(:default, 1)
      eventually(workers(1))
      assert :ok = Pool.resize(2)
      eventually(workers(2))
      :atomics.put(stop, 1, 1)
      assert tasks |> Task.await_many(60_000) |> List.flatten() == []
      eventually(fn -> length(Pool.ProcessRegistry.get_active_process_pids()) == 2 end)
    end

    test "down lets busy workers finish" do
      start(pool_size: 2)
      paths = for _ <- 1..2, do: signal_path()
      tasks = Enum.map(paths, &occupy/1)
      assert :ok = Pool.resize(:default, 1)
      Enum.each(paths, &go/1)
      assert [{:ok, _}, {:ok, _}] = Task.await_many(tasks, 60_000)
      eventually(workers(1))
    end

    test "down lets those finish that run something before they are known to be ready" do
      start(pool_size: 1)
      {:ok, target} = Targets.find(:default)
      assert :ok = Pool.resize(:default, 3)
      # What it is told from now on comes behind this.
      :ok = :sys.suspend(Pool)
      down = Task.async(fn -> Pool.resize(:default, 1) end)
      eventually(fn -> match?(%{slots: 3}, Native.pool_stats(target.handle)) end)
      paths = for _ <- 1..3, do: signal_path()
      tasks = Enum.map(paths, &occupy/1)
      :ok = :sys.resume(Pool)
      assert Task.await(down) == :ok
      # Nobody is about to stop one.
      eventually(fn -> Task.Supervisor.children(Snakepit.TaskSupervisor) == [] end)
      Enum.each(paths, &go/1)
      assert [{:ok, _}, {:ok, _}, {:ok, _}] = Task.await_many(tasks, 60_000)
      eventually(fn -> match?(%{slots: 1}, Native.pool_stats(target.handle)) end)
      eventually(fn -> length(Pool.ProcessRegistry.get_active_process_pids()) == 1 end)
      eventually(workers(1))
    end

    test "with a range changes the bounds" do
      start(pool_size: 1)
      assert :ok = Pool.resize(:default, 2..3)
      eventually(workers(2))

      assert {:error, %Error{category: :validation, message: message}} = Pool.resize(:default, 4)
      assert message =~ "2..3"
      assert :ok = Pool.resize(:default, 3)
      eventually(workers(3))
    end

    test "refuses what is no size" do
      start(pool_size: 1, max_workers: 4)

      for wrong <- [0, -1, 1.5, :many, nil, 5, 1..5, 0..2, 3..1//-1] do
        assert {:error, %Error{category: :validation}} = Pool.resize(:default, wrong)
      end

      assert {:error, %Error{category: :pool, details: %{reason: :pool_not_found}}} =
               Pool.resize(:none, 2)
    end
  end

  describe "drain" do
    test "finishes what was taken, refuses the rest, and ends with resume" do
      start(pool_size: 1)
      path = signal_path()
      running = occupy(path)
      waiting = Task.async(fn -> Snakepit.execute("pid", %{}, queue_timeout: 60_000) end)
      eventually(fn -> match?(%{queued: 1}, Snakepit.get_stats()) end)
      drained = Task.async(fn -> Pool.drain(:default, 60_000) end)
      eventually(fn -> refused?() end)
      assert Task.yield(drained, 0) == nil
      go(path)
      assert :ok = Task.await(drained, 60_000)
      assert {:ok, _} = Task.await(running, 60_000)
      assert {:ok, _} = Task.await(waiting, 60_000)
      assert refused?()
      assert :ok = Pool.resume(:default)
      assert {:ok, _} = Snakepit.execute("pid", %{})
    end

    test "says what is left when its time is over" do
      start(pool_size: 1)
      path = signal_path()
      task = occupy(path)

      assert {:error, %Error{category: :timeout, details: %{running: 1, queued: 0}}} =
               Pool.drain(:default, 0)

      assert refused?()
      go(path)
      assert {:ok, _} = Task.await(task, 60_000)
      assert :ok = Pool.drain()
    end

    test "of a pool that does not exist is an error" do
      start(pool_size: 1)
      assert {:error, %Error{details: %{reason: :pool_not_found}}} = Pool.drain(:none)
      assert {:error, %Error{details: %{reason: :pool_not_found}}} = Pool.resume(:none)
    end
  end

  defp refused? do
    match?(
      {:error, %Error{category: :pool, details: %{reason: :pool_draining}}},
      Snakepit.execute("pid", %{}, queue_timeout: 0)
    )
  end

  describe "the configuration" do
    test "of a fixed pool is as ever" do
      assert {:ok, %{pool_size: 3, min_size: 3, max_size: 3}} =
               Config.validate_pool_config(name: :a, pool_size: 3)
    end

    test "of an elastic one starts with the least, or as it says" do
      assert {:ok, %{pool_size: 2, idle_timeout: 60_000}} =
               Config.validate_pool_config(name: :a, min_size: 2, max_size: 5)

      assert {:ok, %{pool_size: 4, min_size: 2}} =
               Config.validate_pool_config(name: :a, pool_size: 4, min_size: 2, max_size: 5)

      assert {:ok, %{pool_size: 4, min_size: 4}} =
               Config.validate_pool_config(name: :a, pool_size: 4, max_size: 5)

      assert {:ok, %{pool_size: 1}} = Config.validate_pool_config(name: :a, max_size: 5)
    end

    test "is refused when it makes no sense" do
      for {settings, key} <- [
            {[min_size: 0], :min_size},
            {[min_size: :few], :min_size},
            {[min_size: 3, max_size: 2], :max_size},
            {[max_size: "9"], :max_size},
            {[idle_timeout: 0], :idle_timeout},
            {[idle_timeout: -1], :idle_timeout}
          ] do
        assert {:error, {:invalid_pool_option, ^key, _, text}} =
                 Config.validate_pool_config([name: :a] ++ settings)

        assert text =~ to_string(key)
      end

      assert {:error, {:invalid_pool_size, 9, _}} =
               Config.validate_pool_config(name: :a, pool_size: 9, min_size: 1, max_size: 3)
    end

    test "of heartbeats is checked" do
      for {settings, key} <- [
            {[timeout_ms: 0], :timeout_ms},
            {[ping_interval_ms: "2s"], :ping_interval_ms},
            {[max_missed_heartbeats: nil], :max_missed_heartbeats},
            {[initial_delay_ms: -1], :initial_delay_ms},
            {[enabled: :maybe], :enabled},
            {[dependent: 1], :dependent}
          ] do
        assert {:error, {:invalid_heartbeat, ^key, _, text}} =
                 Config.validate_pool_config(name: :a, heartbeat: settings)

        assert text =~ to_string(key)
      end
    end
  end
end
