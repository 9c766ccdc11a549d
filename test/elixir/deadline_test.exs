defmodule Snakepit.DeadlineTest do
  # Whatever a call is doing when its time is over: its caller is told, and its
  # place is given out again only when the tool has ended. How soon the caller is
  # told is a figure of the bench.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Native, OSProcess}
  alias Snakepit.Pool.Targets

  @moduletag :capture_log

  # Nothing takes so long unless it hangs.
  @long 60_000

  defp timed_out(result) do
    assert {:error, %Error{category: :timeout}} = result
    result
  end

  defp grace(ms) do
    {:ok, target} = Targets.find(:default)
    :ok = Native.pool_set_cancel_grace(target.handle, ms)
  end

  defp idle, do: eventually(fn -> match?(%{busy: 0, queued: 0}, Snakepit.get_stats()) end)

  describe "a tool that can be stopped" do
    setup do
      start_pools(pool_size: 1)
    end

    test "unary, running" do
      [worker] = os_processes()
      timed_out(Snakepit.execute("hold", %{path: signal_path()}, timeout: 50))
      idle()
      assert os_processes() == [worker]
    end

    test "unary, queued: by its time in the queue, and by its whole time" do
      path = signal_path()
      task = occupy(path)
      queued = Snakepit.execute("pid", %{}, timeout: @long, queue_timeout: 20)
      {:error, %Error{details: details}} = timed_out(queued)
      assert details.reason == :queue_timeout
      timed_out(Snakepit.execute("pid", %{}, timeout: 20))
      go(path)
      assert {:ok, _} = Task.await(task, @long)
    end

    test "a strict session's, queued and running" do
      path = signal_path()
      strict = [session_id: "strict", affinity: :strict_queue]
      {:ok, _} = Snakepit.execute("pid", %{}, strict)
      task = occupy(path, strict)
      timed_out(Snakepit.execute("pid", %{}, [timeout: 20] ++ strict))
      go(path)
      assert {:ok, _} = Task.await(task, @long)
      timed_out(Snakepit.execute("hold", %{path: signal_path()}, [timeout: 20] ++ strict))
      idle()
    end

    test "a stream, before its first chunk and between two" do
      none = fn _ -> flunk("it sends no chunk") end
      hold = Snakepit.execute_stream("hold", %{path: signal_path()}, none, timeout: 50)
      timed_out(hold)
      idle()
      path = signal_path()
      endless = &Snakepit.execute_stream("endless", %{path: path}, fn _ -> :ok end, timeout: &1)
      timed_out(timed_out_running(path <> ".started", 100, endless))
      await_file(path <> ".closed")
      idle()
    end

    test "async calls, running and queued" do
      running = Snakepit.async("hold", %{path: signal_path()}, timeout: 50)
      queued = Snakepit.async("hold", %{path: signal_path()}, timeout: 40)
      timed_out(Snakepit.await(running))
      timed_out(Snakepit.await(queued))
      idle()
      refute_received _
    end

    test "a lazy stream's" do
      path = signal_path()

      error =
        assert_raise Error, fn ->
          "endless" |> Snakepit.stream(%{path: path}, timeout: 100) |> Stream.run()
        end

      assert error.category == :timeout
      idle()
    end
  end

  describe "a tool that does not stop" do
    setup do
      start_pools(pool_size: 1)
    end

    for {tool, kind} <- [stubborn: "ignores it", seize: "is in C and keeps the interpreter"] do
      test "which #{kind}: the caller is told, the worker replaced after the grace time" do
        path = signal_path()
        [{first, time}] = os_processes()
        grace(50)
        call = &Snakepit.execute(unquote(to_string(tool)), %{path: path}, timeout: &1)
        timed_out(timed_out_running(path <> ".started", 50, call))
        assert {:ok, second} = Snakepit.execute("pid", %{}, timeout: @long)
        assert second != first
        refute OSProcess.alive?(first, time)
      end

      test "which #{kind}, cancelled: the worker is replaced after the grace time" do
        path = signal_path()
        [{first, _}] = os_processes()
        grace(50)
        call = Snakepit.async(unquote(to_string(tool)), %{path: path}, timeout: @long)
        await_file(path <> ".started")
        :ok = Snakepit.cancel(call)
        assert {:ok, second} = Snakepit.execute("pid", %{}, timeout: @long)
        assert second != first
      end
    end

    test "its place is not given out before it has ended" do
      path = signal_path()
      [{first, _}] = os_processes()
      grace(@long)
      call = &Snakepit.execute("stubborn", %{path: path}, timeout: &1)
      timed_out(timed_out_running(path <> ".started", 200, call))
      assert %{busy: 1, available: 0} = Snakepit.get_stats()
      timed_out(Snakepit.execute("pid", %{}, timeout: 20))
      go(path)
      assert Snakepit.execute("pid", %{}, timeout: @long) == {:ok, first}
    end
  end

  test "a call that does not stop is given up also while others, cancelled too, do" do
    start_pools(
      pools: [
        Map.merge(Map.new(Keyword.take(defaults(), [:adapter_env, :transport])), %{
          name: :default,
          worker_profile: :thread,
          cancel_grace_ms: 300,
          pool_size: 1,
          threads_per_worker: 2,
          adapter_args: ["--adapter", "snakepit_test_tools.ThreadedTestTools"]
        })
      ]
    )

    [first] = os_processes()
    path = signal_path()
    call = &Snakepit.execute("stubborn", %{path: path}, timeout: &1)
    timed_out(timed_out_running(path <> ".started", 100, call))

    # One after the other is cancelled and ends, more often than the grace time.
    eventually(fn ->
      _ = Snakepit.execute("hold", %{path: signal_path()}, timeout: 20)
      first not in os_processes()
    end)

    eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{})) end)
  end
end
