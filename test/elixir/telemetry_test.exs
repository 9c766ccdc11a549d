defmodule Snakepit.TelemetryTest do
  use ExUnit.Case, async: true

  alias Snakepit.Telemetry

  doctest Telemetry

  @moduletag :capture_log

  # Events of this test alone.
  defp name, do: [:test, :"e#{System.unique_integer([:positive])}"]

  defp tell(test), do: fn event, m, meta, config -> send(test, {event, m, meta, config}) end

  test "handlers get event, measurements, metadata and their configuration" do
    [a, b] = events = [name(), name()]
    id = make_ref()
    assert :ok = Telemetry.attach_many(id, events, tell(self()), :config)
    assert Telemetry.attached?(a)
    assert :ok = Telemetry.execute(a, %{n: 1}, %{m: 2})
    assert_received {^a, %{n: 1}, %{m: 2}, :config}
    assert :ok = Telemetry.execute(b, %{n: 2})
    assert_received {^b, %{n: 2}, m, :config} when m == %{}
    assert :ok = Telemetry.detach(id)
    refute Telemetry.attached?(a)
    assert :ok = Telemetry.execute(a, %{})
    refute_received {^a, _, _, _}
    assert {:error, :not_found} = Telemetry.detach(id)
  end

  test "an id is there once" do
    id = make_ref()
    assert :ok = Telemetry.attach(id, name(), tell(self()), nil)
    assert {:error, :already_exists} = Telemetry.attach(id, name(), tell(self()), nil)
    assert :ok = Telemetry.detach(id)
  end

  test "a handler that fails is detached, and the others go on" do
    event = name()
    test = self()
    good = make_ref()

    for {id, fun} <- [
          {{:raises, event}, fn _, _, _, _ -> raise "broken" end},
          {{:throws, event}, fn _, _, _, _ -> throw(:ball) end},
          {{:exits, event}, fn _, _, _, _ -> exit(:now) end},
          {good, fn _, _, _, _ -> send(test, :called) end}
        ],
        do: :ok = Telemetry.attach(id, event, fun, nil)

    failure = {:failures, event}
    :ok = Telemetry.attach(failure, [:telemetry, :handler, :failure], tell(self()), nil)

    assert :ok = Telemetry.execute(event, %{}, %{})
    assert_received :called
    assert [%{id: ^good}] = Telemetry.list_handlers(event)

    for kind <- [:error, :throw, :exit] do
      assert_received {[:telemetry, :handler, :failure], _,
                       %{event_name: ^event, kind: ^kind, handler_id: {_, ^event}}, nil}
    end

    :ok = Telemetry.detach(good)
    :ok = Telemetry.detach(failure)
  end

  test "a handler of failures that fails is the end of it" do
    id = make_ref()
    event = name()
    fail = fn _, _, _, _ -> raise "broken" end
    :ok = Telemetry.attach_many(id, [event, [:telemetry, :handler, :failure]], fail, nil)
    assert :ok = Telemetry.execute(event, %{}, %{})
    refute Telemetry.attached?(event)
  end

  test "handlers are listed by the beginning of their event" do
    [root, leaf] = name()
    id = make_ref()
    :ok = Telemetry.attach_many(id, [[root, leaf], [root, leaf, :start]], tell(self()), 1)
    assert [_, _] = Telemetry.list_handlers([root, leaf])

    assert [%{id: ^id, event_name: [^root, ^leaf, :start], config: 1}] =
             Telemetry.list_handlers([root, leaf, :start])

    assert Enum.count(Telemetry.list_handlers([]), &(&1.id == id)) == 2
    :ok = Telemetry.detach(id)
  end

  test "many may attach and detach at a time" do
    event = name()

    1..20
    |> Enum.map(fn i ->
      Task.async(fn ->
        :ok = Telemetry.attach({event, i}, event, fn _, _, _, _ -> :ok end, nil)
        if rem(i, 2) == 0, do: :ok = Telemetry.detach({event, i})
      end)
    end)
    |> Task.await_many(60_000)

    assert length(Telemetry.list_handlers(event)) == 10
    for i <- 1..20//2, do: :ok = Telemetry.detach({event, i})
    assert Telemetry.list_handlers(event) == []
  end

  # The package as far as Snakepit uses it. Where its handlers are has changed: a table
  # with a name; one without, in a pair or a triple (1.4); or a map (persist/0).
  @package """
  defmodule :telemetry_handler_table do
    def list_for_event(event), do: for({^event, _, _} = found <- all(), do: found)

    def all do
      case :persistent_term.get(:telemetry, nil) do
        nil -> :ets.tab2list(__MODULE__)
        kept -> kept |> Tuple.to_list() |> List.last() |> all()
      end
    end

    defp all(%{} = map), do: map |> Map.values() |> Enum.concat()
    defp all(table), do: :ets.tab2list(table)

    def new(:named), do: :ets.new(__MODULE__, [:duplicate_bag, :named_table, :public])
    def new(:map), do: keep(:map, %{})
    def new(how), do: keep(how, :ets.new(__MODULE__, [:duplicate_bag, :public]))

    def keep(:triple, state), do: :persistent_term.put(:telemetry, {:some, nil, state})
    def keep(_how, state), do: :persistent_term.put(:telemetry, {:some, state})

    def change(fun) do
      case :persistent_term.get(:telemetry, nil) do
        {_, %{}} -> keep(:map, Enum.group_by(fun.(all()), &elem(&1, 0)))
        nil -> change(__MODULE__, fun)
        kept -> kept |> Tuple.to_list() |> List.last() |> change(fun)
      end
    end

    defp change(table, fun) do
      all = fun.(all())
      :ets.delete_all_objects(table)
      :ets.insert(table, all)
    end
  end

  defmodule :telemetry do
    @table :telemetry_handler_table
    def execute(event, measured, about) do
      for {_, _id, fun} <- @table.list_for_event(event), do: fun.(event, measured, about, nil)
      :ok
    end

    def attach_many(id, events, fun, _config) do
      @table.change(&(for(event <- events, do: {event, id, fun}) ++ &1))
      :ok
    end

    def detach(id) do
      @table.change(&for({_, other, _} = kept <- &1, other != id, do: kept))
      :ok
    end

    def list_handlers(_prefix), do: @table.all()
  end

  keys = [description: ~c"t", vsn: ~c"1", modules: [], registered: [], applications: []]
  :ok = :application.load({:application, :telemetry, keys})
  alias Snakepit.Telemetry
  executed = [:snakepit, :request, :executed]
  start = [:snakepit, :grpc_worker, :execute, :start]
  ours = Snakepit.Telemetry.Dispatcher

  for how <- [:named, :pair, :triple, :map] do
    :persistent_term.erase(:telemetry)
    for key <- [ours, {ours, :calls}], do: :persistent_term.erase(key)
    :telemetry_handler_table.new(how)
    :ok = Telemetry.attach(1, [:a], fn _, _, _, _ -> say.(:told) end, nil)
    say.({ours.backend(), ours.list_handlers([]), Telemetry.attached?([:a]), Telemetry.calls()})
    Telemetry.execute([:a], %{}, %{})
    :ok = Telemetry.attach(2, executed, fn _, _, _, _ -> :ok end, nil)
    say.({Telemetry.calls(), Telemetry.attached?(executed)})
    :ok = Telemetry.detach(2)
    say.(Telemetry.calls())
    # As many as before: seen a little later.
    :ok = Telemetry.detach(1)
    :ok = Telemetry.attach(3, start, fn _, _, _, _ -> :ok end, nil)
    look = fn look -> with 0 <- Telemetry.calls(), do: look.(look) end
    say.(look.(look))
  end
  """

  test "with the package telemetry it is that which is asked" do
    dir = Path.dirname(Snakepit.Test.Pools.signal_path())
    beam = Snakepit.Test.OtherVM.start(dir, @package)

    for _how <- 1..4 do
      assert Snakepit.Test.OtherVM.hear(beam) == {:telemetry, [], true, 0}
      assert Snakepit.Test.OtherVM.hear(beam) == :told
      assert Snakepit.Test.OtherVM.hear(beam) == {0b01, true}
      assert Snakepit.Test.OtherVM.hear(beam) == 0
      assert Snakepit.Test.OtherVM.hear(beam) == 0b10011
    end
  end
end
