defmodule Snakepit.PythonSideTest do
  # What Python code sees and does. Runs once for each carrier: see `make test`.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.{SessionStore, ToolRegistry}
  alias Snakepit.Error

  @patience 60_000

  defp pools(names, extra) do
    env = test_env() ++ extra

    for name <- names do
      %{
        name: name,
        pool_size: 1,
        adapter_args: ["--adapter", adapter(name)],
        adapter_env: env,
        transport: defaults()[:transport]
      }
      |> in_profile()
    end
  end

  defp adapter(:functions), do: "bare_functions"
  defp adapter(name), do: "python_side.#{Macro.camelize(Atom.to_string(name))}"

  defp start(names, extra \\ []), do: start_pools(pools: pools(names, extra))

  defp session do
    id = "side-#{System.pid()}-#{System.unique_integer([:positive])}"

    on_exit(fn ->
      if Process.whereis(SessionStore), do: SessionStore.delete_session(id)
      if Process.whereis(ToolRegistry), do: ToolRegistry.cleanup_session(id)
    end)

    id
  end

  defp run(tool, args \\ %{}, opts \\ []) do
    Snakepit.execute(tool, args, Keyword.merge([pool: :tools, timeout: @patience], opts))
  end

  # ---- the session --------------------------------------------------------

  describe "variables of the session" do
    setup do
      start([:tools])
      id = session()
      {:ok, id: id, opts: [session_id: id]}
    end

    test "are seen by both sides", %{id: id, opts: opts} do
      register = %{name: "rate", type: "float", value: 0.7, constraints: %{max: 1.0}}
      assert {:ok, ["rate", "float", 0.7, %{"max" => 1.0}]} = run("register", register, opts)
      assert {:ok, %{type: :float, value: 0.7}} = SessionStore.get_variable(id, "rate")
      :ok = SessionStore.update_variable(id, "rate", 0.9)
      assert {:ok, 0.9} = run("read", %{name: "rate"}, opts)
      assert {:ok, "float"} = run("write", %{name: "rate", value: 1}, opts)
      assert {:ok, %{value: 1.0}} = SessionStore.get_variable(id, "rate")

      {:ok, _} =
        SessionStore.register_variable(id, :a, :choice, "x", constraints: %{choices: ~w(x y)})

      assert {:ok, nil} = run("update", %{name: "a", value: "y"}, opts)

      assert {:ok,
              %{
                "values" => %{"a" => "y", "rate" => 1.0},
                "types" => %{"a" => "choice", "rate" => "float"},
                "holds_a" => true,
                "holds_zzz" => false,
                "get" => "default"
              }} = run("listed", %{}, opts)

      assert {:ok, nil} = run("remove", %{name: "a"}, opts)
      assert {:error, :not_found} = SessionStore.get_variable(id, "a")
      assert {:ok, 5} = run("old_register", %{name: "n", type: "integer", value: 5}, opts)
    end

    test "hold any value exactly", %{opts: opts} do
      for value <- [nil, true, 2 ** 70, "zwölf", [1, [2]], %{"a" => %{"b" => nil}}, {1, "x"}] do
        assert {:ok, "any"} = run("write", %{name: "v", value: value}, opts)
        assert {:ok, ^value} = run("read", %{name: "v"}, opts)
      end
    end

    test "belong to one session, and end with it", %{id: id, opts: opts} do
      other = session()
      assert {:ok, "any"} = run("write", %{name: "a", value: 1}, opts)
      assert {:ok, "any"} = run("write", %{name: "a", value: 2}, session_id: other)
      assert {:ok, 1} = run("read", %{name: "a"}, opts)
      :ok = SessionStore.delete_session(id)
      assert {:error, %Error.KeyError{}} = run("read", %{name: "a"}, opts)
      assert {:ok, 2} = run("read", %{name: "a"}, session_id: other)
    end

    test "of a call without a session are the worker's" do
      assert {:ok, "any"} = run("write", %{name: "mine", value: 1})
      assert {:ok, 1} = run("read", %{name: "mine"})
    end

    test "refuse what does not fit", %{opts: opts} do
      register = fn type, value, constraints ->
        args = %{name: "v", type: type, value: value, constraints: constraints}
        run("register", args, opts)
      end

      for {type, value, constraints, said} <- [
            {"number", 1, %{}, "is not a type of variables"},
            {"integer", 1.5, %{}, "not an integer"},
            {"integer", 5, %{max: 4}, "max: 4"},
            {"integer", 5, %{most: 4}, "not a constraint"},
            {"integer", 5, %{max: "4"}, "max is a number"},
            {"choice", 5, %{choices: "45"}, "choices is a list"},
            {"choice", 5, %{choices: [1, 2]}, "choices: [1, 2]"},
            {"string", "abc", %{min_length: 4}, "min_length: 4"},
            {"string", "abc", [1], "constraints"}
          ] do
        assert {:error, %error{message: text}} = register.(type, value, constraints)
        assert error in [Error.ValueError, Error.TypeError]
        assert text =~ said or error == Error.TypeError
      end

      assert {:ok, _} = register.("integer", 1, %{min: 0})
      assert {:error, %Error.ValueError{message: text}} = register.("integer", 1, %{})
      assert text =~ "already"
      assert {:error, %Error.ValueError{}} = run("write", %{name: "v", value: -1}, opts)
      assert {:error, %Error.ValueError{}} = run("write", %{name: "v", value: "x"}, opts)
      assert {:ok, 1} = run("read", %{name: "v"}, opts)

      for tool <- ["read", "remove"],
          do: assert({:error, %Error.KeyError{}} = run(tool, %{name: "none"}, opts))

      assert {:error, %Error.KeyError{}} = run("update", %{name: "none", value: 1}, opts)

      for name <- ["", String.duplicate("n", 257), 5],
          do: assert({:error, %Error.ValueError{}} = run("write", %{name: name, value: 1}, opts))
    end
  end

  test "the context of a call" do
    start([:tools])
    id = session()

    assert {:ok, about} = run("about", %{}, session_id: id, correlation_id: "c-9")

    assert about == %{
             "session" => id,
             "own" => id,
             "correlation" => "c-9",
             "logger" => "snakepit.tool.about",
             "iterates" => false
           }
  end

  # ---- lifetimes ----------------------------------------------------------

  test "adapters live for a request, a session or the process" do
    start([:per_request, :per_session, :per_process])
    [one, two] = [session(), session()]

    count = fn pool, session ->
      {:ok, [_pid, calls]} = run("count", %{}, pool: pool, session_id: session)
      calls
    end

    for {pool, expected} <- [
          per_request: [1, 1, 1, 1],
          per_session: [1, 2, 1, 3],
          per_process: [1, 2, 3, 4]
        ] do
      assert Enum.map([one, one, two, one], &count.(pool, &1)) == expected
    end
  end

  # ---- adapters -----------------------------------------------------------

  test "adapters of every kind" do
    start([:words, :alone, :published, :functions, :tools])
    assert {:ok, %{"result" => "ABC"}} = run("uppercase", %{text: "abc"}, pool: :words)
    assert ["a", "b"] = items("letters", %{text: "ab"}, :words)
    assert {:ok, "hello Ann"} = run("greet", %{name: "Ann"}, pool: :alone)
    id = session()

    assert {:ok, ["any", %{"a" => 1}, ^id]} =
             run("any", %{a: 1}, pool: :published, session_id: id)

    assert {:ok, 4} = run("double", %{x: 2}, pool: :functions)
    assert {:ok, 6} = run("triple", %{x: 2}, pool: :functions)
    assert [0, 1, 2] = items("count", %{to: 3}, :functions)
    assert [0, 1, 2] = items("count_async", %{to: 3}, :functions)
    # What is no stream is not taken apart.
    assert ["abc"] = items("text", %{}, :tools)
    assert [["a", "b"]] = items("items", %{}, :tools)
    assert [%{"a" => 1}] = items("mapping", %{}, :tools)
  end

  # ---- tools that are registered ------------------------------------------

  test "a tool that is registered twice, and one that is there twice" do
    start([:registers])
    opts = [pool: :registers, session_id: session()]
    assert {:ok, ["both", "register"]} = run("register", %{}, opts)
    assert {:ok, ["both", "register"]} = run("register", %{}, opts)
    assert {:ok, "marked"} = run("both", %{}, opts)
    assert {:ok, "marked"} = ToolRegistry.execute_tool(opts[:session_id], "both", %{})
  end

  test "tools whose names cannot be registered can be called" do
    start([:bad_name, :long_name])

    for {pool, tool, value} <- [
          {:bad_name, "zählen", 1},
          {:long_name, String.duplicate("a", 65), 65}
        ] do
      opts = [pool: pool, session_id: session()]
      assert {:ok, []} = run("register", %{}, opts)
      assert ToolRegistry.list_tools(opts[:session_id]) == []
      assert {:ok, ^value} = run(tool, %{}, opts)
    end
  end

  test "a tool with 10,000 parameters" do
    start([:many_parameters])
    opts = [pool: :many_parameters, session_id: session()]
    all = Map.new(0..9_999, &{"p#{&1}", &1})
    assert {:ok, 9_999} = run("many", all, opts)

    for args <- [%{}, Map.delete(all, "p5"), Map.put(all, "more", 1)] do
      assert {:error, %Error.TypeError{message: text}} = run("many", args, opts)
      assert text =~ ~r/needs the argument|does not take/
      assert byte_size(text) < 2_000
    end

    # More than the registry takes: all or nothing.
    assert {:ok, []} = run("register", %{}, opts)
    assert ToolRegistry.list_tools(opts[:session_id]) == []
  end

  defp items(tool, args, pool) do
    test = self()

    :ok =
      Snakepit.execute_stream(tool, args, &send(test, {:chunk, &1}),
        pool: pool,
        timeout: @patience
      )

    collect([])
  end

  defp collect(items) do
    receive do
      {:chunk, %{"is_final" => true} = chunk} -> Enum.reverse(item(chunk) ++ items)
      {:chunk, chunk} -> collect(item(chunk) ++ items)
    after
      0 -> flunk("the stream has no last chunk: #{inspect(items)}")
    end
  end

  defp item(chunk) do
    case Map.delete(chunk, "is_final") do
      none when none == %{} -> []
      %{"data" => value} = only when map_size(only) == 1 -> [value]
      %{"raw_data_base64" => text} -> [Base.decode64!(text)]
      map -> [map]
    end
  end

  # ---- exceptions ---------------------------------------------------------

  @structs %{
    "ValueError" => Error.ValueError,
    "UnicodeError" => Error.ValueError,
    "KeyError" => Error.KeyError,
    "IndexError" => Error.IndexError,
    "TypeError" => Error.TypeError,
    "AttributeError" => Error.AttributeError,
    "ImportError" => Error.ImportError,
    "ModuleNotFoundError" => Error.ImportError,
    "RuntimeError" => Error.RuntimeError,
    "RecursionError" => Error.RuntimeError,
    "NotImplementedError" => Error.NotImplementedError,
    "FileNotFoundError" => Error.FileNotFoundError,
    "PermissionError" => Error.PermissionError,
    "ZeroDivisionError" => Error.ZeroDivisionError,
    "LookupError" => Error.PythonException,
    "OSError" => Error.PythonException,
    "ArithmeticError" => Error.PythonException,
    "SystemExit" => Error.PythonException,
    "KeyboardInterrupt" => Error.PythonException
  }

  test "exceptions and their structs" do
    start([:tools])

    for {name, module} <- @structs do
      assert {:error, %{__struct__: ^module} = error} = run("fail", %{kind: name})
      assert error.python_type == name
      assert error.module == "builtins"
      assert error.message =~ "a #{name}"
      assert error.context["tool_name"] == "fail"
      assert "BaseException" in error.bases
    end

    assert {:error, %Error.PythonException{python_type: "Unknown"} = error} = run("fail_unknown")
    assert error.module == "python_side"
    assert Exception.message(error) == "Unknown: not known"
  end

  test "all that an exception carries" do
    start([:tools])
    assert {:error, %Error.ValueError{python_type: "Insufficient"} = error} = run("fail_richly")
    assert error.message == "too little"
    assert error.bases == ["ValueError", "Exception", "BaseException"]
    assert error.notes == ["look here"]
    assert error.attributes == %{"needed" => 7}

    assert %{function: function, code: "raise outer from error", line: line} =
             List.last(error.frames)

    assert function =~ "_fail_richly" and line > 0
    assert Enum.all?(error.frames, &(&1.file =~ "python_side.py"))
    assert %Error.KeyError{python_type: "KeyError", cause: nil} = error.cause
    assert error.cause.attributes == %{"args" => ["inner"]}
    assert [%{code: "{}[\"inner\"]"}] = error.cause.frames
    assert error.python_traceback =~ "direct cause"

    assert {:error, %Error.FileNotFoundError{} = missing} = run("fail_as_os_error")
    assert %{"errno" => 2, "filename" => "/none/of/this"} = missing.attributes
  end

  test "and one that ends a stream" do
    start([:tools])
    opts = [pool: :tools, timeout: @patience]

    assert {:error, %Error.ValueError{python_type: "Insufficient"} = error} =
             Snakepit.execute_stream("fail_in_stream", %{}, fn _ -> :ok end, opts)

    assert error.notes == ["look here"]
    assert %Error.KeyError{} = error.cause
  end

  # ---- values that cannot be sent -----------------------------------------

  test "objects become markers, also in streams" do
    start([:tools])
    assert {:ok, %{"__ffi_unserializable__" => true} = marker} = run("lock")
    assert Snakepit.Serialization.unserializable?(marker)
    assert {:ok, %{type: type, repr: nil}} = Snakepit.Serialization.unserializable_info(marker)
    assert type =~ "lock"
    assert [%{"lock" => first}, second] = items("locks", %{}, :tools)
    assert Snakepit.Serialization.unserializable?(first)
    assert Snakepit.Serialization.unserializable?(second)
  end

  for {mode, repr} <- [
        {"none", nil},
        {"type", "<python_side.Plain>"},
        {"repr_truncated", "Plain(\"api_key='abcdefgh'\")"},
        {"repr_redacted_truncated", "Plain(\"api_key='[REDACTED]'\")"}
      ] do
    test "the detail of markers: #{mode}" do
      start([:tools],
        SNAKEPIT_UNSERIALIZABLE_DETAIL: unquote(mode),
        SNAKEPIT_UNSERIALIZABLE_REPR_MAXLEN: "100",
        SNAKEPIT_TOLIST_MAX_ELEMENTS: "10"
      )

      assert {:ok, %{"inner" => [marker]}} = run("secret")
      assert {:ok, info} = Snakepit.Serialization.unserializable_info(marker)
      assert info == %{type: "python_side.Plain", repr: unquote(repr)}
      assert {:ok, long} = run("long")

      if unquote(mode) =~ "truncated",
        do: assert(byte_size(long["__repr__"]) == 100),
        else: refute(is_binary(long["__repr__"]) and byte_size(long["__repr__"]) > 100)

      # The guard against lists that are too long.
      assert {:ok, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]} = run("array")
      assert {:ok, %{"__type__" => "python_side.Array"}} = run("large_array")
    end
  end
end
