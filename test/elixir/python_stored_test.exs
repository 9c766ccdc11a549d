defmodule Snakepit.PythonStoredTest do
  # Snakepit.Python's old form: adapters with tools call, store and retrieve. Runs
  # once for each carrier: see `make test`.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Python, PyRef}

  setup do
    stores = %{
      name: :default,
      pool_size: 1,
      adapter_args: ["--adapter", "stores.Stores"],
      adapter_env: test_env(),
      transport: defaults()[:transport]
    }

    any = Map.merge(stores, %{name: :any, python_calls: true})
    tools = %{adapter_args: ["--adapter", "snakepit_test_tools.TestTools"]}
    start_pools(pools: [stores, any, Map.merge(stores, Map.put(tools, :name, :none))])
  end

  test "calls by name, what is stored, and what is kept" do
    assert Python.call("math.sqrt", [16]) == {:ok, 4.0}
    assert Python.call("json.loads", %{s: "[1]"}) == {:ok, [1]}
    args = %{hours: 2, minutes: 5}

    assert Python.call("datetime.timedelta", args, %{}, store_as: "wait") ==
             {:ok, %{"stored" => "wait"}}

    assert Python.call("stored.wait.total_seconds") == {:ok, 7500.0}
    assert Python.call("stored.wait.__eq__", ["x"]) |> elem(0) == :ok
    assert Python.store("a", %{b: [1, nil]}) == :ok
    assert Python.retrieve("a") == {:ok, %{"b" => [1, nil]}}
    assert Python.call("stored.a.get", ["b"]) == {:ok, [1, nil]}
    assert {:error, %Error.KeyError{}} = Python.retrieve("none")
    assert {:error, %Error.KeyError{}} = Python.call("stored.none.x")
    assert {:error, %Error.AttributeError{}} = Python.call("math.none")
  end

  test "where any Python is allowed, only what is stored is the adapter's" do
    opts = [pool: :any]
    assert {:ok, %PyRef{}} = Python.call("collections.Counter", ["aab"], %{}, opts)
    :ok = Python.store("a", [3, 1], opts)
    assert Python.call("stored.a.count", [3], %{}, opts) == {:ok, 1}
    # Each pool has its own.
    assert {:error, %Error.KeyError{}} = Python.retrieve("a")
    # Objects that stayed are arguments here, too.
    {:ok, ref} = Python.call("collections.Counter", ["aab"], %{}, opts)
    :ok = Python.store("counter", ref, opts)
    assert Python.call("stored.counter.most_common", [1], %{}, opts) == {:ok, [{"a", 2}]}
  end

  test "what cannot be is told" do
    for result <- [
          Python.store(:a, 1),
          Python.store("", 1),
          Python.retrieve(nil),
          Python.call("math.sqrt", [1], %{}, store_as: 5),
          Python.call("math.sqrt", 5)
        ],
        do: assert({:error, %Error{category: :validation}} = result)

    assert {:error, %Error{details: %{reason: :python_calls_not_allowed}}} =
             Python.call("math.sqrt", [16], %{}, pool: :none)

    assert {:error, %Error.AttributeError{python_type: "UnknownToolError"}} =
             Python.call("stored.a.b", [], %{}, pool: :none)

    assert {:error, %Error{details: %{reason: :pool_not_found}}} =
             Python.call("math.sqrt", [16], %{}, pool: :nowhere)
  end
end
