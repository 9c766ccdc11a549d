defmodule Snakepit.Pool.RosterTest do
  use ExUnit.Case, async: true

  alias Snakepit.Error
  alias Snakepit.Pool.Roster

  @limits %{first_wait: 100, max_rounds: 2}
  @error Error.worker_error("no")

  defp initial(size) do
    roster = Roster.new(%{name: :p}, size)
    {roster, ids} = Roster.add(roster, Roster.missing(roster, 0), :initial)
    {Enum.reduce(ids, roster, &Roster.starting(&2, &1)), ids}
  end

  defp fail(roster, id, now) do
    roster |> Roster.failed(id, @error, now, @limits) |> Roster.gone(id)
  end

  test "is settled when each worker is ready or failed" do
    {roster, [a, b]} = initial(2)
    refute Roster.settled?(roster)
    roster = Roster.ready(roster, a, self())
    assert Roster.ready?(roster)
    refute Roster.settled?(roster)
    roster = Roster.failed(roster, b, @error, 0, @limits)
    assert Roster.settled?(roster)
    refute Roster.dead?(roster)
  end

  test "is dead when none is ready, and alive again with the first" do
    {roster, [a, b]} = initial(2)
    roster = fail(roster, a, 0)
    refute Roster.dead?(roster)
    roster = fail(roster, b, 0)
    assert Roster.dead?(roster)

    {roster, [c]} = Roster.add(roster, 1, :later)
    assert Roster.dead?(roster)
    refute Roster.dead?(Roster.ready(roster, c, self()))
  end

  test "waits longer after each round, and a pool that never ran gives up" do
    {roster, [a, b]} = initial(2)
    roster = roster |> fail(a, 0) |> fail(b, 1)
    assert Roster.missing(roster, 99) == 0
    assert Roster.missing(roster, 100) == 2

    {roster, [c, _]} = Roster.add(roster, 2, :later)
    roster = fail(roster, c, 100)
    assert Roster.missing(roster, 299) == 0
    assert Roster.missing(roster, 300) == 1

    {roster, [d]} = Roster.add(roster, 1, :later)
    roster = fail(roster, d, 300)
    assert Roster.missing(roster, 1_000_000) == 0
    assert roster.gave_up?
  end

  test "a pool that ran once is never given up, and waits a minute at most" do
    {roster, [a]} = initial(1)
    roster = roster |> Roster.ready(a, self()) |> Roster.gone(a)

    roster =
      Enum.reduce(1..40, roster, fn i, roster ->
        {roster, [id]} = Roster.add(roster, 1, :later)
        fail(roster, id, i * 1_000_000)
      end)

    assert Roster.missing(roster, 40_000_000 + 59_999) == 0
    assert Roster.missing(roster, 40_000_000 + 60_000) == 1
  end

  test "what waits for its start is dropped by a hold" do
    roster = Roster.new(%{name: :p}, 2)
    {roster, _ids} = Roster.add(roster, 2, :later)
    assert Roster.missing(roster, 0) == 0
    roster = Roster.hold(roster, 50)
    assert Roster.missing(roster, 49) == 0
    assert Roster.missing(roster, 50) == 2
  end
end
