defmodule Snakepit.HealthCheckTest do
  # The periodic ping of gRPC workers.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  @moduletag :capture_log
  @long 60_000
  @failed [:snakepit, :worker, :health_check_failed]

  defp start(settings) do
    pools =
      for {name, transport} <- [remote: :grpc, local: :local] do
        %{
          name: name,
          pool_size: 1,
          transport: transport,
          heartbeat: %{enabled: false},
          adapter_args: defaults()[:adapter_args],
          adapter_env: test_env()
        }
      end

    start_pools([pools: pools, log_level: :warning] ++ settings)
  end

  defp worker(pool) do
    [id] = Snakepit.list_workers(pool)
    {:ok, pid} = Snakepit.Pool.Registry.get_worker_pid(id)
    {id, pid}
  end

  # What this process receives from now on comes to the test.
  defp watch(pid), do: 1 = :erlang.trace(pid, true, [:receive])

  test "a worker that runs a call is pinged beside it; one over shared memory is not" do
    # An older name of the key.
    start(worker_health_check_interval: 20)
    {_id, remote} = worker(:remote)
    {_id, local} = worker(:local)
    failures = listen([@failed])
    path = signal_path()
    task = occupy(path, pool: :remote)
    watch(local)
    watch(remote)

    for _ <- 1..3 do
      assert_receive {:trace, ^remote, :receive, :check_health}, @long

      assert_receive {:trace, ^remote, :receive, {ref, {:ok, _pong}}} when is_reference(ref),
                     @long
    end

    refute_received {:trace, ^local, :receive, :check_health}
    refute_received {^failures, _, _, _}
    assert %{busy: 1} = Snakepit.get_stats(:remote)
    go(path)
    assert {:ok, _} = Task.await(task, @long)
  end

  test "that a worker does not answer is told, and nothing more" do
    start(grpc_worker_health_check_interval: 20, grpc_worker_health_check_timeout_ms: 50)
    {id, _pid} = worker(:remote)
    os_pid = worker_pid(pool: :remote)
    failures = listen([@failed])

    log =
      capture_log(fn ->
        kill(os_pid, "STOP")

        for _ <- 1..2 do
          assert %{worker_id: ^id, pool: :remote, reason: :timeout, measurements: %{count: 1}} =
                   event(failures, @failed)
        end

        kill(os_pid, "CONT")
      end)

    assert log =~ "worker #{id} did not answer a health check"
    assert worker_pid(pool: :remote) == os_pid
  end

  test "one that computes goes on" do
    start(health_check_interval: 20, grpc_worker_health_check_timeout_ms: 20)
    os_pid = worker_pid(pool: :remote)
    args = %{seconds: 0.5}
    assert Snakepit.execute("compute", args, pool: :remote, timeout: @long) == {:ok, os_pid}
    assert worker_pid(pool: :remote) == os_pid
  end

  test "with 0 there is no ping" do
    start(grpc_worker_health_check_interval: 0)
    {_id, remote} = worker(:remote)
    watch(remote)
    assert {:ok, %{healthy: true}} = Snakepit.GRPCWorker.get_health(remote)
    refute_received {:trace, ^remote, :receive, :check_health}
  end
end
