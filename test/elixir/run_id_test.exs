defmodule Snakepit.RunIDTest do
  use ExUnit.Case, async: true

  alias Snakepit.RunID

  doctest RunID

  test "is seven characters of base 36, new each time" do
    ids = for _ <- 1..50, do: RunID.generate()
    assert Enum.all?(ids, &(&1 =~ ~r/^[0-9a-z]{7}$/))
    assert ids == Enum.uniq(ids)
  end

  test "is found behind either flag, and only there" do
    assert RunID.extract_from_command("x --snakepit-run-id abc1234 -y") == {:ok, "abc1234"}
    assert RunID.extract_from_command("x --run-id abc1234") == {:ok, "abc1234"}

    for other <- ["", "--run-id", "--run-id short", "--run-id abc12345", "x--run-id abc1234"] do
      assert RunID.extract_from_command(other) == {:error, :not_found}
    end
  end
end
