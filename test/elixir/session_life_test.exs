defmodule Snakepit.SessionLifeTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.SessionStore
  alias Snakepit.Bridge.SessionStore.Rows
  alias Snakepit.GRPCWorker
  alias Snakepit.Native
  alias Snakepit.Pool.Targets

  setup_all do
    before = Application.fetch_env(:snakepit, :affinity_cache_ttl_seconds)
    Application.put_env(:snakepit, :affinity_cache_ttl_seconds, 0)

    on_exit(fn ->
      case before do
        {:ok, value} -> Application.put_env(:snakepit, :affinity_cache_ttl_seconds, value)
        :error -> Application.delete_env(:snakepit, :affinity_cache_ttl_seconds)
      end
    end)

    start_pools(pool_size: 2)
  end

  setup do
    id = "session-#{System.unique_integer([:positive])}"
    on_exit(fn -> SessionStore.delete_session(id) end)
    {:ok, id: id}
  end

  defp pid_in(id), do: Snakepit.execute_in_session(id, "pid", %{}, affinity: :strict_queue)

  # As if the store had heard of it so many seconds ago for the last time.
  defp age(id, seconds) do
    [{^id, _session, clock}] = :ets.lookup(:snakepit_sessions, id)
    :atomics.sub(clock, 1, seconds * 1000)
  end

  defp stored(id), do: eventually(fn -> SessionStore.session_exists?(id) end)

  test "an unused session keeps its worker", %{id: id} do
    {:ok, pid} = pid_in(id)
    {first, second} = {signal_path(), signal_path()}
    in_session = occupy(first, session_id: id)
    beside = occupy(second)
    go(first)
    assert Task.await(in_session, 60_000) == {:ok, pid}
    go(second)
    {:ok, other} = Task.await(beside, 60_000)
    # Which was used last, and is the first choice of whoever has none.
    assert Snakepit.execute("pid", %{}) == {:ok, other}
    assert other != pid
    assert pid_in(id) == {:ok, pid}
  end

  test "calls keep it in the store, silence does not", %{id: id} do
    {:ok, _} = pid_in(id)
    stored(id)
    age(id, 10_000)
    assert {:ok, _} = SessionStore.get_session(id)

    silent = id <> "-silent"
    {:ok, _} = SessionStore.create_session(silent)
    age(silent, 10_000)
    assert SessionStore.get_session(silent) == {:error, :not_found}
  end

  test "a sweep asks for all of them what calls they had", %{id: id} do
    # More than are asked for at once.
    silent = for n <- 1..300, do: "#{id}-silent-#{n}"
    called = for n <- 1..20, do: "#{id}-called-#{n}"
    on_exit(fn -> Enum.each(silent ++ called, &SessionStore.delete_session/1) end)
    for one <- silent, do: {:ok, _} = SessionStore.create_session(one)
    for one <- called, do: {:ok, _} = pid_in(one)
    for one <- called, do: stored(one)
    for one <- silent ++ called, do: age(one, 10_000)
    assert SessionStore.cleanup_expired_sessions() >= 300
    left = SessionStore.list_sessions()
    assert called -- left == []
    assert silent -- left == silent
    # It knows of the calls now and need not ask again.
    [{_id, _session, clock}] = :ets.lookup(:snakepit_sessions, hd(called))
    assert System.monotonic_time(:millisecond) - :atomics.get(clock, 1) < 10_000_000
  end

  test "sessions beyond the maximum are served, and the store hears of the others", %{id: id} do
    tables = GenServer.call(SessionStore, :tables)
    size = :ets.info(tables.sessions, :size)
    known = id <> "-known"
    on_exit(fn -> SessionStore.delete_session(known) end)
    {:ok, _} = SessionStore.create_session(known)
    full = %{tables | max: size + 1}
    :sys.replace_state(SessionStore, &%{&1 | tables: full, max: full.max})
    :ok = Rows.publish(full)

    try do
      {:ok, pid} = pid_in(id)
      {:ok, other} = pid_in(known)
      assert SessionStore.get_session(id) == {:error, :not_found}
      assert {:ok, %{last_worker_id: worker}} = SessionStore.get_session(known)
      assert {:ok, %{process_pid: ^other}} = GRPCWorker.get_info(worker)
      assert pid_in(id) == {:ok, pid}
    after
      :sys.replace_state(SessionStore, &%{&1 | tables: tables, max: tables.max})
      Rows.publish(tables)
    end
  end

  test "what is asked for at once has a bound", %{id: id} do
    {:ok, %{handle: handle}} = Targets.find(:default)
    {:ok, _} = pid_in(id)
    assert [nil, ms, nil] = Native.sessions_unused(handle, ["no", id, ""])
    assert is_integer(ms)
    assert Native.sessions_unused(handle, []) == []
    many = List.duplicate(id, 256)
    assert length(Native.sessions_unused(handle, many)) == 256

    for wrong <- [[id | many], [id, :no], [id | id], :no, nil] do
      assert_raise ArgumentError, fn -> Native.sessions_unused(handle, wrong) end
    end

    assert_raise ArgumentError, fn -> Native.sessions_unused(make_ref(), [id]) end
  end

  test "once a call has ended the store knows its worker" do
    for n <- 1..50 do
      id = "session-#{System.unique_integer([:positive])}-#{n}"
      if rem(n, 2) == 0, do: {:ok, _} = SessionStore.create_session(id)
      {:ok, pid} = pid_in(id)
      assert {:ok, %{last_worker_id: worker}} = SessionStore.get_session(id)
      assert {:ok, %{process_pid: ^pid}} = GRPCWorker.get_info(worker)
      SessionStore.delete_session(id)
    end

    never = "session-#{System.unique_integer([:positive])}"
    assert SessionStore.get_session(never) == {:error, :not_found}
  end

  test "one that is deleted or has expired has no worker", %{id: id} do
    for ending <- [
          fn -> SessionStore.delete_session(id) end,
          fn ->
            {:ok, _} = SessionStore.update_session(id, &%{&1 | ttl: 0})
            assert SessionStore.cleanup_expired_sessions() >= 1
          end
        ] do
      {:ok, pid} = pid_in(id)
      stored(id)
      kill(pid)
      eventually(fn -> match?({:error, %{category: :pool}}, pid_in(id)) end)
      ending.()
      assert {:ok, other} = pid_in(id)
      assert other != pid
      SessionStore.delete_session(id)
      # It may count for a moment longer, though its process has ended.
      eventually(fn ->
        infos = Enum.map(Snakepit.list_workers(), &GRPCWorker.get_info/1)

        length(infos) == 2 and
          Enum.all?(infos, &match?({:ok, %{process_pid: p}} when p != pid, &1))
      end)
    end
  end

  test "store_worker_session/2 gives it a worker", %{id: id} do
    for worker <- Snakepit.list_workers() do
      {:ok, %{process_pid: pid}} = GRPCWorker.get_info(worker)
      assert SessionStore.store_worker_session(id, worker) == :ok
      assert pid_in(id) == {:ok, pid}
      assert {:ok, %{last_worker_id: ^worker}} = SessionStore.get_session(id)
    end

    {:ok, pid} = pid_in(id)
    assert SessionStore.store_worker_session(id, "no such worker") == :ok
    assert pid_in(id) == {:ok, pid}
  end
end
