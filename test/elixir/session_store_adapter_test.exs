defmodule Snakepit.Bridge.SessionStoreAdapterTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Bridge.{Session, SessionStore, ToolRegistry}

  # Sessions in an Agent; `end_now/1` is their expiry.
  defmodule InAgent do
    @behaviour SessionStore.Adapter

    @impl true
    def start_link(%{label: label}) do
      Agent.start_link(fn -> %{label: label, sessions: %{}, over: []} end, name: __MODULE__)
    end

    def label, do: Agent.get(__MODULE__, & &1.label)

    def end_now(id),
      do: Agent.update(__MODULE__, fn state -> %{state | over: [id | state.over]} end)

    @impl true
    def create_session(id, opts) do
      change(fn
        %{^id => session} = sessions -> {{:ok, session}, sessions}
        sessions when map_size(sessions) == 5 -> {{:error, :session_quota_exceeded}, sessions}
        sessions -> put(sessions, Session.new(id, opts))
      end)
    end

    @impl true
    def get_session(id) do
      change(fn
        %{^id => session} = sessions -> put(sessions, Session.touch(session))
        sessions -> {{:error, :not_found}, sessions}
      end)
    end

    @impl true
    def update_session(id, fun) do
      change(fn sessions ->
        with {:ok, session} <- Map.fetch(sessions, id),
             %Session{} = updated <- fun.(session) do
          put(sessions, updated)
        else
          :error -> {{:error, :not_found}, sessions}
          {:error, reason} -> {{:error, reason}, sessions}
        end
      end)
    end

    @impl true
    def delete_session(id), do: change(&{:ok, Map.delete(&1, id)})

    @impl true
    def session_exists?(id),
      do: Agent.get(__MODULE__, &(is_map_key(&1.sessions, id) and id not in &1.over))

    @impl true
    def list_sessions, do: Agent.get(__MODULE__, &Map.keys(&1.sessions))

    @impl true
    def cleanup_expired_sessions do
      if Agent.get(__MODULE__, & &1.over) == :broken, do: raise("it is broken")

      Agent.get_and_update(__MODULE__, fn state ->
        {state.over, %{state | over: [], sessions: Map.drop(state.sessions, state.over)}}
      end)
    end

    @impl true
    def get_stats, do: %{current_sessions: length(list_sessions()), kept_by: :agent}

    defp change(fun) do
      Agent.get_and_update(__MODULE__, fn state ->
        {reply, sessions} = fun.(state.sessions)
        {reply, %{state | sessions: sessions}}
      end)
    end

    defp put(sessions, session), do: {{:ok, session}, Map.put(sessions, session.id, session)}
  end

  defmodule Incomplete do
    def get_session(_id), do: {:error, :not_found}
  end

  describe "an adapter" do
    setup do
      start_pools(pool_size: 2, session_store: [adapter: InAgent, label: :mine, default_ttl: 7])
      :ok
    end

    test "keeps what the store is asked for" do
      assert InAgent.label() == :mine
      assert {:ok, %Session{ttl: 7}} = SessionStore.create_session("a", metadata: %{n: 1})
      assert {:ok, %Session{metadata: %{n: 1}}} = InAgent.get_session("a")
      assert {:ok, %{metadata: %{n: 1}}} = SessionStore.create_session("a", metadata: %{n: 2})
      assert {:ok, %{metadata: %{n: 1}}} = SessionStore.get_session(SessionStore, "a")
      assert SessionStore.session_exists?("a")
      assert SessionStore.list_sessions() == ["a"]

      assert {:ok, %{metadata: %{n: 2}}} =
               SessionStore.update_session("a", &Session.put_metadata(&1, :n, 2))

      assert {:error, {:update_failed, %RuntimeError{}}} =
               SessionStore.update_session("a", fn _ -> raise "no" end)

      assert {:error, {:update_failed, :id_changed}} =
               SessionStore.update_session("a", &%{&1 | id: "b"})

      assert {:ok, %{metadata: %{n: 2}}} = SessionStore.get_session("a")
      assert {:error, :invalid_ttl} = SessionStore.create_session("b", ttl: -1)
      assert {:error, :invalid_id} = SessionStore.create_session("")
      assert SessionStore.get_stats() == %{current_sessions: 1, kept_by: :agent}
      for n <- 1..4, do: assert({:ok, _} = SessionStore.create_session("s#{n}"))
      assert {:error, :session_quota_exceeded} = SessionStore.create_session("s5")
      assert :ok = SessionStore.delete_session("a")
      assert :ok = SessionStore.delete_session("a")
      assert {:error, :not_found} = SessionStore.get_session("a")
      assert {:error, :not_found} = SessionStore.update_session("a", & &1)
    end

    test "has the sessions of calls, with the worker that served them" do
      assert {:ok, _} = Snakepit.execute_in_session("caller", "pid", %{})

      eventually(fn ->
        match?({:ok, %{last_worker_id: "" <> _}}, InAgent.get_session("caller"))
      end)

      assert :ok = SessionStore.store_worker_session("other", "w1")
      assert :ok = SessionStore.store_worker_session("other", "w2")
      assert {:ok, %{last_worker_id: "w2"}} = SessionStore.get_session("other")
    end

    test "what belongs to a session goes when it does" do
      for id <- ["deleted", "expired"] do
        {:ok, _} = SessionStore.create_session(id)
        :ok = ToolRegistry.register_elixir_tool(id, "t", fn _ -> 1 end)
        assert {:ok, "v"} = SessionStore.register_variable(id, "v", :any, 1)
        assert :ok = SessionStore.update_variable(id, "v", 2)
        assert :ok = SessionStore.store_program(id, "p", %{})
        assert {:ok, %{}} = SessionStore.get_program(id, "p")
      end

      :ok = SessionStore.delete_session("deleted")
      InAgent.end_now("expired")
      assert SessionStore.cleanup_expired_sessions() == 1
      assert SessionStore.cleanup_expired_sessions() == 0

      for id <- ["deleted", "expired"] do
        assert {:error, {:tool_not_found, ^id, "t"}} = ToolRegistry.get_tool(id, "t")
        assert {:error, :not_found} = SessionStore.register_variable(id, "w", :any, 1)
        {:ok, _} = SessionStore.create_session(id)
        assert {:ok, []} = SessionStore.list_variables(id)
        assert {:error, :not_found} = SessionStore.get_program(id, "p")
      end
    end

    test "is started again with the store" do
      {:ok, _} = SessionStore.create_session("a")
      store = Process.whereis(SessionStore)
      monitor = Process.monitor(store)
      agent = Process.whereis(InAgent)
      Process.exit(agent, :kill)
      assert_receive {:DOWN, ^monitor, _, _, {:session_store_adapter, :killed}}, 60_000
      eventually(fn -> Process.whereis(SessionStore) not in [nil, store] end)
      # It answers when it is there with all it has.
      assert %{adapter: InAgent} = GenServer.call(SessionStore, :tables)
      assert Process.whereis(InAgent) not in [nil, agent]
      assert {:error, :not_found} = SessionStore.get_session("a")
      assert {:ok, _} = SessionStore.create_session("a")
    end

    test "one that fails while it cleans up costs nothing else" do
      store = Process.whereis(SessionStore)
      :ok = SessionStore.store_global_program("p", 1)
      Agent.update(InAgent, &%{&1 | over: :broken})

      log =
        capture_log(fn ->
          Snakepit.Logger.with_level(:error, fn ->
            assert SessionStore.cleanup_expired_sessions() == 0
          end)
        end)

      assert log =~ "it is broken"
      assert Process.whereis(SessionStore) == store
      assert {:ok, 1} = SessionStore.get_global_program("p")
    end
  end

  test "settings of the store are those of the configuration" do
    start_app(session_store: %{max_sessions: 2, default_ttl: 0, cleanup_interval: 1})
    assert {:ok, %{ttl: 0}} = SessionStore.create_session("a")
    # The sweep comes by itself, and an expired one takes no place.
    eventually(fn -> SessionStore.get_stats().sessions_expired == 1 end)
    for id <- ["b", "c"], do: {:ok, _} = SessionStore.create_session(id, ttl: 60)
    assert {:error, :session_quota_exceeded} = SessionStore.create_session("d")

    start_app(session_config: %{ttl: 5, cleanup_interval: 60_000})
    assert {:ok, %{ttl: 5}} = SessionStore.create_session("a")
  end

  test "what is no adapter is said to be none" do
    for {adapter, reason} <- [
          {NoSuchModule, {:not_loadable, NoSuchModule, :nofile}},
          {Incomplete, :not_implemented},
          {"text", {:not_a_module, "text"}},
          {InAgent, :not_started}
        ] do
      Process.flag(:trap_exit, true)
      Application.put_env(:snakepit, :session_store, label: :other)
      on_exit(fn -> Application.delete_env(:snakepit, :session_store) end)
      busy = adapter == InAgent and Agent.start_link(fn -> nil end, name: InAgent)

      assert {:error, {:session_store_adapter, why}} =
               SessionStore.start_link(name: :wrong_store, adapter: adapter)

      if is_atom(reason), do: assert(elem(why, 0) == reason), else: assert(why == reason)
      with {:ok, agent} <- busy, do: Agent.stop(agent)
    end
  end
end
