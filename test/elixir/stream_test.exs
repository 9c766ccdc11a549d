defmodule Snakepit.StreamTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Error

  setup_all do
    start_pools(pool_size: 1)
  end

  setup do
    # Each test has the worker to itself.
    on_exit(fn -> eventually(fn -> match?(%{available: 1}, Snakepit.get_stats()) end) end)
  end

  defp collect(test), do: fn chunk -> send(test, {:got, chunk}) end

  defp received do
    receive do
      {:got, chunk} -> [chunk | received()]
    after
      0 -> []
    end
  end

  test "chunks come in order, in the process of the caller" do
    me = self()

    assert :ok =
             Snakepit.execute_stream("numbers", %{count: 100}, fn chunk ->
               assert self() == me
               send(me, {:got, chunk})
             end)

    chunks = received()
    assert for(%{"n" => n} <- chunks, do: n) == Enum.to_list(0..99)
    assert Enum.all?(chunks, &is_boolean(&1["is_final"]))
    assert List.last(chunks)["is_final"]
    refute_received _
  end

  test "arguments and options may be left out" do
    assert {:error, _} = Snakepit.execute_stream("numbers", collect(self()))
    assert :ok = Snakepit.execute_stream("numbers", %{count: 1}, collect(self()), timeout: 60_000)
    assert {:error, %Error.TypeError{}} = Snakepit.execute_stream("numbers", collect(self()), [])
  end

  test "an exception after some chunks is a struct" do
    assert {:error, %Error.ValueError{message: "no 2", python_traceback: traceback}} =
             Snakepit.execute_stream("numbers", %{count: 5, fail_at: 2}, collect(self()))

    assert traceback =~ "ValueError"
    assert for(%{"n" => n} <- received(), do: n) == [0, 1]
  end

  test ":halt ends the stream well, on both sides" do
    path = signal_path()

    assert :ok =
             Snakepit.execute_stream("endless", %{path: path}, fn %{"n" => n} ->
               if n == 3, do: :halt
             end)

    await_file(path <> ".closed")
    refute_received _
  end

  test "{:halt, reason} is an error with that reason" do
    path = signal_path()
    halt = fn _ -> {:halt, {:enough, 1}} end

    assert {:error, %Error{category: :pool, details: %{reason: {:enough, 1}}}} =
             Snakepit.execute_stream("endless", %{path: path}, halt)

    await_file(path <> ".closed")
    refute_received _
  end

  test "a callback that raises is an error, and the worker is told" do
    path = signal_path()

    assert {:error, %Error{category: :pool, details: %{reason: reason}}} =
             Snakepit.execute_stream("endless", %{path: path}, fn _ -> raise "mine" end)

    assert {:callback_exception, %RuntimeError{message: "mine"}, [_ | _]} = reason
    await_file(path <> ".closed")
    refute_received _
  end

  test "what a callback throws or exits with reaches the caller" do
    path = signal_path()

    assert catch_throw(Snakepit.execute_stream("endless", %{path: path}, fn _ -> throw(:out) end)) ==
             :out

    await_file(path <> ".closed")
    again = signal_path()

    assert catch_exit(Snakepit.execute_stream("endless", %{path: again}, fn _ -> exit(:out) end)) ==
             :out

    await_file(again <> ".closed")
    refute_received _
  end

  test "a killed consumer frees the worker" do
    path = signal_path()
    test = self()

    {consumer, monitor} =
      spawn_monitor(fn ->
        Snakepit.execute_stream("endless", %{path: path}, fn %{"n" => n} ->
          if n == 2, do: send(test, :two)
        end)
      end)

    assert_receive :two, 60_000
    Process.exit(consumer, :kill)
    assert_receive {:DOWN, ^monitor, :process, _, :killed}, 60_000
    await_file(path <> ".closed")
    eventually(fn -> match?(%{available: 1, busy: 0}, Snakepit.get_stats()) end)
  end

  test "a slow consumer slows the worker instead of filling the memory" do
    path = signal_path()
    test = self()

    task =
      Task.async(fn ->
        Snakepit.execute_stream("endless", %{path: path}, fn %{"n" => n} ->
          if n == 0 do
            send(test, {:first, self()})

            receive do
              :on -> :ok
            end
          end

          if n == 1_000, do: :halt
        end)
      end)

    assert_receive {:first, pid}, 60_000
    # Bounded by the credit: what was sent at most is what was allowed.
    assert elem(Process.info(pid, :message_queue_len), 1) <= 64
    send(pid, :on)
    assert Task.await(task, 60_000) == :ok
    await_file(path <> ".closed")
  end

  # The window is wide for small chunks only.
  for {size, least, most} <- [{0, 33, 64}, {100_000, 10, 16}] do
    test "between #{least} and #{most} chunks of #{size} bytes lie ready" do
      path = signal_path()
      test = self()

      task =
        Task.async(fn ->
          args = %{path: path, size: unquote(size)}

          Snakepit.execute_stream("endless", args, fn %{"n" => n} ->
            if n == 200 do
              send(test, {:waits, self()})

              receive do
                :on -> :halt
              end
            end
          end)
        end)

      assert_receive {:waits, pid}, 60_000
      waiting = fn -> elem(Process.info(pid, :message_queue_len), 1) end
      eventually(fn -> waiting.() >= unquote(least) end)
      # It grows no more once the worker has to wait, which nothing here can see;
      # whatever is seen is within the bound.
      assert waiting.() <= unquote(most)
      send(pid, :on)
      assert Task.await(task, 60_000) == :ok
      await_file(path <> ".closed")
    end
  end

  test "a stream that takes too long is a time-out" do
    path = signal_path()

    endless = &Snakepit.execute_stream("endless", %{path: path}, fn _ -> :ok end, timeout: &1)

    assert {:error, %Error{category: :timeout}} =
             timed_out_running(path <> ".started", 300, endless)

    await_file(path <> ".closed")
    refute_received _
  end

  test "a worker that dies in the middle is an error that says how" do
    path = signal_path()

    assert {:error, %Error{category: :worker, details: %{reason: :worker_exit, exit_status: 4}}} =
             Snakepit.execute_stream("end_in_stream", %{status: 4, path: path}, fn _ ->
               go(path)
             end)

    eventually(fn -> length(Snakepit.list_workers()) == 1 end)
  end

  test "a callback of the wrong kind is refused" do
    assert {:error, %Error{category: :validation}} =
             Snakepit.execute_stream("numbers", %{count: 1}, fn -> :ok end)
  end
end
