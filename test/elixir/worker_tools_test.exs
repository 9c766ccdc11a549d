defmodule Snakepit.WorkerToolsTest do
  # What workers tell of themselves, and what they are told of sessions. Runs once
  # for each carrier: see `make test`.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.{InternalToolSpec, SessionStore, ToolRegistry}

  @patience 60_000

  defp pool(name, adapter, more \\ %{}) do
    Map.merge(
      %{
        name: name,
        pool_size: 1,
        adapter_args: ["--adapter", "worker_tools.#{adapter}"],
        adapter_env: test_env(),
        transport: defaults()[:transport]
      },
      more
    )
  end

  defp session do
    id = "tools-#{System.pid()}-#{System.unique_integer([:positive])}"
    on_exit(fn -> if Process.whereis(SessionStore), do: SessionStore.delete_session(id) end)
    id
  end

  describe "the tools of an adapter" do
    test "are known when its worker has started" do
      start_pools(pools: [pool(:shop, "Shop")])
      id = session()
      [worker_id] = Snakepit.Pool.list_workers(Snakepit.Pool, :shop)

      assert {:ok,
              %InternalToolSpec{
                type: :remote,
                worker_id: ^worker_id,
                pool: :shop,
                description: "Adds",
                parameters: [
                  %{"name" => "a", "type" => "int", "required" => true},
                  %{"name" => "b", "required" => false, "validation_json" => ~s({"default": 1})}
                ],
                metadata: %{"adapter_class" => "Shop", "supports_streaming" => "false"}
              }} = ToolRegistry.get_tool(id, "sum_up")

      assert {:ok, %{metadata: %{"supports_streaming" => "true"}}} =
               ToolRegistry.get_tool(id, "countdown")

      # Not the one whose name no registry takes.
      names = for tool <- ToolRegistry.list_worker_tools(), do: tool.name
      assert names == ~w(countdown old sum_up)
      # They are nobody's own.
      assert ToolRegistry.list_tools(id) == []
      assert ToolRegistry.count_tools(id) == 0

      assert {:ok, [3, os_pid]} = ToolRegistry.execute_tool(id, "sum_up", %{"a" => 1, "b" => 2})
      assert is_integer(os_pid)
      assert {:ok, %{"x" => 1}} = ToolRegistry.execute_tool(id, "old", %{"x" => 1})
      assert {:error, {:tool_not_local, "old"}} = ToolRegistry.execute_local_tool(id, "old", %{})
      assert {:error, {:tool_not_found, ^id, "zählen"}} = ToolRegistry.get_tool(id, "zählen")
    end

    test "come after those of the session and of all sessions" do
      start_pools(pools: [pool(:shop, "Shop")])
      {id, other} = {session(), session()}
      :ok = ToolRegistry.register_elixir_tool(id, "sum_up", fn _ -> :own end)
      assert {:ok, :own} = ToolRegistry.execute_tool(id, "sum_up", %{})
      assert {:ok, [3, _]} = ToolRegistry.execute_tool(other, "sum_up", %{"a" => 2})
      :ok = ToolRegistry.register_elixir_tool("sum_up", fn _ -> :all end, %{})
      assert {:ok, :all} = ToolRegistry.execute_tool(other, "sum_up", %{})
    end

    test "that the registry does not take harm no others" do
      env = %{adapter_args: ["--adapter", "python_side.ManyParameters"]}
      start_pools(pools: [Map.merge(pool(:many, ""), env)])
      assert ~w(both register) == for(tool <- ToolRegistry.list_worker_tools(), do: tool.name)
      all = Map.new(0..9_999, &{"p#{&1}", &1})
      assert {:ok, 9_999} = Snakepit.execute("many", all, timeout: @patience)
    end

    test "run as calls of the pool do: with the session's worker, on all that are free" do
      start_pools(pools: [pool(:shop, "Shop", %{pool_size: 2})])
      id = session()
      {:ok, [1, os_pid]} = Snakepit.execute_in_session(id, "sum_up", %{a: 0}, pool: :shop)
      {:ok, %{last_worker_id: worker_id}} = SessionStore.get_session(id)
      assert {:ok, %{worker_id: ^worker_id}} = ToolRegistry.get_tool(id, "sum_up")

      for _ <- 1..5,
          do: assert({:ok, [1, ^os_pid]} = ToolRegistry.execute_tool(id, "sum_up", %{"a" => 0}))

      assert Snakepit.get_stats(:shop).requests == 6
    end

    test "go with their worker and come with the next" do
      start_pools(pools: [pool(:shop, "Shop")])
      {:ok, [1, os_pid]} = Snakepit.execute("sum_up", %{a: 0})
      kill(os_pid)

      eventually(fn ->
        match?(
          {:ok, [1, other]} when other != os_pid,
          ToolRegistry.execute_tool("s", "sum_up", %{"a" => 0})
        )
      end)

      assert [_, _, _] = ToolRegistry.list_worker_tools()
      _ = stop_app()
      Application.put_env(:snakepit, :pooling_enabled, false)
      {:ok, _} = Application.ensure_all_started(:snakepit)
      assert ToolRegistry.list_worker_tools() == []
    end

    test "of several pools: the default pool's come first" do
      start_pools(
        pools: [pool(:b_shop, "Shop"), pool(:default, "Shop"), pool(:none, "Dispatches")]
      )

      assert {:ok, %{pool: :default}} = ToolRegistry.get_tool(session(), "sum_up")
      assert length(ToolRegistry.list_worker_tools()) == 3
      assert {:ok, "anything"} = Snakepit.execute("anything", %{}, pool: :none)
    end

    test "can be called by clients of the BEAM's server, in a session" do
      start_pools(pools: [pool(:shop, "Shop")])
      id = session()
      {:ok, channel} = Snakepit.GRPC.Client.connect(Snakepit.GRPC.Listener.address())
      call = &Snakepit.GRPC.Client.execute_tool(channel, &1, "sum_up", %{a: 1})
      assert {:error, _} = call.(id)
      {:ok, _} = SessionStore.create_session(id)
      assert {:ok, [2, _]} = call.(id)
      chunks = Snakepit.GRPC.Client.execute_streaming_tool(channel, id, "countdown", %{n: 2})
      assert {:ok, stream} = chunks
      assert ["2", "1" | _end] = for({:ok, chunk} <- stream, do: chunk.data)
    end
  end

  # ---- sessions that end --------------------------------------------------

  describe "an adapter that lives as long as a session" do
    setup do
      {:ok, log: signal_path()}
    end

    defp kept(log, adapter, more \\ %{}) do
      env = test_env() ++ [{"KEPT_LOG", log}]
      start_pools(pools: [Map.put(pool(:kept, adapter, more), :adapter_env, env)])
    end

    defp ended(log) do
      case File.read(log) do
        {:ok, text} -> text |> String.split() |> Enum.sort()
        {:error, :enoent} -> []
      end
    end

    defp count(id, tool \\ "count"),
      do: Snakepit.execute_in_session(id, tool, %{}, pool: :kept, timeout: @patience)

    test "ends when it is deleted", %{log: log} do
      kept(log, "Kept")
      {one, two} = {session(), session()}
      assert {:ok, 1} = count(one)
      assert {:ok, 2} = count(one)
      assert {:ok, 1} = count(two)
      :ok = SessionStore.delete_session(one)
      eventually(fn -> ended(log) == [one] end)
      assert {:ok, 2} = count(two)
      assert {:ok, 1} = count(one)
    end

    test "ends when it expires", %{log: log} do
      kept(log, "Kept")
      id = session()
      {:ok, _} = SessionStore.create_session(id, ttl: 0)
      assert {:ok, 1} = count(id)
      eventually(fn -> SessionStore.cleanup_expired_sessions() == 1 or ended(log) != [] end)
      eventually(fn -> ended(log) == [id] end)
    end

    test "ends in all workers that have one", %{log: log} do
      kept(log, "Kept", %{pool_size: 2})
      {id, path} = {session(), signal_path()}
      opts = [pool: :kept, session_id: id, affinity: :hint, timeout: @patience]
      held = Task.async(fn -> Snakepit.execute("hold", %{path: path}, opts) end)
      await_file(path <> ".started")
      assert {:ok, 1} = Snakepit.execute("count", %{}, opts)
      go(path)
      assert {:ok, 0} = Task.await(held, @patience)
      :ok = SessionStore.delete_session(id)
      eventually(fn -> ended(log) == [id, id] end)
    end

    test "ends after the call that uses it", %{log: log} do
      kept(log, "KeptThreads", %{
        worker_profile: :thread,
        threads_per_worker: 2,
        adapter_spec: "worker_tools.KeptThreads",
        adapter_args: []
      })

      {id, other, path} = {session(), session(), signal_path()}
      opts = [pool: :kept, session_id: id, timeout: @patience]
      held = Task.async(fn -> Snakepit.execute("hold", %{path: path}, opts) end)
      await_file(path <> ".started")
      assert {:ok, 1} = count(other)
      :ok = SessionStore.delete_session(id)
      :ok = SessionStore.delete_session(other)
      eventually(fn -> ended(log) == [other] end)
      go(path)
      assert {:ok, 0} = Task.await(held, @patience)
      eventually(fn -> ended(log) == Enum.sort([id, other]) end)
    end

    for {adapter, tool} <- [{"KeptCoroutines", "count_async"}, {"KeptDispatches", "any"}] do
      test "ends where coroutines run at the same time: #{adapter}", %{log: log} do
        kept(log, unquote(adapter), %{concurrency: 4})
        ids = for _ <- 1..4, do: session()
        calls = for id <- ids, do: Task.async(fn -> count(id, unquote(tool)) end)
        assert [{:ok, 1}, {:ok, 1}, {:ok, 1}, {:ok, 1}] = Task.await_many(calls, @patience)
        for id <- ids, do: :ok = SessionStore.delete_session(id)
        eventually(fn -> ended(log) == Enum.sort(ids) end)
      end
    end

    test "a thousand end while the worker is busy, and nobody waits for it", %{log: log} do
      kept(log, "Kept")
      path = signal_path()
      ids = for _ <- 1..20, do: session()
      for id <- ids, do: {:ok, 1} = count(id)

      held =
        Task.async(fn ->
          Snakepit.execute("hold", %{path: path}, pool: :kept, timeout: @patience)
        end)

      await_file(path <> ".started")
      others = for n <- 1..1_000, do: "other-#{System.pid()}-#{n}"
      for id <- others, do: {:ok, _} = SessionStore.create_session(id)
      for id <- others ++ ids, do: :ok = SessionStore.delete_session(id)
      assert ended(log) == []
      go(path)
      assert {:ok, 0} = Task.await(held, @patience)
      eventually(fn -> ended(log) == Enum.sort(ids) end)
    end

    test "a session whose worker has died ends all the same", %{log: log} do
      kept(log, "Kept", %{pool_size: 2})
      {one, two} = {session(), session()}
      assert {:ok, 1} = count(one)
      {:ok, %{last_worker_id: worker_id}} = SessionStore.get_session(one)
      {:ok, %{process_pid: os_pid}} = Snakepit.GRPCWorker.get_info(worker_id)
      kill(os_pid)
      :ok = SessionStore.delete_session(one)
      eventually(fn -> match?({:ok, _}, count(two)) end)
      :ok = SessionStore.delete_session(two)
      eventually(fn -> two in ended(log) end)
    end
  end
end
