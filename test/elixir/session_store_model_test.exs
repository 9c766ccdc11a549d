defmodule Snakepit.Bridge.SessionStoreModelTest do
  use ExUnit.Case, async: true

  # Random operations on a store and on a model of it: both must say the same.
  # The model is %{id => %{ttl, idle, metadata}}, in steps of time that no real
  # time comes near to.

  alias Snakepit.Bridge.{Session, SessionStore}

  @step 10_000

  setup do
    seed = System.unique_integer([:positive]) + System.os_time(:second)
    {:ok, seed: seed}
  end

  defp start_store(opts) do
    name = :"model_store_#{System.unique_integer([:positive])}"
    start_supervised!({SessionStore, [name: name, cleanup_interval: nil] ++ opts}, id: name)
    name
  end

  # As if a session had not been used for so many steps.
  defp age(store, id, steps), do: age_ms(store, id, steps * @step * 1000)

  # The store knows when it made or changed them, so it would know this, too.
  defp age_ms(store, id, ms) do
    %{sessions: table, due: due} = GenServer.call(store, :tables)

    with [{^id, session, clock}] <- :ets.lookup(table, id) do
      :atomics.sub(clock, 1, ms)
      ends = :atomics.get(clock, 1) + session.ttl * 1000
      :atomics.put(due, 1, min(:atomics.get(due, 1), ends))
    end
  end

  # No session that is there ends before the moment that the store has noted.
  defp noted?(store) do
    %{sessions: table, due: due} = GenServer.call(store, :tables)

    Enum.all?(:ets.tab2list(table), fn {_id, session, clock} ->
      :atomics.get(clock, 1) + session.ttl * 1000 >= :atomics.get(due, 1)
    end)
  end

  # ---- the model ----------------------------------------------------------

  defp live?(model, id), do: match?(%{^id => %{idle: idle, ttl: ttl}} when idle < ttl, model)
  defp live(model), do: for({id, _} <- model, live?(model, id), do: id)
  defp used(model, id), do: put_in(model[id].idle, 0)
  defp seen(model, id), do: Map.take(model[id], [:metadata, :ttl])

  defp model(model, {:create, id, ttl, metadata}, max) do
    cond do
      live?(model, id) -> {{:ok, seen(model, id)}, used(model, id)}
      length(live(model)) >= max -> {{:error, :session_quota_exceeded}, model}
      true -> model |> Map.put(id, %{ttl: ttl, idle: 0, metadata: metadata}) |> got(id)
    end
  end

  defp model(model, {:get, id}, _max),
    do: if(live?(model, id), do: model |> used(id) |> got(id), else: {not_found(), model})

  defp model(model, {:exists, id}, _max), do: {live?(model, id), model}
  defp model(model, {:delete, id}, _max), do: {:ok, Map.delete(model, id)}
  defp model(model, :sweep, _max), do: {:swept, Map.take(model, live(model))}

  defp model(model, {:age, id, steps}, _max) do
    if live?(model, id),
      do: {:ok, update_in(model[id].idle, &(&1 + steps))},
      else: {:ok, model}
  end

  defp model(model, {:update, id, key, value}, _max) do
    if live?(model, id) do
      model |> used(id) |> put_in([id, :metadata, key], value) |> got(id)
    else
      {not_found(), model}
    end
  end

  defp model(model, {:ttl, id, ttl}, _max) do
    if live?(model, id),
      do: model |> used(id) |> put_in([id, :ttl], ttl) |> got(id),
      else: {not_found(), model}
  end

  defp model(model, {:failing, id}, _max) do
    if live?(model, id),
      do: {{:error, {:update_failed, :no}}, model},
      else: {not_found(), model}
  end

  defp got(model, id), do: {{:ok, seen(model, id)}, model}
  defp not_found, do: {:error, :not_found}

  # ---- the store ----------------------------------------------------------

  defp store(store, {:create, id, ttl, metadata}),
    do: plain(SessionStore.create_session(store, id, ttl: ttl * @step, metadata: metadata))

  defp store(store, {:get, id}), do: plain(SessionStore.get_session(store, id))
  defp store(store, {:exists, id}), do: SessionStore.session_exists?(store, id)
  defp store(store, {:delete, id}), do: SessionStore.delete_session(store, id)

  defp store(store, {:failing, id}),
    do: SessionStore.update_session(store, id, fn _ -> throw(:no) end)

  defp store(store, {:update, id, key, value}),
    do: plain(SessionStore.update_session(store, id, &Session.put_metadata(&1, key, value)))

  defp store(store, {:ttl, id, ttl}),
    do: plain(SessionStore.update_session(store, id, &%{&1 | ttl: ttl * @step}))

  defp store(store, :sweep) do
    assert SessionStore.cleanup_expired_sessions(store) >= 0
    :swept
  end

  # An expired one stays that.
  defp store(store, {:age, id, steps}) do
    if SessionStore.session_exists?(store, id), do: age(store, id, steps)
    :ok
  end

  defp plain({:ok, session}) do
    assert :ok = Session.validate(session)
    refute session.ttl > 0 and Session.expired?(session)
    {:ok, %{metadata: session.metadata, ttl: div(session.ttl, @step)}}
  end

  defp plain(error), do: error

  # ---- both ---------------------------------------------------------------

  defp operation(ids) do
    id = Enum.random(ids)

    case :rand.uniform(20) do
      n when n <= 5 -> {:create, id, Enum.random(0..3), %{n: :rand.uniform(9)}}
      n when n <= 9 -> {:get, id}
      n when n <= 11 -> {:exists, id}
      n when n <= 14 -> {:update, id, Enum.random([:a, :b]), :rand.uniform(9)}
      15 -> {:delete, id}
      16 -> :sweep
      17 -> {:failing, id}
      18 -> {:ttl, id, Enum.random(1..3)}
      _ -> {:age, id, Enum.random(1..3)}
    end
  end

  defp run(store, ids, count, max, about) do
    Enum.reduce(1..count, {%{}, []}, fn _, {model, done} ->
      operation = operation(ids)
      {expected, model} = model(model, operation, max)
      done = [operation | done]
      actual = store(store, operation)

      assert actual == expected,
             "#{about}: #{inspect(actual)}, not #{inspect(expected)} after " <>
               inspect(Enum.reverse(done), limit: :infinity)

      assert max == :infinity or noted?(store), "#{about}: #{inspect(Enum.reverse(done))}"
      {model, done}
    end)
    |> elem(0)
  end

  test "one at a time, with a maximum", %{seed: seed} do
    for round <- 1..15 do
      :rand.seed(:exsss, {seed, round, 0})
      store = start_store(max_sessions: 3)
      model = run(store, Enum.map(1..6, &"s#{&1}"), 150, 3, "seed #{seed}, round #{round}")
      assert Enum.sort(SessionStore.list_sessions(store)) == Enum.sort(live(model))

      _ = SessionStore.cleanup_expired_sessions(store)
      stats = SessionStore.get_stats(store)
      assert stats.current_sessions == length(live(model))

      assert stats.sessions_created ==
               stats.sessions_deleted + stats.sessions_expired + stats.current_sessions
    end
  end

  # What is one's own is as if one were alone; what is shared adds up.
  test "by many at the same time", %{seed: seed} do
    store = start_store(max_sessions: :infinity)
    shared = Enum.map(1..3, &"shared#{&1}")
    for id <- shared, do: {:ok, _} = SessionStore.create_session(store, id, metadata: %{n: 0})

    models =
      1..8
      |> Enum.map(fn n ->
        Task.async(fn ->
          :rand.seed(:exsss, {seed, n, 1})
          own = Enum.map(1..3, &"own#{n}-#{&1}")

          for part <- 1..6 do
            model = run(store, own, 40, :infinity, "seed #{seed}, process #{n}.#{part}")
            for id <- shared, do: count(store, id)
            churn(store)
            assert own -- SessionStore.list_sessions(store) == own -- live(model)
            for id <- own, do: SessionStore.delete_session(store, id)
          end

          run(store, own, 40, :infinity, "seed #{seed}, process #{n}")
        end)
      end)
      |> Task.await_many(300_000)

    for id <- shared,
        do: assert({:ok, %{metadata: %{n: 48}}} = SessionStore.get_session(store, id))

    _ = SessionStore.cleanup_expired_sessions(store)
    own = Enum.flat_map(models, &live/1)
    left = SessionStore.list_sessions(store)
    assert (own ++ shared) -- left == []
    assert Enum.all?(left -- (own ++ shared), &String.starts_with?(&1, "churn"))
    stats = SessionStore.get_stats(store)
    assert stats.current_sessions == length(left)

    assert stats.sessions_created ==
             stats.sessions_deleted + stats.sessions_expired + stats.current_sessions
  end

  defp count(store, id) do
    assert {:ok, %{id: ^id}} =
             SessionStore.update_session(
               store,
               id,
               &Session.put_metadata(&1, :n, &1.metadata.n + 1)
             )
  end

  # Made, ended and begun again by all of them.
  defp churn(store) do
    for _ <- 1..20 do
      id = "churn#{:rand.uniform(3)}"

      case :rand.uniform(4) do
        1 ->
          SessionStore.delete_session(store, id)

        2 ->
          SessionStore.cleanup_expired_sessions(store)

        _ ->
          assert {:ok, %{id: ^id}} =
                   SessionStore.create_session(store, id, ttl: Enum.random([0, @step]))
      end

      case SessionStore.get_session(store, id) do
        {:ok, session} -> assert session.id == id
        {:error, reason} -> assert reason == :not_found
      end
    end
  end

  test "who was given a session has not lost it to the sweep", %{seed: seed} do
    :rand.seed(:exsss, {seed, 0, 2})
    store = start_store(max_sessions: :infinity)
    sweeper = Task.async(fn -> sweep(store) end)

    for n <- 1..300 do
      id = "s#{n}"
      {:ok, _} = SessionStore.create_session(store, id, ttl: @step)
      # About to end: readers and the sweep race for it.
      age_ms(store, id, @step * 1000 - :rand.uniform(3) + 1)
      readers = for _ <- 1..3, do: Task.async(fn -> SessionStore.get_session(store, id) end)
      given? = readers |> Task.await_many(60_000) |> Enum.any?(&match?({:ok, _}, &1))
      assert SessionStore.session_exists?(store, id) == given?, "seed #{seed}, #{n}"
    end

    send(sweeper.pid, :enough)
    assert Task.await(sweeper, 60_000) == :ok
    stats = SessionStore.get_stats(store)
    assert stats.sessions_created == stats.sessions_expired + stats.current_sessions
  end

  defp sweep(store) do
    _ = SessionStore.cleanup_expired_sessions(store)
    receive(do: (:enough -> :ok), after: (0 -> sweep(store)))
  end
end
