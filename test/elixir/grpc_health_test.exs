defmodule Snakepit.GRPC.HealthTest do
  # What grpc.health.v1 says of pools; of a server without pools: grpc_access_test.exs.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.GRPC.Listener
  alias Snakepit.{Native, Pool}

  @patience 60_000
  @serving 1
  @not_serving 2
  @unknown 3

  defp pools(path) do
    waits = %{
      name: :waits,
      pool_size: 1,
      adapter_args: ["--adapter", "waits_to_import.Waits"],
      adapter_env: test_env() ++ [{"WAIT_PATH", path}],
      prefork: false
    }

    ready = %{
      name: :ready,
      pool_size: 1,
      adapter_args: ["--adapter", "snakepit_test_tools.TestTools"],
      adapter_env: test_env()
    }

    transport = Map.new(Keyword.take(defaults(), [:transport]))
    Enum.map([waits, ready], &Map.merge(&1, transport))
  end

  defp start(path) do
    {:ok, _} =
      start_app(pooling_enabled: true, pools: pools(path), grpc_server_ready_timeout: @patience)

    await_file(path <> ".started")
    # Health is for everyone, without the token.
    Native.channel_open(Listener.address())
  end

  defp request(service) do
    {:ok, bytes} = Native.message_encode(:HealthCheckRequest, %{service: service})
    bytes
  end

  defp said(bytes) do
    {:ok, %{status: status}} = Native.message_decode(:HealthCheckResponse, bytes)
    status
  end

  defp check(channel, service) do
    ref = make_ref()
    path = "/grpc.health.v1.Health/Check"
    {:ok, _} = Native.rpc_unary(channel, ref, path, request(service), @patience, [])
    assert_receive {^ref, answer}, @patience

    case answer do
      {:ok, bytes} -> said(bytes)
      {:error, {:grpc, status, _text}} -> {:grpc, status}
    end
  end

  defp watch(channel, service) do
    ref = make_ref()
    path = "/grpc.health.v1.Health/Watch"
    {:ok, call} = Native.rpc_stream(channel, ref, path, request(service), @patience, [])
    {ref, call}
  end

  defp next({ref, _call}) do
    assert_receive {^ref, {:chunk, bytes}}, @patience
    said(bytes)
  end

  # One change may be two of them: a worker goes, and another comes.
  defp await(watch, status), do: if(next(watch) != status, do: await(watch, status), else: :ok)

  test "a pool serves when it has a worker, the server when all pools do" do
    path = signal_path()
    channel = start(path)
    :ok = Pool.await_ready(:ready, @patience)
    all = watch(channel, "")
    waits = watch(channel, "snakepit.pool.waits")
    ready = watch(channel, "snakepit.pool.ready")
    none = watch(channel, "snakepit.pool.none")
    assert {next(all), next(waits)} == {@not_serving, @not_serving}
    assert {next(ready), next(none)} == {@serving, @unknown}
    assert check(channel, "") == @not_serving
    assert check(channel, "snakepit.pool.waits") == @not_serving
    assert check(channel, "snakepit.pool.ready") == @serving
    assert check(channel, "snakepit.pool.none") == {:grpc, 5}
    # What needs no worker is there.
    assert check(channel, "snakepit.bridge.BridgeService") == @serving

    go(path)
    assert {next(all), next(waits)} == {@serving, @serving}
    assert check(channel, "") == @serving

    # A worker that dies, and the next one.
    File.rm!(path <> ".go")
    {:ok, os_pid} = Snakepit.execute("pid", %{}, pool: :waits)
    kill(os_pid)
    assert {next(waits), next(all)} == {@not_serving, @not_serving}
    go(path)
    assert {next(waits), next(all)} == {@serving, @serving}

    # A pool that takes no calls.
    :ok = Pool.drain(:ready, @patience)
    assert {next(ready), next(all)} == {@not_serving, @not_serving}
    assert check(channel, "snakepit.pool.waits") == @serving
    :ok = Pool.resume(:ready)
    assert {next(ready), next(all)} == {@serving, @serving}
    # Of nothing else there was anything to tell.
    {ref, _} = none
    refute_received {^ref, _}
  end

  test "a process in Elixir that dies tells nobody, but is seen" do
    path = signal_path()
    go(path)
    channel = start(path)
    :ok = Pool.await_ready(:waits, @patience)
    waits = watch(channel, "snakepit.pool.waits")
    assert next(waits) == @serving
    File.rm!(path <> ".go")
    [id] = Pool.list_workers(Pool, :waits)
    {:ok, pid} = Pool.Registry.get_worker_pid(id)
    Process.exit(pid, :kill)
    assert await(waits, @not_serving) == :ok
    go(path)
    assert await(waits, @serving) == :ok
  end

  test "a watcher that leaves is not told any more" do
    path = signal_path()
    go(path)
    channel = start(path)
    {_ref, call} = watching = watch(channel, "")
    _ = next(watching)
    assert Registry.count(Snakepit.Pool.Changes) == 1
    Native.call_cancel(call)
    eventually(fn -> Registry.count(Snakepit.Pool.Changes) == 0 end)
  end
end
