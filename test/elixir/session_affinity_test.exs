defmodule Snakepit.SessionAffinityTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Error

  setup_all do
    start_pools(pool_size: 2)
  end

  defp session, do: "session-#{System.unique_integer([:positive])}"

  defp pid_in(session, opts \\ []) do
    Snakepit.execute_in_session(session, "pid", %{}, opts)
  end

  # The session's worker, occupied until go/1.
  defp occupied(session) do
    path = signal_path()
    {:ok, pid} = pid_in(session)
    task = occupy(path, session_id: session, affinity: :strict_queue)
    {pid, path, task}
  end

  defp release(path, task, pid) do
    go(path)
    assert Task.await(task, 60_000) == {:ok, pid}
  end

  test "a session stays on its worker, also at once and in parallel" do
    id = session()

    assert [_one] = 1..10 |> Enum.map(fn _ -> pid_in(id) end) |> Enum.uniq()

    strict = session()

    assert [{:ok, _}] =
             1..10
             |> Enum.map(fn _ ->
               Task.async(fn -> pid_in(strict, affinity: :strict_queue) end)
             end)
             |> Task.await_many(60_000)
             |> Enum.uniq()
  end

  test ":hint takes another worker when the session's is busy" do
    id = session()
    {pid, path, task} = occupied(id)
    assert {:ok, other} = pid_in(id)
    assert other != pid
    release(path, task, pid)
  end

  test ":strict_queue waits for it" do
    id = session()
    {pid, path, task} = occupied(id)
    waiting = Task.async(fn -> pid_in(id, affinity: :strict_queue) end)
    eventually(fn -> match?(%{queued: 1}, Snakepit.get_stats()) end)
    release(path, task, pid)
    assert Task.await(waiting, 60_000) == {:ok, pid}
  end

  test ":strict_fail_fast says that it is busy" do
    id = session()
    {pid, path, task} = occupied(id)
    assert pid_in(id, affinity: :strict_fail_fast) == {:error, :worker_busy}
    assert pid_in(id, affinity: "strict_fail_fast") == {:error, :worker_busy}
    release(path, task, pid)
    assert pid_in(id, affinity: :strict_fail_fast) == {:ok, pid}
  end

  test ":strict_fail_fast of a session that has no worker yet waits for any" do
    held = for _ <- 1..2, do: signal_path()
    tasks = Enum.map(held, &occupy/1)
    id = session()
    waiting = Task.async(fn -> pid_in(id, affinity: :strict_fail_fast) end)
    eventually(fn -> match?(%{queued: 1}, Snakepit.get_stats()) end)
    Enum.each(held, &go/1)
    assert {:ok, pid} = Task.await(waiting, 60_000)
    Task.await_many(tasks, 60_000)
    assert pid_in(id, affinity: :strict_fail_fast) == {:ok, pid}
  end

  test "streams keep to the session's worker" do
    id = session()
    {:ok, pid} = pid_in(id)
    {:ok, before} = Snakepit.execute_in_session(id, "count", %{})
    me = self()

    assert :ok =
             Snakepit.execute_in_session_stream(id, "numbers", %{count: 2}, &send(me, {:c, &1}))

    assert_received {:c, %{"n" => 0}}
    assert pid_in(id) == {:ok, pid}
    assert Snakepit.execute_in_session(id, "count", %{}) == {:ok, before + 1}
  end

  test "the store knows the worker of a session" do
    id = session()
    {:ok, _} = Snakepit.Bridge.SessionStore.create_session(id)
    {:ok, os_pid} = pid_in(id)

    eventually(fn ->
      {:ok, session} = Snakepit.Bridge.SessionStore.get_session(id)
      session.last_worker_id != nil
    end)

    {:ok, session} = Snakepit.Bridge.SessionStore.get_session(id)
    assert {:ok, %{process_pid: ^os_pid}} = Snakepit.GRPCWorker.get_info(session.last_worker_id)
  end

  test "a strict session whose worker died is told so, a lenient one goes elsewhere" do
    id = session()
    {:ok, pid} = pid_in(id)
    kill(pid)

    eventually(fn ->
      match?(
        {:error, %Error{category: :pool, details: %{reason: :session_worker_unavailable}}},
        pid_in(id, affinity: :strict_queue)
      )
    end)

    assert {:ok, other} = pid_in(id)
    assert other != pid
    assert pid_in(id, affinity: :strict_queue) == {:ok, other}
    eventually(fn -> match?(%{workers: 2}, Snakepit.get_stats()) end)
  end
end
