defmodule Snakepit.Bridge.SessionStoreTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools, only: [eventually: 1]

  alias Snakepit.Bridge.{BatchSetVariablesRequest, RegisterVariableRequest, SetVariableRequest}
  alias Snakepit.Bridge.{Session, SessionStore, ToolRegistry, Variable}

  setup do
    {:ok, store: start_store([])}
  end

  defp start_store(opts) do
    name = :"store_#{System.unique_integer([:positive])}"
    start_supervised!({SessionStore, [name: name] ++ opts}, id: name)
    name
  end

  defp unique(text), do: "#{text}-#{System.pid()}-#{System.unique_integer([:positive])}"

  # As if it had last been used so many seconds ago, which the store knows.
  defp age(store, id, seconds) do
    %{sessions: table, due: due} = GenServer.call(store, :tables)
    [{^id, session, clock}] = :ets.lookup(table, id)
    :atomics.sub(clock, 1, seconds * 1000)
    ends = :atomics.get(clock, 1) + session.ttl * 1000
    :atomics.put(due, 1, min(:atomics.get(due, 1), ends))
  end

  defp due(store), do: :atomics.get(GenServer.call(store, :tables).due, 1)
  defp sweeps(store), do: SessionStore.get_stats(store).cleanup_runs
  defp refused(store, id), do: SessionStore.create_session(store, id, ttl: 1_000)

  test "create, get, update, delete", %{store: store} do
    assert {:ok, %Session{id: "s", ttl: 60, metadata: %{a: 1}}} =
             SessionStore.create_session(store, "s", ttl: 60, metadata: %{a: 1})

    assert {:ok, %Session{metadata: %{a: 1}}} = SessionStore.get_session(store, "s")
    assert SessionStore.session_exists?(store, "s")
    assert SessionStore.list_sessions(store) == ["s"]

    assert {:ok, %Session{metadata: %{a: 1, b: 2}}} =
             SessionStore.update_session(store, "s", &Session.put_metadata(&1, :b, 2))

    assert {:ok, %Session{metadata: %{b: 2}}} = SessionStore.get_session(store, "s")
    assert :ok = SessionStore.delete_session(store, "s")
    assert :ok = SessionStore.delete_session(store, "s")
    assert {:error, :not_found} = SessionStore.get_session(store, "s")
    assert {:error, :not_found} = SessionStore.update_session(store, "s", & &1)
    refute SessionStore.session_exists?(store, "s")
    assert SessionStore.list_sessions(store) == []
  end

  test "the application's store is the default" do
    id = unique("default")
    on_exit(fn -> SessionStore.delete_session(id) end)
    assert {:ok, _} = SessionStore.create_session(id)
    assert {:ok, %{ttl: 3600}} = SessionStore.create_session(id, ttl: 5)
    assert {:ok, _} = SessionStore.get_session(id)
    assert {:ok, _} = SessionStore.get_session(SessionStore, id)
    assert {:ok, _} = SessionStore.get_session(Process.whereis(SessionStore), id)
    assert SessionStore.session_exists?(id)
    assert id in SessionStore.list_sessions()

    assert {:ok, %{metadata: %{x: 1}}} =
             SessionStore.update_session(id, &Session.put_metadata(&1, :x, 1))

    assert %{current_sessions: n} = SessionStore.get_stats()
    assert n >= 1
    assert is_integer(SessionStore.cleanup_expired_sessions())
    assert :ok = SessionStore.delete_session(id)
    refute SessionStore.session_exists?(id)
  end

  test "what is no session is refused", %{store: store} do
    assert {:error, :invalid_id} = SessionStore.create_session(store, "", [])
    assert {:error, :invalid_id} = SessionStore.create_session(store, 42, [])
    assert {:error, :invalid_ttl} = SessionStore.create_session(store, "s", ttl: -1)
    assert {:error, :invalid_metadata} = SessionStore.create_session(store, "s", metadata: [])

    for options <- [5, nil, [1], "ttl", %URI{}, %{"ttl" => 5}],
        do: assert({:error, :invalid_options} = SessionStore.create_session(store, "s", options))

    assert SessionStore.list_sessions(store) == []
  end

  test "options may be a map", %{store: store} do
    assert {:ok, %{ttl: 5, metadata: %{a: 1}}} =
             SessionStore.create_session(store, "s", %{ttl: 5, metadata: %{a: 1}})
  end

  test "a name of another kind is that of no session, and harms none", %{store: store} do
    {:ok, _} = SessionStore.create_session(store, "s")

    for name <- [nil, 5, :s, {"s"}] do
      assert {:error, :not_found} = SessionStore.get_session(store, name)
      assert {:error, :not_found} = SessionStore.update_session(store, name, & &1)
      assert :ok = SessionStore.delete_session(store, name)
      refute SessionStore.session_exists?(store, name)
    end

    assert SessionStore.list_sessions(store) == ["s"]
  end

  test "creating again gives the one that is there", %{store: store} do
    {:ok, first} = SessionStore.create_session(store, "s", metadata: %{a: 1})
    assert {:ok, again} = SessionStore.create_session(store, "s", metadata: %{a: 2})
    assert again.metadata == %{a: 1}
    assert again.created_at == first.created_at
    assert %{sessions_created: 1} = SessionStore.get_stats(store)
  end

  test "fifty create one session at the same time", %{store: store} do
    results =
      1..50
      |> Enum.map(fn i ->
        Task.async(fn -> SessionStore.create_session(store, "s", metadata: %{i: i}) end)
      end)
      |> Task.await_many(60_000)

    assert [{:ok, _}] = results |> Enum.map(&put_elem(&1, 1, nil)) |> Enum.uniq()
    assert [_one] = results |> Enum.map(fn {:ok, session} -> session.metadata end) |> Enum.uniq()
    assert %{sessions_created: 1, current_sessions: 1} = SessionStore.get_stats(store)
  end

  test "a hundred updates at the same time are a hundred", %{store: store} do
    {:ok, _} = SessionStore.create_session(store, "s", metadata: %{n: 0})

    1..100
    |> Enum.map(fn _ ->
      Task.async(fn ->
        SessionStore.update_session(store, "s", &Session.put_metadata(&1, :n, &1.metadata.n + 1))
      end)
    end)
    |> Task.await_many(60_000)

    assert {:ok, %{metadata: %{n: 100}}} = SessionStore.get_session(store, "s")
  end

  test "an update that fails changes nothing", %{store: store} do
    {:ok, _} = SessionStore.create_session(store, "s", metadata: %{n: 0})
    update = &SessionStore.update_session(store, "s", &1)

    assert {:error, {:update_failed, %RuntimeError{message: "no"}}} =
             update.(fn _ -> raise "no" end)

    assert {:error, {:update_failed, :out}} = update.(fn _ -> throw(:out) end)
    assert {:error, {:update_failed, :bye}} = update.(fn _ -> exit(:bye) end)
    assert {:error, {:update_failed, {:not_a_session, 1}}} = update.(fn _ -> 1 end)
    assert {:error, {:update_failed, :id_changed}} = update.(&%{&1 | id: "t"})
    assert {:error, :invalid_ttl} = update.(&%{&1 | ttl: nil})
    assert {:ok, %{id: "s", ttl: 3600, metadata: %{n: 0}}} = SessionStore.get_session(store, "s")
  end

  test "reading does not need the server", %{store: store} do
    id = unique("busy")
    on_exit(fn -> SessionStore.delete_session(id) end)
    {:ok, _} = SessionStore.create_session(id)
    server = Process.whereis(SessionStore)
    test = self()

    # The server is in the middle of this update while the others read.
    task =
      Task.async(fn ->
        SessionStore.update_session(id, fn session ->
          send(test, {:in_update, self()})
          receive(do: (:go -> session))
        end)
      end)

    assert_receive {:in_update, ^server}, 60_000
    assert {:ok, _} = SessionStore.get_session(id)
    assert SessionStore.session_exists?(id)
    assert id in SessionStore.list_sessions()
    assert {:ok, _} = SessionStore.create_session(id)
    send(server, :go)
    assert {:ok, _} = Task.await(task, 60_000)
    assert {:error, :not_found} = SessionStore.get_session(store, id)
  end

  # ---- expiry -------------------------------------------------------------

  test "an expired session is not there, swept or not", %{store: store} do
    {:ok, _} = SessionStore.create_session(store, "old", ttl: 100)
    {:ok, _} = SessionStore.create_session(store, "new", ttl: 100)
    age(store, "old", 100)
    assert {:error, :not_found} = SessionStore.get_session(store, "old")
    refute SessionStore.session_exists?(store, "old")
    assert {:error, :not_found} = SessionStore.update_session(store, "old", & &1)
    assert SessionStore.list_sessions(store) == ["new"]
    assert SessionStore.cleanup_expired_sessions(store) == 1
    assert SessionStore.cleanup_expired_sessions(store) == 0

    assert %{sessions_expired: 1, sessions_deleted: 0, current_sessions: 1, cleanup_runs: 2} =
             SessionStore.get_stats(store)
  end

  test "a ttl of 0 is over at once", %{store: store} do
    assert {:ok, _} = SessionStore.create_session(store, "s", ttl: 0)
    assert {:error, :not_found} = SessionStore.get_session(store, "s")
    assert SessionStore.cleanup_expired_sessions(store) == 1
  end

  test "using a session keeps it alive", %{store: store} do
    {:ok, _} = SessionStore.create_session(store, "s", ttl: 100)

    for use <- [
          fn -> SessionStore.get_session(store, "s") end,
          fn -> SessionStore.update_session(store, "s", & &1) end,
          fn -> SessionStore.create_session(store, "s", []) end
        ] do
      age(store, "s", 60)
      assert {:ok, session} = use.()
      refute Session.expired?(session)
    end

    # Asking whether it exists is no use.
    age(store, "s", 60)
    assert SessionStore.session_exists?(store, "s")
    age(store, "s", 60)
    refute SessionStore.session_exists?(store, "s")
  end

  test "an expired id can begin again", %{store: store} do
    {:ok, _} = SessionStore.create_session(store, "s", ttl: 100, metadata: %{a: 1})
    age(store, "s", 100)

    assert {:ok, %{metadata: %{a: 2}}} =
             SessionStore.create_session(store, "s", metadata: %{a: 2})

    assert %{sessions_created: 2, sessions_expired: 1} = SessionStore.get_stats(store)
  end

  test "the sweep comes by itself" do
    store = start_store(cleanup_interval: 1)
    {:ok, _} = SessionStore.create_session(store, "s", ttl: 0)
    table = GenServer.call(store, :tables).sessions
    eventually(fn -> :ets.info(table, :size) == 0 end)
  end

  # ---- quota --------------------------------------------------------------

  test "the maximum holds for new sessions only" do
    store = start_store(max_sessions: 2)
    {:ok, _} = SessionStore.create_session(store, "a", [])
    {:ok, _} = SessionStore.create_session(store, "b", ttl: 100)
    assert {:error, :session_quota_exceeded} = SessionStore.create_session(store, "c", [])
    assert {:ok, _} = SessionStore.create_session(store, "a", [])
    age(store, "b", 100)
    assert {:ok, _} = SessionStore.create_session(store, "c", [])
    assert {:error, :session_quota_exceeded} = SessionStore.create_session(store, "b", [])
    :ok = SessionStore.delete_session(store, "c")
    assert {:ok, _} = SessionStore.create_session(store, "b", [])
  end

  test "a full store is not searched before one of its sessions can expire" do
    store = start_store(max_sessions: 3, cleanup_interval: nil)
    for {id, ttl} <- [{"a", 300}, {"b", 100}, {"c", 200}], do: create(store, id, ttl)
    for n <- 1..20, do: assert({:error, :session_quota_exceeded} = refused(store, "n#{n}"))
    assert sweeps(store) == 0

    # The first that can goes, and no other.
    age(store, "b", 100)
    assert {:ok, _} = refused(store, "d")
    assert Enum.sort(SessionStore.list_sessions(store)) == ["a", "c", "d"]
    assert sweeps(store) == 1
    for n <- 1..20, do: assert({:error, :session_quota_exceeded} = refused(store, "m#{n}"))
    assert sweeps(store) == 1
  end

  test "one that was used since is looked at once, not for each that wants its place" do
    store = start_store(max_sessions: 2, cleanup_interval: nil)
    create(store, "a", 100)
    create(store, "b", 500)
    before = due(store)
    age(store, "a", 99)
    assert due(store) < before
    # Now its end has moved, and the store has not heard of that.
    assert {:ok, _} = SessionStore.get_session(store, "a")
    assert due(store) < before
    early = System.monotonic_time(:millisecond)
    :atomics.put(GenServer.call(store, :tables).due, 1, early)

    for n <- 1..20, do: assert({:error, :session_quota_exceeded} = refused(store, "n#{n}"))
    assert sweeps(store) == 1
    assert due(store) >= before
    assert Enum.sort(SessionStore.list_sessions(store)) == ["a", "b"]
  end

  test "a ttl that was made shorter counts" do
    store = start_store(max_sessions: 1, cleanup_interval: nil)
    create(store, "a", 500)
    {:ok, _} = SessionStore.update_session(store, "a", &%{&1 | ttl: 0})
    assert {:ok, _} = refused(store, "b")
    assert SessionStore.list_sessions(store) == ["b"]
  end

  test "a place that was given up is free, whenever the others expire" do
    store = start_store(max_sessions: 2, cleanup_interval: nil)
    for id <- ["a", "b"], do: create(store, id, 100)
    :ok = SessionStore.delete_session(store, "a")
    assert {:ok, _} = refused(store, "c")
    assert {:error, :session_quota_exceeded} = refused(store, "d")
    assert sweeps(store) == 0
  end

  test "one without any session has nothing that is due" do
    store = start_store(max_sessions: 1, cleanup_interval: nil)
    assert SessionStore.cleanup_expired_sessions(store) == 0
    empty = due(store)
    create(store, "a", 1_000_000_000)
    assert due(store) < empty
    :ok = SessionStore.delete_session(store, "a")
    assert SessionStore.cleanup_expired_sessions(store) == 0
    assert due(store) == empty
  end

  defp create(store, id, ttl) do
    assert {:ok, %{ttl: ^ttl}} = SessionStore.create_session(store, id, ttl: ttl)
  end

  test "without a maximum" do
    store = start_store(max_sessions: :infinity)
    for i <- 1..20, do: assert({:ok, _} = SessionStore.create_session(store, "s#{i}", []))
    assert %{current_sessions: 20} = SessionStore.get_stats(store)
  end

  test "nearing the maximum is logged once" do
    store = start_store(max_sessions: 5, strict_mode: true)
    create = &SessionStore.create_session(store, "s#{&1}", [])
    # Others log at the same time.
    refute capture_log(fn -> Enum.each(1..3, create) end) =~ "of at most 5 sessions"
    assert capture_log(fn -> create.(4) end) =~ "4 of at most 5 sessions"
    refute capture_log(fn -> create.(5) end) =~ "of at most 5 sessions"
  end

  # ---- what belongs to a session ------------------------------------------

  test "with a session go its tools" do
    id = unique("tools")
    {:ok, _} = SessionStore.create_session(id)
    :ok = ToolRegistry.register_elixir_tool(id, "t", fn _ -> 1 end)
    :ok = SessionStore.delete_session(id)
    assert {:error, {:tool_not_found, ^id, "t"}} = ToolRegistry.get_tool(id, "t")

    {:ok, _} = SessionStore.create_session(id, ttl: 0)
    :ok = ToolRegistry.register_elixir_tool(id, "t", fn _ -> 1 end)
    # One that comes by itself may have been first.
    _ = SessionStore.cleanup_expired_sessions()
    assert {:error, {:tool_not_found, ^id, "t"}} = ToolRegistry.get_tool(id, "t")
  end

  test "the worker that served it last" do
    id = unique("worker")
    on_exit(fn -> SessionStore.delete_session(id) end)
    assert :ok = SessionStore.store_worker_session(id, "w1")
    assert {:ok, %{last_worker_id: "w1"}} = SessionStore.get_session(id)
    assert :ok = SessionStore.store_worker_session(id, "w1")
    assert :ok = SessionStore.store_worker_session(id, "w2")
    assert {:ok, %{last_worker_id: "w2"}} = SessionStore.get_session(id)
  end

  test "the workers that served many, the latest first" do
    [a, b] = ids = [unique("a"), unique("b")]
    on_exit(fn -> Enum.each(ids, &SessionStore.delete_session/1) end)
    {:ok, _} = SessionStore.create_session(a, metadata: %{n: 1})
    assert :ok = SessionStore.served_by([{b, "w1"}, {a, "w2"}, {b, "w2"}, {a, "w1"}])
    assert {:ok, %{last_worker_id: "w2", metadata: %{n: 1}}} = SessionStore.get_session(a)
    assert {:ok, %{last_worker_id: "w1"}} = SessionStore.get_session(b)
    assert :ok = SessionStore.served_by([{b, "w1"}, {b, "w2"}])
    assert {:ok, %{last_worker_id: "w1"}} = SessionStore.get_session(b)
    assert :ok = SessionStore.served_by([])
  end

  test "programs, of a session and of all" do
    id = unique("programs")
    on_exit(fn -> SessionStore.delete_session(id) end)
    assert {:error, :not_found} = SessionStore.store_program(id, "p", %{})
    {:ok, _} = SessionStore.create_session(id)
    assert :ok = SessionStore.store_program(id, "p", %{a: 1})
    assert {:ok, %{a: 1}} = SessionStore.get_program(id, "p")
    assert {:error, :not_found} = SessionStore.get_program(id, "q")
    assert {:error, :not_found} = SessionStore.get_global_program(id)
    assert :ok = SessionStore.store_global_program(id, [1])
    assert {:ok, [1]} = SessionStore.get_global_program(id)
  end

  test "variables have types and constraints" do
    id = unique("variables")
    on_exit(fn -> SessionStore.delete_session(id) end)
    register = &SessionStore.register_variable(id, &1, &2, &3, constraints: &4)
    assert {:error, :not_found} = register.("t", :float, 0.7, %{})
    {:ok, _} = SessionStore.create_session(id)
    assert {:ok, "t"} = register.("t", :float, 0.7, %{min: 0.0, max: 1.0})
    assert {:error, {:duplicate_variable, "t"}} = register.(:t, :float, 0.7, [])
    assert :ok = SessionStore.update_variable(id, :t, 0.9)
    assert {:error, {:constraint_violation, :max, 1.0}} = SessionStore.update_variable(id, "t", 2)
    assert {:error, {:invalid_value, _}} = SessionStore.update_variable(id, "t", "x")
    assert {:error, :not_found} = SessionStore.update_variable(id, "u", 1)
    assert {:error, {:invalid_type, :tensor}} = register.("u", :tensor, 1, %{})
    assert {:error, {:unknown_constraint, :odd}} = register.("u", :integer, 1, odd: true)

    assert {:error, {:constraint_violation, :choices, _}} =
             register.("c", :choice, 3, choices: [1])

    assert {:ok, "c"} = register.("c", :choice, 1, choices: [1, 2])
    options = %{constraints: %{max: 1}}

    assert {:error, {:constraint_violation, :max, 1}} =
             SessionStore.register_variable(id, "m", :integer, 2, options)

    assert {:error, {:constraint_violation, :max_length, 2}} =
             register.("s", :string, "abc", max_length: 2)

    assert {:ok, [%{name: "c", value: 1}, %{name: "t", value: 0.9}]} =
             SessionStore.list_variables(id)

    :ok = SessionStore.delete_session(id)
    assert {:error, :not_found} = SessionStore.list_variables(id)
    {:ok, _} = SessionStore.create_session(id)
    assert {:ok, []} = SessionStore.list_variables(id)
  end

  test "variables by requests as data" do
    id = unique("requests")
    on_exit(fn -> SessionStore.delete_session(id) end)
    register = %RegisterVariableRequest{session_id: id, name: :t, type: :float, initial_value: 1}
    assert {:error, :not_found} = SessionStore.apply_request(register)
    {:ok, _} = SessionStore.create_session(id)
    assert {:ok, "t"} = SessionStore.apply_request(%{register | constraints: %{max: 5}})

    assert {:ok, "b"} =
             SessionStore.apply_request(%RegisterVariableRequest{
               session_id: id,
               name: "b",
               type: :any,
               initial_binary_value: <<255>>
             })

    set = %SetVariableRequest{session_id: id, name: "t", value: 2}
    assert :ok = SessionStore.apply_request(set)

    assert {:error, {:constraint_violation, :max, 5}} =
             SessionStore.apply_request(%{set | value: 6})

    assert {:ok, variables} = SessionStore.list_variables(id)

    assert [
             %Variable{name: "b", type: :any, value: <<255>>, binary_value: <<255>>},
             %Variable{
               name: "t",
               type: :float,
               value: 2.0,
               binary_value: nil,
               constraints: limits
             }
           ] = variables

    assert limits == %{max: 5}

    batch = %BatchSetVariablesRequest{
      session_id: id,
      updates: %{"t" => 3, :u => 1},
      binary_updates: %{"b" => "now text"}
    }

    assert {:error, %{"u" => :not_found} = refused} = SessionStore.apply_request(batch)
    assert map_size(refused) == 1
    assert :ok = SessionStore.apply_request(%{batch | updates: %{t: 4}})

    assert {:ok, [%{value: "now text", binary_value: nil}, %{value: 4.0}]} =
             SessionStore.list_variables(id)
  end

  test "a store that is not running is noticed" do
    assert {:noproc, _} = catch_exit(SessionStore.get_session(:no_such_store, "s"))
  end
end
