defmodule Snakepit.HealthMonitorPoolTest do
  # The monitor of a pool whose workers really crash.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  alias Snakepit.{HealthMonitor, Telemetry}

  @moduletag :capture_log
  @long 60_000

  setup do
    pools =
      for name <- [:ml, :other] do
        %{
          name: name,
          pool_size: 1,
          adapter_args: defaults()[:adapter_args],
          adapter_env: test_env()
        }
      end

    start_pools(pools: pools, pool_reconcile_interval_ms: 10, log_level: :warning)
    %{monitor: monitor(:ml)}
  end

  defp monitor(pool, opts \\ []) do
    name = :"health_of_#{pool}_#{System.unique_integer([:positive])}"
    opts = Map.new([name: name, pool: pool, crash_window_ms: 3_600_000] ++ opts)
    start_supervised!({HealthMonitor, opts})
    name
  end

  # Returns when the worker's process is gone, which has told by then, and the
  # pool has its worker again.
  defp ends(pool, fun) do
    [id] = Snakepit.list_workers(pool)
    {:ok, pid} = Snakepit.Pool.Registry.get_worker_pid(id)
    ref = Process.monitor(pid)
    fun.(id)
    assert_receive {:DOWN, ^ref, :process, _, _}, @long
    eventually(fn -> another?(pool, pid) end)
    id
  end

  # The registry may still have the one that has gone.
  defp another?(pool, gone) do
    with [id] <- Snakepit.list_workers(pool),
         {:ok, pid} <- Snakepit.Pool.Registry.get_worker_pid(id),
         do: pid != gone,
         else: (_ -> false)
  end

  defp crashes(pool, number) do
    args = %{path: signal_path(), number: number}
    ends(pool, fn _ -> {:error, _} = Snakepit.execute("die_once", args, pool: pool) end)
  end

  test "each crash of its pool's workers counts, and no other", %{monitor: monitor} do
    seen = monitor("ml")
    elsewhere = monitor(:other)
    id = crashes(:ml, 11)
    assert ^id = crashes(:ml, 6)
    assert ^id = ends(:ml, fn _ -> Snakepit.execute("end", %{status: 3}, pool: :ml) end)
    reasons = [{:exit_status, 3}, :abort, :segfault]

    for name <- [monitor, seen] do
      assert %{crash_count: 3, crash_reasons: ^reasons} = HealthMonitor.worker_health(name, id)
      assert %{total_crashes: 3, crashes_in_window: 3, healthy: true} = HealthMonitor.stats(name)
    end

    assert %{total_crashes: 0} = HealthMonitor.stats(elsewhere)
  end

  test "a worker that ends because it was to is none", %{monitor: monitor} do
    pid = fn -> worker_pid(pool: :ml) end
    ends(:ml, fn _ -> kill(pid.(), "TERM") end)
    ends(:ml, fn _ -> Snakepit.execute("end", %{status: 0}, pool: :ml) end)
    ends(:ml, fn id -> :ok = Snakepit.Worker.LifecycleManager.recycle_worker(:ml, id) end)

    ends(:ml, fn id ->
      {:ok, pid} = Snakepit.Pool.Registry.get_worker_pid(id)
      Snakepit.GRPCWorker.lost(pid, "it does not respond")
    end)

    # The restart after the application, and being stopped with it.
    stop_app()
    {:ok, _} = Application.ensure_all_started(:snakepit)
    :ok = Snakepit.Pool.await_init_complete(Snakepit.Pool, @long)
    assert %{total_crashes: 0, healthy: true} = HealthMonitor.stats(monitor)
    id = crashes(:ml, 11)
    assert %{crash_reasons: [:segfault]} = HealthMonitor.worker_health(monitor, id)
  end

  test "who tells of the same crash by telemetry is not counted again", %{monitor: monitor} do
    event = [:snakepit, :pool, :worker, :terminated]
    seen = listen([event])

    tell = fn _event, _measurements, about, _config ->
      if not about.planned,
        do: HealthMonitor.record_crash(monitor, about.worker_id, reason: :told)
    end

    :ok = Telemetry.attach("health-monitor-test", event, tell, nil)
    on_exit(fn -> Telemetry.detach("health-monitor-test") end)
    id = crashes(:ml, 11)
    assert %{planned: false} = event(seen, event)
    assert %{crash_reasons: [:segfault]} = HealthMonitor.worker_health(monitor, id)
    # What nobody else has told of counts.
    ends(:ml, fn _ -> kill(worker_pid(pool: :ml), "TERM") end)
    assert %{crash_reasons: [:told, :segfault]} = HealthMonitor.worker_health(monitor, id)
    :ok = HealthMonitor.record_crash(monitor, id, %{reason: :by_hand})
    assert %{crash_count: 3} = HealthMonitor.worker_health(monitor, id)
  end

  test "too many are said once, and that it is over" do
    clock = :atomics.new(1, signed: true)

    log =
      capture_log(fn ->
        name = monitor(:ml, max_crashes: 2, clock: fn -> :atomics.get(clock, 1) end)
        crashes(:ml, 11)
        assert HealthMonitor.healthy?(name)
        crashes(:ml, 11)
        refute HealthMonitor.healthy?(name)
        crashes(:ml, 11)
        refute HealthMonitor.healthy?(name)
        :atomics.add(clock, 1, 3_600_000)
        assert HealthMonitor.healthy?(name)
        assert %{total_crashes: 3, crashes_in_window: 0} = HealthMonitor.stats(name)
      end)

    assert [_, rest] = String.split(log, "pool :ml is not healthy: 2 crashes")
    assert rest =~ "pool :ml is healthy again"
    refute rest =~ "is not healthy"
  end
end
