defmodule Snakepit.PythonTest do
  # Any Python without an adapter. Runs once for each carrier: see `make test`.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.SessionStore
  alias Snakepit.{Error, Python, PyRef}
  alias Snakepit.Python.{Refs, Wire}

  @patience 60_000

  setup do
    start_pools(pools: Enum.map(pools(), &with_env/1))
    session = "python-#{System.pid()}-#{System.unique_integer([:positive])}"
    on_exit(fn -> if Process.whereis(SessionStore), do: SessionStore.delete_session(session) end)
    %{session: session}
  end

  defp pools do
    [
      %{name: :default, pool_size: 1, python_calls: true},
      %{name: :closed, pool_size: 1},
      %{name: :two, pool_size: 2, python_calls: true},
      %{
        name: :threads,
        pool_size: 1,
        python_calls: true,
        worker_profile: :thread,
        threads_per_worker: 4,
        adapter_args: ["--adapter", "elixir_calls.ThreadedElixirCalls"]
      }
    ]
  end

  defp with_env(pool) do
    tools = %{adapter_args: ["--adapter", "snakepit_test_tools.TestTools"]}

    tools
    |> Map.merge(pool)
    |> Map.merge(Map.new(Keyword.take(defaults(), [:prefork, :transport, :adapter_env])))
  end

  defp counter(text, opts \\ []), do: Python.call("collections.Counter", [text], %{}, opts)

  # Objects of a class of which the worker counts how many there are.
  @counted """
  class Counted:
      alive = 0
      def __init__(self, n=0):
          Counted.alive += 1
          self.n = n
      def __del__(self):
          Counted.alive -= 1
  """

  defp alive(module, opts \\ []), do: ok(Python.eval("Counted.alive", %{}, [in: module] ++ opts))
  defp ok({:ok, value}), do: value

  # ---- calls --------------------------------------------------------------

  test "functions by name, with positional and keyword arguments" do
    assert Python.call("math.sqrt", [16]) == {:ok, 4.0}
    assert Python.call("len", [[1, 2, 3]]) == {:ok, 3}
    assert Python.call("os.path.join", ["a", "b"]) == {:ok, "a/b"}
    assert Python.call("int", ["ff"], base: 16) == {:ok, 255}
    assert Python.call("int", ["ff"], %{"base" => 16}) == {:ok, 255}
    assert Python.call("dict", a: 1) == {:ok, %{"a" => 1}}
    assert Python.call("dict", %{a: 1}, b: 2) == {:ok, %{"a" => 1, "b" => 2}}
    assert Python.call("dict") == {:ok, %{}}
    # A module that its package does not import.
    assert {:ok, %PyRef{}} = Python.call("xml.etree.ElementTree.fromstring", ["<a/>"])
    assert Python.call("asyncio.sleep", [0, "awaited"]) == {:ok, "awaited"}
  end

  test "data is copied, anything else stays" do
    for value <- [nil, true, 1, 2 ** 80, 1.5, "ä", [1, [2]], %{"a" => %{"b" => nil}}, {1, 2}] do
      assert Python.call("copy.copy", [value]) == {:ok, value}
    end

    assert {:ok, %PyRef{type: "collections.Counter"} = ref} = counter("aab")
    assert {:ok, %PyRef{type: "list"}} = Python.call("list", [[ref]])
    assert {:ok, %PyRef{type: "list"} = list} = Python.call("list", [[1, 2]], %{}, return: :ref)
    assert Python.value(list) == {:ok, [1, 2]}
    assert Python.value(ref) == {:ok, %{"a" => 2, "b" => 1}}
    assert Python.call("range", [3], %{}, return: :value) == {:ok, [0, 1, 2]}
  end

  test "expressions and statements" do
    assert Python.eval("x + y", %{x: 1, y: 2}) == {:ok, 3}
    assert Python.eval("[x * n for x in range(3)]", n: 10) == {:ok, [0, 10, 20]}
    assert {:ok, module} = Python.exec("def double(x): return factor * x", %{factor: 2})
    assert Python.call({module, "double"}, [21]) == {:ok, 42}
    assert Python.eval("double(4)", %{}, in: module) == {:ok, 8}
    # Nothing is left of it elsewhere.
    assert {:error, %{python_type: "NameError"}} = Python.eval("double(4)")
  end

  test "attributes, methods, items, length and text" do
    {:ok, ref} = Python.call("types.SimpleNamespace", a: 1)
    assert Python.get(ref, :a) == {:ok, 1}
    assert Python.put(ref, "b", [1, 2]) == :ok
    assert Python.get(ref, "b") == {:ok, [1, 2]}
    assert Python.repr(ref) == {:ok, "namespace(a=1, b=[1, 2])"}
    assert {:error, %Error.AttributeError{}} = Python.get(ref, "c")

    {:ok, counter} = counter("mississippi")
    assert Python.len(counter) == {:ok, 4}
    assert Python.item(counter, "s") == {:ok, 4}
    assert Python.put_item(counter, "x", 9) == :ok
    assert Python.delete_item(counter, "m") == :ok
    assert Python.call({counter, "most_common"}, [1]) == {:ok, [{"x", 9}]}
    assert Python.str(counter) == {:ok, "Counter({'x': 9, 'i': 4, 's': 4, 'p': 2})"}

    assert {:error, %Error.KeyError{}} =
             Python.item(ok(Python.call("dict", [], %{}, return: :ref)), "no")
  end

  test "refs are arguments, wherever they stand" do
    {:ok, a} = counter("aab")
    {:ok, b} = counter("abc")
    assert {:ok, sum} = Python.call("operator.add", [a, b])
    assert Python.item(sum, "a") == {:ok, 3}
    assert Python.call("isinstance", [a, ok(Python.eval("dict"))]) == {:ok, true}
    assert Python.eval("xs[0] is pair[1]['k']", %{xs: [a], pair: {1, %{"k" => a}}}) == {:ok, true}

    assert Python.call("dict", [], %{"c" => sum}, return: :value) ==
             {:ok, %{"c" => %{"a" => 3, "b" => 2, "c" => 1}}}

    # A function that was a result is called like others.
    {:ok, partial} = Python.call("functools.partial", [ok(Python.eval("pow")), 2])
    assert Python.call(partial, [10]) == {:ok, 1024}
  end

  test "iteration is lazy" do
    {:ok, module} =
      Python.exec("""
      made = []
      closed = []
      def numbers():
          try:
              for n in range(100):
                  made.append(n)
                  yield n
          finally:
              closed.append(True)
      def breaks():
          yield 1
          raise ValueError("after one")
      """)

    {:ok, numbers} = Python.call({module, "numbers"})
    assert numbers.type == "generator"
    assert numbers |> Python.stream() |> Enum.take(3) == [0, 1, 2]
    assert Python.get(module, "made") == {:ok, [0, 1, 2]}
    assert numbers |> Python.stream(batch: 10) |> Enum.take(1) == [3]
    assert numbers |> Python.stream(batch: 100) |> Enum.count() == 100 - 13
    assert Python.get(module, "closed") == {:ok, [true]}

    {:ok, objects} = Python.eval("[object(), 1]")
    assert [%PyRef{type: "object"}, 1] = objects |> Python.stream(batch: 5) |> Enum.to_list()

    for batch <- [1, 5] do
      {:ok, breaks} = Python.call({module, "breaks"})
      test = self()
      read = breaks |> Python.stream(batch: batch) |> Stream.each(&send(test, {:item, &1}))
      assert_raise Error.ValueError, "after one", fn -> Stream.run(read) end
      assert_received {:item, 1}
    end

    assert_raise Error.TypeError, fn ->
      ok(Python.eval("object()")) |> Python.stream() |> Enum.to_list()
    end
  end

  test "errors keep class and traceback" do
    assert {:error, %Error.ValueError{message: "invalid literal for int()" <> _}} =
             Python.call("int", ["x"])

    {:ok, module} = Python.exec("def f(): return g()\ndef g(): raise LookupError('here')")
    assert {:error, error} = Python.call({module, "f"})
    assert Exception.message(error) =~ "here"
    assert error.python_traceback =~ "line 2, in g"
    refute error.python_traceback =~ "remote.py"
    assert {:error, error} = Python.eval("1 +")
    assert Exception.message(error) =~ "syntax"

    assert {:error, %Error.ImportError{python_type: "ModuleNotFoundError"}} =
             Python.call("no_such_module.f")

    assert {:error, %Error.AttributeError{}} = Python.call("math.no_such_function")
    assert {:error, %Error.AttributeError{}} = Python.call("no_builtin")
  end

  # ---- how long objects live ----------------------------------------------

  test "an object goes with the last term for it" do
    {:ok, module} = Python.exec(@counted)
    holder = hold(fn -> for n <- 1..3, do: ok(Python.call({module, "Counted"}, [n])) end)
    {:ok, mine} = Python.call({module, "Counted"})
    assert alive(module) == 4
    # A copy of the term is as good as the first.
    send(holder, {:give, self()})
    assert_receive {:given, [first | _]}, @patience
    stop(holder)
    collected(fn -> alive(module) == 2 end)
    assert Python.get(first, "n") == {:ok, 1}
    assert Python.get(mine, "n") == {:ok, 0}
  end

  test "an object whose ref nobody got goes as well" do
    {:ok, module} =
      Python.exec(
        @counted <>
          """
          import os, time
          def late(path):
              made = Counted()
              open(path + ".started", "w").close()
              while not os.path.exists(path + ".go"):
                  time.sleep(0.01)
              return made
          """
      )

    path = signal_path()
    {pid, monitor} = spawn_monitor(fn -> Python.call({module, "late"}, [path]) end)
    await_file(path <> ".started")
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, _, _, :killed}, @patience
    go(path)
    eventually(fn -> alive(module) == 0 end)
  end

  test "where it is not known which worker has an object, all are told" do
    {:ok, module} = Python.exec(@counted)
    {:ok, ref} = Python.call({module, "Counted"})
    stop_guard = hold(fn -> Refs.guard(%{pool: :default, worker_id: nil}, [ref.token]) end)
    send(stop_guard, {:give, self()})
    assert_receive {:given, _guard}, @patience
    assert alive(module) == 1
    stop(stop_guard)
    collected(fn -> alive(module) == 0 end)
    assert {:error, %Error{details: %{reason: :ref_released}}} = Python.str(ref)
  end

  test "an object that was released is gone, also for those that have a term" do
    {:ok, module} = Python.exec(@counted)
    {:ok, ref} = Python.call({module, "Counted"})
    assert Python.release(ref) == :ok
    assert alive(module) == 0
    assert {:error, %Error{category: :validation, details: details} = error} = Python.str(ref)
    assert details.reason == :ref_released
    assert Exception.message(error) =~ "released"
    assert Python.release(ref) == :ok
  end

  test "a session's objects and names end with it", %{session: session} do
    opts = [session_id: session, pool: :two]
    assert {:ok, module} = Python.exec(@counted <> "kept = Counted()", %{}, opts)
    assert module.session_id == session
    assert Python.eval("kept.n + m", %{m: 1}, opts) == {:ok, 1}
    assert {:ok, ref} = Python.eval("kept", %{}, opts)
    assert ref.worker_id == module.worker_id
    # Not of the session.
    {:ok, other} = Python.eval("Counted", %{}, in: module)
    assert {:error, %{python_type: "NameError"}} = Python.eval("kept", %{}, pool: :two)

    :ok = SessionStore.delete_session(session)

    eventually(fn ->
      match?({:error, %Error{details: %{reason: :ref_released}}}, Python.get(ref, "n"))
    end)

    assert {:error, %{python_type: "NameError"}} = Python.eval("kept", %{}, opts)
    _ = other
  end

  test "what a session gets after its end does not stay", %{session: session} do
    path = signal_path()

    code = """
    import os, time
    open(path + ".started", "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)
    """

    call = Task.async(fn -> Python.exec(code, %{path: path}, session_id: session) end)
    await_file(path <> ".started")
    :ok = SessionStore.delete_session(session)
    go(path)
    assert {:ok, ref} = Task.await(call, @patience)

    eventually(fn ->
      match?({:error, %Error{details: %{reason: :ref_released}}}, Python.str(ref))
    end)
  end

  test "with its worker's process an object is gone" do
    {:ok, ref} = counter("aab")
    os_pid = ok(Python.call("os.getpid"))
    kill(os_pid)

    eventually(fn ->
      assert {:error, %Error{details: %{reason: reason}} = error} = Python.len(ref)
      assert reason in [:worker_gone, :worker_exit]
      reason == :worker_gone and Exception.message(error) =~ "has ended"
    end)

    # The next process of that name is another one.
    eventually(fn -> match?({:ok, n} when n != os_pid, Python.call("os.getpid")) end)
    assert {:error, %Error{details: %{reason: :worker_gone}}} = Python.len(ref)
  end

  test "refs of two workers cannot be in one call" do
    [first, second] = refs_of_two_workers([])

    assert {:error, %Error{category: :validation} = error} =
             Python.call("operator.add", [first, second])

    assert Exception.message(error) =~ "two processes"
    assert Python.len(first) == {:ok, 1}
    assert Python.len(second) == {:ok, 1}
  end

  # A worker that is held makes the other one serve the next call.
  defp refs_of_two_workers(refs) do
    path = signal_path()
    {:ok, ref} = counter("a", pool: :two)

    case Enum.uniq_by([ref | refs], & &1.worker_id) do
      [_, _] = both ->
        both

      [one] ->
        held = occupy(path, pool: :two)
        other = counter("b", pool: :two)
        go(path)
        Task.await(held, @patience)
        refs_of_two_workers([ok(other), one])
    end
  end

  # ---- what is refused ----------------------------------------------------

  test "only a pool that allows it" do
    assert {:error, %Error{category: :validation} = error} =
             Python.call("len", [[]], %{}, pool: :closed)

    assert error.details.reason == :python_calls_not_allowed
    assert Exception.message(error) =~ "python_calls: true"
    # Its worker would not do it either.
    for command <- ["snakepit.python.exec", "snakepit.python.release"],
        pool <- [:closed, :default] do
      args = %{code: "1", vars: %{}, key: "", as: ["x"], return: "auto"}
      assert {:error, %Error.PermissionError{}} = Snakepit.execute(command, args, pool: pool)

      assert {:error, %Error.PermissionError{}} =
               Snakepit.execute_stream(command, args, & &1, pool: pool)
    end

    assert {:ok, %{reason: :pool_not_found}} =
             with({:error, e} <- Python.eval("1", %{}, pool: :nowhere), do: {:ok, e.details})
  end

  test "the key of another pool opens nothing" do
    eval = fn pool ->
      config = %{python_calls: true, pool_name: pool}
      %{"SNAKEPIT_PYTHON_KEY" => key} = Wire.environment(config)
      args = %{code: "1", vars: %{}, key: key, as: ["x"], return: "auto"}
      Snakepit.execute("snakepit.python.eval", args, pool: :default)
    end

    assert {:ok, %{"value" => 1}} = eval.(:default)
    assert {:error, %Error.PermissionError{}} = eval.(:two)
    assert Wire.environment(%{python_calls: false, pool_name: :default}) == %{}
  end

  test "a ref that was made up" do
    {:ok, ref} = counter("aab")

    assert {:error, %Error{details: %{reason: :ref_unknown}}} =
             Python.len(%{ref | token: "guess"})

    assert {:error, %Error{details: %{reason: :worker_gone}}} =
             Python.len(%{ref | process: "other"})

    assert {:error, %Error{details: %{reason: :worker_gone}}} =
             Python.len(%{ref | worker_id: "none"})

    refute inspect(ref) =~ ref.token
  end

  test "arguments that mean nothing are told" do
    {:ok, ref} = counter("a")

    for result <- [
          Python.call(:not_a_name),
          Python.call("len", 5),
          Python.call("len", [[]], [1]),
          Python.call("len", [[]], %{}, return: :copy),
          Python.call("len", [[]], %{}, session_id: 5),
          Python.eval(:code),
          Python.eval("1", [1]),
          Python.eval("1", %{}, in: "math")
        ] do
      assert {:error, %Error{category: :validation}} = result
    end

    assert {:error, %Error{}} = Python.call("len", [1 | 2])

    for name <- ["", ".", "math.", ".sqrt", "math..sqrt"] do
      assert {:error, %{__exception__: true}} = Python.call(name)
    end

    assert_raise ArgumentError, fn -> Python.stream(ref, batch: 0) end

    # As arguments they are known: python_arguments_test.exs.
    assert_raise ArgumentError, ~r/Snakepit.Python/, fn ->
      Snakepit.execute("sum_all", %{}, inputs: [ref])
    end
  end

  # ---- side by side -------------------------------------------------------

  test "several callers, in processes and in threads" do
    for pool <- [:two, :threads] do
      tasks =
        for n <- 1..8 do
          Task.async(fn ->
            {:ok, ref} =
              Python.call("list", [Enum.to_list(1..n)], %{},
                pool: pool,
                return: :ref,
                timeout: @patience
              )

            for _ <- 1..20, do: {:ok, ^n} = Python.len(ref, timeout: @patience)
            ref |> Python.stream(timeout: @patience) |> Enum.sum()
          end)
        end

      assert Enum.map(tasks, &Task.await(&1, @patience)) ==
               for(n <- 1..8, do: div(n * (n + 1), 2))
    end
  end

  # Of this process's terms, those that are dead may lie about for long.
  defp collected(condition) do
    eventually(fn ->
      :erlang.garbage_collect()
      condition.()
    end)
  end

  # A process that has the result until it is stopped.
  defp hold(fun) do
    test = self()

    pid =
      spawn_link(fn ->
        held = fun.()
        send(test, :holding)

        receive do
          {:give, to} -> send(to, {:given, held})
        end

        receive do
          :stop -> held
        end
      end)

    assert_receive :holding, @patience
    pid
  end

  defp stop(pid) do
    monitor = Process.monitor(pid)
    send(pid, :stop)
    assert_receive {:DOWN, ^monitor, _, _, :normal}, @patience
  end
end
