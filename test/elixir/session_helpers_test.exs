defmodule Snakepit.SessionHelpersTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.SessionStore
  alias Snakepit.{Error, SessionHelpers}

  setup do
    start_pools(adapter_args: ["--adapter", "snakepit_program_tools.ProgramTools"])
    :ok
  end

  defp run(session, command, args),
    do: SessionHelpers.execute_program_command(session, command, args)

  test "a program is made, named and used" do
    assert {:ok, %{"program_id" => id, "pid" => _}} = run("a", "create_program", %{factor: 3})
    assert id =~ ~r/^program_[0-9a-f]{16}$/

    assert {:ok, %{"output" => 12, "known" => true}} =
             run("a", "execute_program", %{"program_id" => id, "input" => 4})

    assert {:ok, %{"program_id" => other}} = run("a", "create_program", %{factor: 3})
    refute other == id
  end

  test "the name may be the caller's" do
    assert {:ok, %{"program_id" => "mine"}} =
             run("b", "create_program", %{program_id: "mine", factor: 2})

    assert SessionStore.get_program("b", "mine") ==
             {:ok, %{"program_id" => "mine", "factor" => 2}}
  end

  test "a worker that does not know the program is told" do
    {:ok, %{"program_id" => id}} = run("c", "create_program", %{factor: 5})
    {:ok, nil} = run("c", "forget", %{})

    assert {:ok, %{"output" => 10, "known" => false}} =
             run("c", "execute_program", %{program_id: id, input: 2})
  end

  test "programs of all sessions are known too" do
    :ok = SessionStore.store_global_program("global", %{"factor" => 7})

    assert {:ok, %{"output" => 14}} =
             run("d", "execute_program", %{program_id: "global", input: 2})
  end

  test "programs belong to their session" do
    {:ok, %{"program_id" => id}} = run("e", "create_program", %{factor: 5})
    {:ok, nil} = run("e", "forget", %{})

    assert {:error, %Error.KeyError{}} = run("f", "execute_program", %{program_id: id, input: 2})
  end

  test "what fails is not kept" do
    assert {:error, %Error.TypeError{}} = run("g", "create_program", %{program_id: "none"})
    assert SessionStore.get_program("g", "none") == {:error, :not_found}
  end

  test "other commands pass" do
    assert {:ok, %{"program_id" => "named"}} = run("h", "create_named", %{})
    assert {:ok, [1]} = run("h", "echo", %{value: [1]})
  end
end
