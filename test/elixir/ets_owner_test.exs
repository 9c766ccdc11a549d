defmodule Snakepit.ETSOwnerTest do
  use ExUnit.Case, async: false

  alias Snakepit.ETSOwner

  @tables [:snakepit_worker_taints, :snakepit_zero_copy_handles]

  test "tables are made once and stay, whoever asked for them" do
    for name <- @tables do
      key = make_ref()

      Task.await(
        Task.async(fn ->
          assert ETSOwner.ensure_table(name) == name
          :ets.insert(name, {key, 1})
        end),
        60_000
      )

      assert ETSOwner.ensure_table(name) == name
      assert :ets.lookup(name, key) == [{key, 1}]
      assert :ets.info(name, :owner) == Process.whereis(ETSOwner)
      assert :ets.info(name, :read_concurrency)
      :ets.delete(name, key)
    end
  end

  test "many may ask at once" do
    1..50
    |> Enum.map(fn n ->
      Task.async(fn -> ETSOwner.ensure_table(Enum.at(@tables, rem(n, 2))) end)
    end)
    |> Task.await_many(60_000)
    |> Enum.each(&assert(&1 in @tables))
  end

  test "a name that is not known is refused" do
    assert_raise ArgumentError, ~r/unknown ETS table :unknown_table/, fn ->
      ETSOwner.ensure_table(:unknown_table)
    end

    assert :ets.whereis(:unknown_table) == :undefined
  end

  test "without its owner there is no table" do
    :ok = Supervisor.terminate_child(Snakepit.Supervisor, ETSOwner)
    on_exit(fn -> Supervisor.restart_child(Snakepit.Supervisor, ETSOwner) end)

    assert_raise RuntimeError, ~r/not running/, fn ->
      ETSOwner.ensure_table(:snakepit_worker_taints)
    end

    {:ok, _} = Supervisor.restart_child(Snakepit.Supervisor, ETSOwner)
    assert ETSOwner.ensure_table(:snakepit_worker_taints) == :snakepit_worker_taints
  end

  test "it has a child spec" do
    assert %{id: ETSOwner, start: {ETSOwner, :start_link, [_]}} = ETSOwner.child_spec([])
  end
end
