defmodule Snakepit.NativeTest do
  # The handles of the native part, and what is done with terms that are none.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Native}
  alias Snakepit.Pool.{Registry, Targets}

  setup do
    start_pools(pool_size: 1)
    [id] = Snakepit.list_workers()
    {:ok, worker} = Registry.get_worker_pid(id)
    {:ok, target} = Targets.find(:default)
    %{pool: target.handle, slot: :sys.get_state(worker).slot}
  end

  test "a tainted slot gets nothing until it is ready again", %{slot: slot} do
    assert Native.slot_set_state(slot, :tainted) == :ok
    assert %{workers: 1, available: 0, busy: 0} = Snakepit.get_stats()

    assert {:error, %Error{category: :timeout, details: %{reason: :queue_timeout}}} =
             Snakepit.execute("pid", %{}, queue_timeout: 1)

    assert Native.slot_set_state(slot, :ready) == :ok
    assert {:ok, _pid} = Snakepit.execute("pid", %{})
  end

  test "a slot's load is what runs on it", %{slot: slot} do
    assert Native.slot_load(slot) == {:ok, 0}
    path = signal_path()
    call = Snakepit.async("hold", %{path: path})
    await_file(path <> ".started")
    assert Native.slot_load(slot) == {:ok, 1}
    go(path)
    assert {:ok, _pid} = Snakepit.await(call)
    assert Native.slot_load(slot) == {:ok, 0}
  end

  test "a session can be given its slot beforehand", %{pool: pool, slot: slot} do
    assert Native.session_assign(pool, "restored", slot) == :ok
    assert Native.slot_set_state(slot, :draining) == :ok

    # It has one, which takes nothing any more: strictly there is no other.
    assert {:error, %Error{details: %{reason: :session_worker_unavailable}}} =
             Snakepit.execute_in_session("restored", "pid", %{}, affinity: :strict_queue)
  end

  test "pools closed by hand and by their owner's end at once, with a deadline pending" do
    for _round <- 1..20 do
      1..20
      |> Enum.map(fn _ -> spawn_monitor(&close_twice/0) end)
      |> Enum.each(fn {pid, monitor} ->
        assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, 60_000
      end)
    end

    assert {:ok, _pid} = Snakepit.execute("pid", %{})
  end

  # This process owns the pool: its end closes it once more.
  defp close_twice do
    pool = Native.pool_new(:closed_twice, 10, 1000)
    channel = Native.channel_open("unix:/nonexistent/socket")
    worker = spawn(fn -> Process.sleep(:infinity) end)
    _slot = Native.slot_add(pool, worker, "w", "s", 1, channel, [])
    times = {5_000, 10_000}
    submission = [pool, make_ref(), :unary, "x", %{}, nil, :hint, times, {[], []}]
    {:ok, _call} = apply(Native, :submit, submission)
    :ok = Native.pool_close(pool)
    Process.exit(worker, :kill)
  end

  test "a call that is watched is waited for when its start has been told", %{pool: pool} do
    [id] = Snakepit.list_workers()
    path = signal_path()
    {ref, submitted} = submit(pool, {:watched, :unary}, "hold", %{path: path})
    assert {:started, {^id, worker, _carrier}, {:ok, call}} = submitted
    assert {:ok, ^worker} = Registry.get_worker_pid(id)
    go(path)

    case Native.call_await(call) do
      {:done, {:ok, pid}} -> assert is_integer(pid)
      {:ended, {:ok, bytes}} -> assert {:ok, _} = Native.decode_response(bytes)
      :ok -> assert_receive {^ref, {:ok, _}}, 60_000
    end

    refute_received {^ref, _}
    assert Native.call_await(call) == :ok
  end

  test "a call that waits for a worker is told of by a message", %{pool: pool} do
    [id] = Snakepit.list_workers()
    path = signal_path()
    task = occupy(path)

    {watched, {:ok, first}} = submit(pool, {:watched, :unary}, "pid", %{})
    {served, {:ok, second}} = submit(pool, {:served, :unary}, "pid", %{})
    # They are not held back by that.
    for call <- [first, second], do: assert(Native.call_await(call) == :ok)
    go(path)
    assert {:ok, _} = Task.await(task, 60_000)
    assert_receive {^watched, {:started, {^id, pid, carrier}}}, 60_000
    assert_receive {^watched, {:ok, _bytes}}, 60_000
    assert_receive {^served, {:served, {^id, ^pid, ^carrier}, ns, {:ok, _bytes}}}, 60_000
    assert ns > 0
  end

  test "only its caller may wait for a call; another may cancel it", %{pool: pool} do
    path = signal_path()
    {ref, submitted} = submit(pool, {:watched, :unary}, "hold", %{path: path})
    assert {:started, _worker, {:ok, call}} = submitted
    assert Task.await(Task.async(fn -> Native.call_await(call) end), 60_000) == :ok
    assert Task.await(Task.async(fn -> Native.call_cancel(call) end), 60_000) == :ok
    assert Native.call_await(call) == :ok
    assert Native.call_cancel(call) == :ended
    refute_received {^ref, _}
  end

  defp submit(pool, kind, command, args) do
    ref = make_ref()
    times = {60_000, 60_000}
    {ref, Native.submit(pool, ref, kind, command, args, nil, :hint, times, {[], []})}
  end

  test "what is no handle is refused, and does no harm", %{pool: pool, slot: slot} do
    for {name, arity} <- Native.__info__(:functions),
        name not in [:load, :ebin, :json_encode, :cbor_encode, :segment_info],
        junk <- [nil, make_ref(), self(), -1, "text", %{}, [1 | 2], pool, slot] do
      args = List.duplicate(junk, arity)

      unless allowed?(name, junk, pool, slot) do
        assert %{__exception__: true} =
                 catch_error(apply(Native, name, args)) |> exception(name, junk)
      end
    end

    assert {:ok, _pid} = Snakepit.execute("pid", %{})
  end

  test "what is no number or boolean is refused", %{pool: pool, slot: slot} do
    for {name, args} <- [
          {:slot_watch, [slot, -1, false]},
          {:slot_watch, [slot, 1, nil]},
          {:slot_watch, [pool, 1, true]},
          {:pool_set_draining, [pool, 1]},
          {:pool_set_draining, [slot, true]}
        ] do
      assert_raise ArgumentError, fn -> apply(Native, name, args) end
    end
  end

  # What is right with such an argument.
  defp allowed?(:handle_new, _junk, _pool, _slot), do: true

  defp allowed?(name, junk, _pool, _slot) when is_binary(junk),
    do:
      name in [:decode_response, :decode_chunk, :json_decode, :cbor_decode] or
        name in [:channel_open, :local_start, :binary_segment]

  defp allowed?(name, junk, pool, slot) do
    (junk == pool and name in [:pool_close, :pool_stats, :pool_watch, :pool_segments]) or
      (junk == slot and name in [:slot_load, :slot_stats, :slot_remove])
  end

  defp exception(:badarg, _name, _junk), do: %ArgumentError{}
  defp exception(%{__exception__: true} = error, _name, _junk), do: error
  defp exception(other, name, junk), do: flunk("#{name} of #{inspect(junk)}: #{inspect(other)}")
end
