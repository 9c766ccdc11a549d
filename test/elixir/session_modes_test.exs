defmodule Snakepit.SessionModesTest do
  # Not async: the pools are the application's.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Bridge.{SessionStore, ToolRegistry}
  alias Snakepit.{GRPCWorker, Pool}
  alias Snakepit.Worker.TaintRegistry

  # What the first says of affinity counts before what is said for all.
  setup_all do
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env]))

    start_pools(
      affinity: :strict_fail_fast,
      session_max_sessions: :infinity,
      crash_barrier: [enabled: true, taint_ms: 600_000],
      pools: [
        Map.merge(common, %{name: :own, pool_size: 2, affinity: :hint}),
        Map.merge(common, %{name: :global, pool_size: 2}),
        Map.merge(common, %{name: :crashing, pool_size: 2, affinity: :hint})
      ]
    )
  end

  defp session, do: "modes-#{System.unique_integer([:positive])}"

  defp pid_in(id, opts), do: Snakepit.execute_in_session(id, "pid", %{}, opts)

  # The worker of a session, while it is occupied.
  defp occupied(pool, fun) do
    id = session()
    path = signal_path()
    {:ok, pid} = pid_in(id, pool: pool)
    task = occupy(path, pool: pool, session_id: id, affinity: :strict_queue)
    fun.(id, pid)
    go(path)
    assert Task.await(task, 60_000) == {:ok, pid}
  end

  defp numbers(id, opts) do
    Snakepit.execute_in_session_stream(id, "numbers", %{count: 1}, fn _ -> :ok end, opts)
  end

  test "a call's mode wins over the pool's, which wins over that for all" do
    occupied(:own, fn id, pid ->
      assert pid_in(id, pool: :own, affinity: :strict_fail_fast) == {:error, :worker_busy}
      assert {:ok, other} = pid_in(id, pool: :own)
      assert other != pid
      # It is the session's now: give it back.
      {:ok, worker} = worker_of(:own, pid)
      assert :ok = SessionStore.store_worker_session(id, worker)
    end)

    occupied(:global, fn id, pid ->
      assert pid_in(id, pool: :global) == {:error, :worker_busy}
      assert {:ok, other} = pid_in(id, pool: :global, affinity: :hint)
      assert other != pid
    end)
  end

  test "the same for streams" do
    occupied(:own, fn id, _pid ->
      assert numbers(id, pool: :own, affinity: :strict_fail_fast) == {:error, :worker_busy}
      assert numbers(id, pool: :own) == :ok
    end)

    occupied(:global, fn id, _pid ->
      assert numbers(id, pool: :global) == {:error, :worker_busy}
      assert numbers(id, pool: :global, affinity: :hint) == :ok
    end)
  end

  test ":hint goes elsewhere while the session's worker is tainted" do
    id = session()
    {:ok, pid} = pid_in(id, pool: :crashing)
    {:ok, worker} = worker_of(:crashing, pid)
    kill(pid, "SEGV")
    eventually(fn -> TaintRegistry.worker_tainted?(worker) end)
    eventually(fn -> match?({:ok, _}, started_again(worker, pid)) end)

    for _ <- 1..5 do
      assert {:ok, other} = pid_in(id, pool: :crashing)
      assert {:ok, elsewhere} = worker_of(:crashing, other)
      assert elsewhere != worker
    end
  end

  defp started_again(worker, pid) do
    with {:ok, %{process_pid: ^pid}} <- GRPCWorker.get_info(worker), do: :not_yet
  end

  defp worker_of(pool, os_pid) do
    Enum.find_value(Pool.list_workers(Pool, pool), :error, fn id ->
      if match?({:ok, %{process_pid: ^os_pid}}, GRPCWorker.get_info(id)), do: {:ok, id}
    end)
  end

  test "arguments are passed as they are" do
    id = session()
    value = %{"session_id" => "mine", "affinity" => nil, "list" => [1, %{"a" => []}]}
    assert Snakepit.execute_in_session(id, "echo", %{value: value}, pool: :own) == {:ok, value}
    assert Snakepit.execute_in_session(id, "echo", %{}, pool: :own) == {:ok, nil}
  end

  test "making one session by many is not worth a word in the log" do
    id = session()

    log =
      capture_log(fn ->
        made =
          1..50
          |> Enum.map(fn _ -> Task.async(fn -> SessionStore.create_session(id) end) end)
          |> Task.await_many(60_000)

        assert Enum.all?(made, &match?({:ok, %{id: ^id}}, &1))
      end)

    # Of the workers of other tests there may be one.
    refute log =~ ~r/session/i
    assert Enum.count(SessionStore.list_sessions(), &(&1 == id)) == 1
    SessionStore.delete_session(id)
  end

  test "a tool of another session is not seen" do
    [mine, other] = for _ <- 1..2, do: session()
    for id <- [mine, other], do: {:ok, _} = SessionStore.create_session(id)
    :ok = ToolRegistry.register_elixir_tool(mine, "add", fn %{"a" => a} -> a + 1 end)
    assert {:ok, 2} = ToolRegistry.execute_local_tool(mine, "add", %{"a" => 1})
    assert {:error, _} = ToolRegistry.execute_local_tool(other, "add", %{"a" => 1})
    assert ToolRegistry.list_tools(other) == []
    for id <- [mine, other], do: SessionStore.delete_session(id)
  end
end

defmodule Snakepit.SessionMaximumTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Bridge.SessionStore

  test "session_max_sessions: the fourth of five is warned of, the sixth is refused" do
    {:ok, _} = start_app(session_max_sessions: 5, log_level: :warning)
    create = fn n -> SessionStore.create_session("s#{n}") end

    log = capture_log(fn -> for n <- 1..3, do: assert({:ok, _} = create.(n)) end)
    refute log =~ "sessions are in use"
    log = capture_log(fn -> assert {:ok, _} = create.(4) end)
    assert log =~ "[warning]" and log =~ "4 of at most 5 sessions are in use"
    assert {:ok, _} = create.(5)
    assert create.(6) == {:error, :session_quota_exceeded}
    assert {:ok, %{id: "s1"}} = create.(1)
  end
end
