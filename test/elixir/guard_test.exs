defmodule Snakepit.GuardTest do
  use ExUnit.Case, async: true

  alias Snakepit.Native

  @patience 60_000

  # In a process that has ended when this returns.
  defp in_passing(fun) do
    {pid, monitor} = spawn_monitor(fun)
    assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, @patience
  end

  test "its owner hears of the end of the last term, once" do
    test = self()
    guard = Native.guard_new(test, "first")
    in_passing(fn -> _ = {guard, Native.guard_new(test, "second")} end)
    assert_receive {:snakepit_guard, "second"}, @patience
    refute_received {:snakepit_guard, "first"}
    assert Native.guard_disarm(guard) == :ok
    assert Native.guard_disarm(guard) == :ok
  end

  test "one that is disarmed ends in silence" do
    test = self()
    in_passing(fn -> :ok = Native.guard_disarm(Native.guard_new(test, "disarmed")) end)
    in_passing(fn -> Native.guard_new(test, "armed") end)
    assert_receive {:snakepit_guard, "armed"}, @patience
    refute_received {:snakepit_guard, "disarmed"}
  end

  test "the end of one whose owner has gone is nobody's" do
    test = self()
    {owner, monitor} = spawn_monitor(fn -> :ok end)
    assert_receive {:DOWN, ^monitor, :process, ^owner, _}, @patience
    in_passing(fn -> Native.guard_new(owner, "nobody's") end)
    in_passing(fn -> Native.guard_new(test, "") end)
    assert_receive {:snakepit_guard, ""}, @patience
  end

  test "what is not a pid, a guard or a name is refused" do
    assert_raise ArgumentError, fn -> Native.guard_new(:name, "x") end
    assert_raise ArgumentError, fn -> Native.guard_new(self(), :x) end
    assert_raise ArgumentError, fn -> Native.guard_new(self(), String.duplicate("x", 4097)) end
    assert_raise ArgumentError, fn -> Native.guard_disarm(make_ref()) end
  end
end
