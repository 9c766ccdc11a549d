defmodule Snakepit.PythonArgumentsTest do
  # Objects that stayed in Python, as arguments of an adapter's tools; and what
  # iterates only in coroutines. Runs once for each carrier: see `make test`.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.SessionStore
  alias Snakepit.{Error, Python, PyRef}

  @patience 60_000

  setup do
    start_pools(pools: Enum.map(pools(), &with_env/1))
  end

  defp pools do
    [
      %{name: :default, pool_size: 1},
      %{name: :closed, pool_size: 1, python_calls: false},
      %{name: :two, pool_size: 2},
      %{name: :several, pool_size: 1, concurrency: 4},
      %{
        name: :threads,
        pool_size: 1,
        worker_profile: :thread,
        threads_per_worker: 4,
        adapter_args: ["--adapter", "ref_tools.ThreadedRefTools"]
      }
    ]
  end

  defp with_env(pool) do
    %{adapter_args: ["--adapter", "ref_tools.RefTools"], python_calls: true}
    |> Map.merge(pool)
    |> Map.merge(Map.new(Keyword.take(defaults(), [:prefork, :transport, :adapter_env])))
  end

  defp counter(text, opts \\ []), do: Python.call("collections.Counter", [text], %{}, opts)

  test "tools get the object, wherever in the arguments it stands" do
    {:ok, ref} = counter("aab")
    assert {:ok, ["Counter", _pid]} = Snakepit.execute("kind", %{"value" => ref})
    assert {:ok, ["Counter", _pid]} = Snakepit.execute("kind", value: ref)
    args = %{model: ref, more: [ref, ref], named: %{"deep" => [ref]}}
    assert {:ok, 8} = Snakepit.execute("total", args)
    assert {:ok, true} = Snakepit.execute("same", %{a: ref, b: ref})
    # With its neighbours as they would be without it.
    assert {:ok, %{"x" => %{"a" => 2, "b" => 1}, "y" => "2024-01-01"}} =
             Snakepit.execute("raw", %{x: ref, y: ~D[2024-01-01] |> to_string()})

    assert {:ok, "Counter"} = Snakepit.execute("kind_async", %{value: ref})
  end

  test "in every kind of call" do
    for pool <- [:default, :several, :threads] do
      opts = [pool: pool, timeout: @patience]
      {:ok, ref} = counter("aab", opts)
      test = self()
      tell = &send(test, {:chunk, pool, &1})
      assert :ok = Snakepit.execute_stream("keys", %{model: ref}, tell, opts)
      assert_received {:chunk, ^pool, %{"data" => "a"}}
      assert_received {:chunk, ^pool, %{"data" => "b"}}

      assert ["a", "b"] =
               for(
                 %{"data" => key} <- Enum.to_list(Snakepit.stream("keys", %{model: ref}, opts)),
                 do: key
               )

      call = Snakepit.async("kind_async", %{value: ref}, opts)
      assert {:ok, "Counter"} = Snakepit.await(call, @patience)
      calls = for _ <- 1..8, do: Task.async(Snakepit, :execute, ["kind", %{value: ref}, opts])
      assert [{:ok, ["Counter", pid]} | _] = answers = Task.await_many(calls, @patience)
      assert Enum.all?(answers, &(&1 == {:ok, ["Counter", pid]}))
    end
  end

  test "the call runs in the object's worker, which it waits for" do
    refs = for text <- ["a", "b", "c", "d"], do: elem(counter(text, pool: :two), 1)

    for ref <- refs, _ <- 1..3 do
      {:ok, %{process_pid: os_pid}} = Snakepit.GRPCWorker.get_info(ref.worker_id)
      assert {:ok, ["Counter", ^os_pid]} = Snakepit.execute("kind", %{value: ref}, pool: :two)
    end
  end

  test "a session's object" do
    id = "refs-#{System.pid()}-#{System.unique_integer([:positive])}"
    on_exit(fn -> if Process.whereis(SessionStore), do: SessionStore.delete_session(id) end)
    opts = [pool: :two, session_id: id]
    {:ok, ref} = counter("aab", opts)
    assert {:ok, ["Counter", _]} = Snakepit.execute("kind", %{value: ref}, opts)
    :ok = SessionStore.delete_session(id)

    eventually(fn ->
      match?(
        {:error, %Error{details: %{reason: :ref_released}}},
        Snakepit.execute("kind", %{value: ref}, pool: :two)
      )
    end)
  end

  test "what cannot be is told" do
    {:ok, ref} = counter("aab")
    {:ok, other} = counter("aab", pool: :several)
    kind = &Snakepit.execute("kind", %{value: &1}, &2)

    for {value, opts, reason} <- [
          {[ref, other], [], :refs_of_two_workers},
          {other, [], :ref_of_another_pool},
          {ref, [pool: :closed], :ref_of_another_pool},
          {%{ref | token: "guess"}, [], :ref_unknown},
          {%{ref | process: "other"}, [], :worker_gone},
          {%{ref | worker_id: "none"}, [], :worker_gone}
        ] do
      assert {:error, %Error{category: :validation, details: details} = error} =
               kind.(value, opts)

      assert details.reason == reason
      refute Exception.message(error) =~ ref.token
    end

    :ok = Python.release(ref)
    assert {:error, %Error{} = error} = kind.(ref, [])
    assert error.details.reason == :ref_released
    assert Exception.message(error) =~ "released"
    fun = fn _ -> :ok end

    assert {:error, %Error{details: %{reason: :ref_released}}} =
             Snakepit.execute_stream("keys", %{model: ref}, fun)

    call = Snakepit.async("kind", %{value: ref})
    assert {:error, %Error{details: %{reason: :ref_released}}} = Snakepit.await(call)
  end

  test "with its worker's process the object is gone" do
    {:ok, ref} = counter("aab")
    {:ok, ["Counter", os_pid]} = Snakepit.execute("kind", %{value: ref})
    kill(os_pid)

    eventually(fn ->
      assert {:error, %Error{details: details}} = Snakepit.execute("kind", %{value: ref})
      assert details.reason in [:worker_gone, :worker_exit]
      details.reason == :worker_gone
    end)

    eventually(fn -> match?({:ok, _}, counter("aab")) end)

    assert {:error, %Error{details: %{reason: :worker_gone}}} =
             Snakepit.execute("kind", %{value: ref})
  end

  test "maps that only look like objects stay what they are" do
    map = %{"__snakepit_ref__" => "x"}
    assert {:ok, %{"value" => ^map}} = Snakepit.execute("raw", %{value: map})
    assert {:ok, %{"value" => ^map}} = Snakepit.execute("raw", %{value: map}, pool: :closed)
  end

  test "an object lives as long as a call with it" do
    {:ok, module} =
      Python.exec("""
      class Counted:
          alive = 0
          def __init__(self): Counted.alive += 1
          def __del__(self): Counted.alive -= 1
      """)

    {:ok, "Counted"} =
      Task.async(fn ->
        {:ok, ref} = Python.call({module, "Counted"})
        Snakepit.execute("kind_async", %{value: ref})
      end)
      |> Task.await(@patience)

    eventually(fn -> Python.eval("Counted.alive", %{}, in: module) == {:ok, 0} end)
  end

  # ---- coroutines ---------------------------------------------------------

  @generators """
  import asyncio
  closed = []

  async def numbers(count):
      try:
          for n in range(count):
              await asyncio.sleep(0)
              yield n
      finally:
          await asyncio.sleep(0)
          closed.append(True)

  async def breaks():
      yield 1
      raise ValueError("after one")

  class Reader:
      def __init__(self): self.left = 3
      def __aiter__(self): return self
      async def __anext__(self):
          await asyncio.sleep(0)
          if self.left == 0:
              raise StopAsyncIteration
          self.left -= 1
          return {"left": self.left}
  """

  test "asynchronous iterators" do
    for pool <- [:default, :several, :threads] do
      opts = [pool: pool]
      {:ok, module} = Python.exec(@generators, %{}, opts)
      call = &Python.call({module, &1}, &2, %{}, opts)
      {:ok, %PyRef{type: "async_generator"} = numbers} = call.("numbers", [100])
      assert numbers |> Python.stream() |> Enum.take(3) == [0, 1, 2]
      assert numbers |> Python.stream(batch: 7) |> Enum.to_list() == Enum.to_list(3..99)
      assert Python.get(module, "closed", opts) == {:ok, [true]}

      # One that is let go of before its end is closed.
      {:ok, numbers} = call.("numbers", [100])
      assert numbers |> Python.stream() |> Enum.take(1) == [0]
      :ok = Python.release(numbers)
      eventually(fn -> Python.get(module, "closed", opts) == {:ok, [true, true]} end)

      {:ok, reader} = call.("Reader", [])
      assert [%{"left" => 2}, _, %{"left" => 0}] = Enum.to_list(Python.stream(reader))

      {:ok, breaks} = call.("breaks", [])

      assert_raise Error.ValueError, "after one", fn ->
        breaks |> Python.stream(batch: 5) |> Enum.to_list()
      end
    end
  end
end
