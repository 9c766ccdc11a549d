defmodule Snakepit.Bridge.ToolRegistryTest do
  use ExUnit.Case, async: true

  alias Snakepit.Bridge.{InternalToolSpec, ToolRegistry}

  setup do
    session = "tools-#{System.pid()}-#{System.unique_integer([:positive])}"
    on_exit(fn -> ToolRegistry.cleanup_session(session) end)
    {:ok, session: session}
  end

  defp names(tools), do: tools |> Enum.map(& &1.name) |> Enum.sort()

  test "an Elixir tool", %{session: session} do
    metadata = %{
      description: "Adds",
      exposed_to_python: true,
      parameters: [%{name: "a", type: "integer", required: true}],
      owner: "me"
    }

    add = fn %{"a" => a, "b" => b} -> a + b end
    assert :ok = ToolRegistry.register_elixir_tool(session, "add", add, metadata)

    assert {:ok,
            %InternalToolSpec{
              name: "add",
              type: :local,
              description: "Adds",
              exposed_to_python: true,
              parameters: [%{name: "a"}],
              metadata: ^metadata,
              worker_id: nil,
              handler: ^add
            }} = ToolRegistry.get_tool(session, "add")

    assert {:ok, 3} = ToolRegistry.execute_local_tool(session, "add", %{"a" => 1, "b" => 2})
    assert {:ok, 3} = ToolRegistry.execute_tool(session, "add", %{"a" => 1, "b" => 2})

    assert {:error, {:duplicate_tool, "add"}} =
             ToolRegistry.register_elixir_tool(session, " add ", add)
  end

  test "metadata may be a keyword list or have text keys", %{session: session} do
    fun = fn _ -> nil end
    assert :ok = ToolRegistry.register_elixir_tool(session, "a", fun, description: "A")
    assert {:ok, %{description: "A"}} = ToolRegistry.get_tool(session, "a")

    assert :ok =
             ToolRegistry.register_elixir_tool(session, "b", fun, %{
               "description" => "B",
               "exposed_to_python" => true
             })

    assert {:ok, %{description: "B", exposed_to_python: true}} =
             ToolRegistry.get_tool(session, "b")
  end

  test "names", %{session: session} do
    register = &ToolRegistry.register_elixir_tool(session, &1, fn _ -> nil end)
    assert {:error, {:invalid_tool_name, :empty}} = register.("")
    assert {:error, {:invalid_tool_name, :empty}} = register.("  \n")
    assert {:error, {:invalid_tool_name, :invalid_type}} = register.(:name)
    assert {:error, {:invalid_tool_name, :invalid_type}} = register.(nil)
    assert :ok = register.(String.duplicate("n", 64))
    assert {:error, {:invalid_tool_name, :too_long}} = register.(String.duplicate("n", 65))

    for bad <- ["-a", ".a", "_a", "a b", "a/b", "ä", "a\nb", <<255>>],
        do: assert({:error, {:invalid_tool_name, :invalid_format}} = register.(bad))

    for good <- ["a", "1", "a-b_c.d", " trimmed "], do: assert(:ok = register.(good))
    assert {:ok, %{name: "trimmed"}} = ToolRegistry.get_tool(session, "trimmed")
  end

  test "metadata has limits", %{session: session} do
    register = &ToolRegistry.register_elixir_tool(session, "t", fn _ -> nil end, &1)
    invalid = &{:error, {:invalid_metadata, &1}}
    assert register.(Map.new(1..33, &{"k#{&1}", &1})) == invalid.(:too_many_entries)
    assert register.(%{a: String.duplicate("x", 4096)}) == invalid.(:too_large)
    assert register.(a: 1, a: 2) == invalid.(:duplicate_keys)
    assert register.(%{:a => 1, "a" => 2}) == invalid.(:duplicate_keys)
    assert register.([1]) == invalid.(:unsupported_type)
    assert register.("text") == invalid.(:unsupported_type)
    assert register.(~D[2024-01-01]) == invalid.(:unsupported_type)
    assert register.(%{description: {1, 2}}) == invalid.(:unsupported_type)
    many = for i <- 1..10_000, do: %{name: "p#{i}"}
    assert register.(%{parameters: many}) == invalid.(:too_large)
    assert register.(%{parameters: :none}) == {:error, {:invalid_parameters, :unsupported_type}}
    assert ToolRegistry.list_tools(session) |> Enum.filter(&(&1.name == "t")) == []
    assert register.(Map.new(1..32, &{"k#{&1}", &1})) == :ok
  end

  test "a handler takes one argument", %{session: session} do
    assert {:error, :invalid_handler} =
             ToolRegistry.register_elixir_tool(session, "t", fn -> nil end)

    assert {:error, :invalid_handler} = ToolRegistry.register_elixir_tool(session, "t", :none)
  end

  test "a failing handler is an error, however it fails", %{session: session} do
    register = &ToolRegistry.register_elixir_tool(session, &1, &2)
    run = &ToolRegistry.execute_local_tool(session, &1, %{})
    register.("raise", fn _ -> raise ArgumentError, "no" end)
    register.("erlang", fn _ -> :erlang.error(:badarith) end)
    register.("throw", fn _ -> throw(:ball) end)
    register.("exit", fn _ -> exit(:bye) end)
    register.("match", fn %{"a" => a} -> a end)

    failed = fn tool ->
      {:error, {:tool_execution_failed, error}} = run.(tool)
      error
    end

    assert %ArgumentError{message: "no"} = failed.("raise")
    assert %ArithmeticError{} = failed.("erlang")
    assert %ErlangError{original: {:nocatch, :ball}} = failed.("throw")
    assert %ErlangError{original: {:exit, :bye}} = failed.("exit")
    assert %FunctionClauseError{} = failed.("match")
    assert {:error, {:tool_not_found, ^session, "none"}} = run.("none")
  end

  test "a tool of a worker", %{session: session} do
    assert :ok =
             ToolRegistry.register_python_tool(session, "t", "w1", %{
               "supports_streaming" => "true"
             })

    assert {:ok, %{type: :remote, worker_id: "w1", handler: nil}} =
             ToolRegistry.get_tool(session, "t")

    assert {:error, {:tool_not_local, "t"}} = ToolRegistry.execute_local_tool(session, "t", %{})

    assert {:error, {:remote_tool_unreachable, "t", "w1"}} =
             ToolRegistry.execute_tool(session, "t", %{})

    assert {:error, {:duplicate_tool, "t"}} =
             ToolRegistry.register_python_tool(session, "t", "w2")

    assert {:error, :invalid_worker_id} = ToolRegistry.register_python_tool(session, "u", "")
    assert {:error, :invalid_worker_id} = ToolRegistry.register_python_tool(session, "u", nil)
  end

  test "several tools, all or none", %{session: session} do
    tool = &%{name: &1, worker_id: "w", parameters: [%{name: "a"}], description: "D"}
    assert {:ok, ["a", "b"]} = ToolRegistry.register_tools(session, [tool.("a"), tool.("b")])

    assert {:ok, %{description: "D", parameters: [%{name: "a"}]}} =
             ToolRegistry.get_tool(session, "a")

    register = &ToolRegistry.register_tools(session, &1)
    assert {:error, {:duplicate_tool, "b"}} = register.([tool.("c"), tool.("b")])
    assert {:error, {:duplicate_tool, "c"}} = register.([tool.("c"), tool.("c")])
    assert {:error, {:invalid_tool_name, _}} = register.([tool.("c"), tool.("-")])

    many = %{tool.("c") | parameters: List.duplicate(%{name: "p"}, 10_000)}
    assert {:error, {:invalid_parameters, :too_many}} = register.([many])
    assert names(ToolRegistry.list_tools(session)) |> Enum.filter(&(&1 in ~w(a b c))) == ~w(a b)

    for none <- [5, nil, "c", [1]],
        do: assert({:error, {:invalid_tool_spec, ^none}} = register.([tool.("c"), none]))

    assert {:error, {:invalid_tool_spec, :c}} = register.(:c)
    assert {:ok, []} = register.([])
    assert ToolRegistry.count_tools(session) == 2
  end

  test "sessions do not see each other's tools", %{session: session} do
    other = session <> "-other"

    :ok =
      ToolRegistry.register_elixir_tool(session, "t", fn _ -> 1 end, %{exposed_to_python: true})

    :ok = ToolRegistry.register_elixir_tool(session, "hidden", fn _ -> 1 end)
    assert {:error, {:tool_not_found, ^other, "t"}} = ToolRegistry.get_tool(other, "t")
    refute "t" in names(ToolRegistry.list_tools(other))
    exposed = names(ToolRegistry.list_exposed_elixir_tools(session))
    assert "t" in exposed
    refute "hidden" in exposed
    assert :ok = ToolRegistry.cleanup_session(session)
    assert :ok = ToolRegistry.cleanup_session(session)
    assert {:error, _} = ToolRegistry.get_tool(session, "t")
  end

  test "a tool for all sessions", %{session: session} do
    name = "everywhere.#{System.unique_integer([:positive])}"
    on_exit(fn -> ToolRegistry.cleanup_session(:all_sessions) end)
    assert :ok = ToolRegistry.register_elixir_tool(name, fn _ -> :all end, %{description: "E"})

    assert {:error, {:duplicate_tool, ^name}} =
             ToolRegistry.register_elixir_tool(name, fn _ -> :all end, %{})

    assert {:ok, :all} = ToolRegistry.execute_local_tool(session, name, %{})
    assert {:ok, %{exposed_to_python: true}} = ToolRegistry.get_tool(session, name)
    assert ToolRegistry.everywhere?(session, name)
    assert name in names(ToolRegistry.list_exposed_elixir_tools(session))
    :ok = ToolRegistry.register_elixir_tool(session, name, fn _ -> :own end)
    assert {:ok, :own} = ToolRegistry.execute_local_tool(session, name, %{})
    refute ToolRegistry.everywhere?(session, name)
    assert Enum.count(ToolRegistry.list_tools(session), &(&1.name == name)) == 1
    refute name in names(ToolRegistry.list_exposed_elixir_tools(session))

    hidden = name <> ".hidden"
    :ok = ToolRegistry.register_elixir_tool(hidden, fn _ -> 1 end, exposed_to_python: false)
    assert {:ok, %{exposed_to_python: false}} = ToolRegistry.get_tool(session, hidden)
  end

  test "a hundred register one name at the same time: one does", %{session: session} do
    results =
      1..100
      |> Enum.map(fn i ->
        Task.async(fn -> ToolRegistry.register_elixir_tool(session, "t", fn _ -> i end) end)
      end)
      |> Task.await_many(60_000)

    assert Enum.count(results, &(&1 == :ok)) == 1
    assert Enum.count(results, &(&1 == {:error, {:duplicate_tool, "t"}})) == 99
  end
end
