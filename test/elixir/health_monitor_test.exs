defmodule Snakepit.HealthMonitorTest do
  use ExUnit.Case, async: true

  alias Snakepit.HealthMonitor

  defp monitor(opts \\ []) do
    time = :atomics.new(1, signed: true)
    name = :"health_#{System.unique_integer([:positive])}"
    clock = fn -> :atomics.get(time, 1) end
    opts = Keyword.merge([name: name, pool: :ml, clock: clock], opts)
    start_supervised!({HealthMonitor, opts})
    {name, &:atomics.add(time, 1, &1)}
  end

  test "ten crashes in the window make a pool unhealthy, until they are old" do
    {monitor, advance} = monitor()
    assert HealthMonitor.healthy?(monitor)
    for n <- 1..9, do: :ok = HealthMonitor.record_crash(monitor, "w#{rem(n, 2)}", %{reason: n})
    # A crash counts from when it was heard of.
    assert HealthMonitor.healthy?(monitor)
    advance.(30_000)
    :ok = HealthMonitor.record_crash(monitor, "w2")
    refute HealthMonitor.healthy?(monitor)
    advance.(29_999)
    refute HealthMonitor.healthy?(monitor)
    advance.(1)
    assert HealthMonitor.healthy?(monitor)

    assert %{pool: :ml, total_crashes: 10, crashes_in_window: 1, healthy: true, workers: workers} =
             HealthMonitor.stats(monitor)

    assert Map.keys(workers) == ["w2"]
  end

  test "one worker's crashes, newest first" do
    {monitor, advance} = monitor(max_crashes: 2)
    none = %{healthy: true, crash_count: 0, last_crash_time: nil, crash_reasons: []}
    assert HealthMonitor.worker_health(monitor, "w") == none
    :ok = HealthMonitor.record_crash(monitor, "w", %{reason: :oom})
    assert %{crash_count: 1} = HealthMonitor.worker_health(monitor, "w")
    advance.(5)
    :ok = HealthMonitor.record_crash(monitor, "w", reason: :segfault)

    assert HealthMonitor.worker_health(monitor, "w") ==
             %{
               healthy: false,
               crash_count: 2,
               last_crash_time: 5,
               crash_reasons: [:segfault, :oom]
             }

    advance.(60_000)
    assert HealthMonitor.worker_health(monitor, "w") == none
  end

  test "old crashes are forgotten without being asked" do
    {monitor, advance} = monitor(check_interval_ms: 1)
    :ok = HealthMonitor.record_crash(monitor, "w")
    assert %{crashes_in_window: 1} = HealthMonitor.stats(monitor)
    advance.(60_000)
    forgotten(monitor)
  end

  defp forgotten(monitor), do: :sys.get_state(monitor).workers == %{} || forgotten(monitor)

  test "what must be given, and what is out of range" do
    assert_raise KeyError, fn -> HealthMonitor.start_link(pool: :ml) end
    assert_raise KeyError, fn -> HealthMonitor.start_link(name: :some_monitor) end

    for key <- [:max_crashes, :crash_window_ms, :check_interval_ms] do
      opts = [{key, 0}, name: :some_monitor, pool: :ml]
      error = assert_raise ArgumentError, fn -> HealthMonitor.start_link(opts) end
      assert error.message =~ inspect(key)
    end
  end
end
