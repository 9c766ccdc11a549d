defmodule Snakepit.AsyncTest do
  # Calls whose answer is taken later, and lazy streams.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Error

  setup_all do
    start_pools(pool_size: 2)
  end

  defp idle, do: eventually(fn -> match?(%{available: 2, busy: 0}, Snakepit.get_stats()) end)

  test "calls run side by side, and each gives its own answer" do
    paths = for _ <- 1..2, do: signal_path()
    calls = for path <- paths, do: Snakepit.async("hold", %{path: path})
    # Both have begun before either may end.
    Enum.each(paths, &await_file(&1 <> ".started"))
    Enum.each(paths, &go/1)
    pids = for call <- calls, do: elem({:ok, _} = Snakepit.await(call), 1)
    assert length(Enum.uniq(pids)) == 2
    refute_received _
  end

  test "answers may be awaited in any order" do
    calls = for n <- 1..20, do: {n, Snakepit.async("echo", %{value: n})}
    for {n, call} <- Enum.shuffle(calls), do: assert(Snakepit.await(call) == {:ok, n})
  end

  test "what is wrong with a call is told when it is awaited" do
    assert {:error, %Error{category: :pool}} =
             "echo" |> Snakepit.async(%{}, pool: :none) |> Snakepit.await()

    assert {:error, %Error{}} = "echo" |> Snakepit.async(%{value: self()}) |> Snakepit.await()
    assert {:error, %Error{category: :validation}} = Snakepit.await(Snakepit.async("", %{}))

    assert {:error, %{__exception__: true}} = Snakepit.await(Snakepit.async("no_such_tool"))
  end

  test "awaiting has a limit of its own, which cancels" do
    path = signal_path()
    call = Snakepit.async("hold", %{path: path})
    await_file(path <> ".started")
    assert {:error, %Error{category: :timeout}} = Snakepit.await(call, 1)
    # The tool never got its sign, and is over all the same.
    assert idle()
    refute_received _
  end

  test "a cancelled call leaves nothing" do
    path = signal_path()
    call = Snakepit.async("hold", %{path: path})
    await_file(path <> ".started")
    assert Snakepit.cancel(call) == :ok
    assert idle()

    done = Snakepit.async("echo", %{value: 1})
    assert idle()
    assert Snakepit.cancel(done) == :ok
    refute_received _
  end

  test "the death of its process cancels a call" do
    path = signal_path()
    {pid, ref} = spawn_monitor(fn -> Snakepit.await(Snakepit.async("hold", %{path: path})) end)
    await_file(path <> ".started")
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, :process, ^pid, :killed}
    assert idle()
  end

  test "a call belongs to the process that made it" do
    call = Snakepit.async("echo", %{value: 1})
    task = fn fun -> Task.await(Task.async(fn -> catch_error(fun.(call)) end), 60_000) end
    assert %ArgumentError{} = task.(&Snakepit.await/1)
    assert %ArgumentError{} = task.(&Snakepit.cancel/1)
    assert Snakepit.await(call) == {:ok, 1}
  end

  test "a stream is read as far as it is wanted" do
    path = signal_path()
    taken = "endless" |> Snakepit.stream(%{path: path}) |> Enum.take(3)
    assert length(taken) == 3
    # Its generator was closed.
    await_file(path <> ".closed")
    assert idle()
    refute_received _
  end

  test "a stream read to its end gives all chunks" do
    numbers = for %{"n" => n} <- Snakepit.stream("numbers", %{count: 500}), do: n
    assert numbers == Enum.to_list(0..499)
    refute_received _
  end

  test "a stream is not started before it is read, and anew each time" do
    path = signal_path()
    stream = Snakepit.stream("endless", %{path: path})
    assert %{busy: 0} = Snakepit.get_stats()
    assert [%{"n" => first}] = Enum.take(stream, 1)
    assert [%{"n" => ^first}] = Enum.take(stream, 1)
  end

  test "what goes wrong in a stream is raised, after the chunks before it" do
    me = self()

    assert_raise Error.ValueError, "no 2", fn ->
      "numbers"
      |> Snakepit.stream(%{count: 5, fail_at: 2})
      |> Enum.each(&send(me, {:got, &1["n"]}))
    end

    assert_received {:got, 0}
    assert_received {:got, 1}
    refute_received _
    assert idle()
    assert_raise Error, fn -> Snakepit.stream("numbers", %{}, pool: :none) end
    assert_raise Error, fn -> Enum.to_list(Snakepit.stream("numbers", %{count: self()})) end
  end
end
