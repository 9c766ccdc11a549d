defmodule Snakepit.FaultTest do
  # Callers that are many, or that die at any step: nothing is left of them, and
  # the pool serves as before.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Native
  alias Snakepit.Pool.Targets

  @moduletag :capture_log
  @long 60_000

  setup do
    start_pools(pool_size: 1, pool_max_queue_size: 20_000, pool_queue_timeout: 600_000)
  end

  defp idle do
    eventually(fn -> match?(%{busy: 0, queued: 0, available: 1}, Snakepit.get_stats()) end)
  end

  defp open_files, do: length(File.ls!("/proc/self/fd"))

  defp memory do
    for {pid, _} <- os_processes(), do: assert(File.exists?("/proc/#{pid}"))
    :erlang.garbage_collect()
    :erlang.memory(:total)
  rescue
    # The allocators are off, which make test-nif-asan needs.
    ErlangError -> 0
  end

  # The first time makes what is kept for the next: the pool's places for calls.
  defp assert_nothing_left(fun) do
    many = if System.get_env("SNAKEPIT_TEST_TRANSPORT") == "grpc", do: 2_000, else: 10_000
    fun.(many)
    idle()
    files = open_files()
    before = memory()
    fun.(many)
    idle()
    eventually(fn -> open_files() <= files end)
    # Of each call a hundred bytes are less than anything that could be left.
    eventually(fn -> memory() - before < 1_000_000 end)
  end

  test "10,000 callers at a pool of one: each has its own answer" do
    assert_nothing_left(fn n ->
      1..n
      |> Enum.map(fn i ->
        spawn_monitor(fn ->
          {:ok, ^i} = Snakepit.execute("echo", %{value: i}, timeout: 600_000)
          {:messages, []} = Process.info(self(), :messages)
        end)
      end)
      |> Enum.each(fn {pid, monitor} ->
        assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, 600_000
      end)
    end)
  end

  @tag timeout: 600_000
  test "10,000 callers killed at whatever they are doing: nothing is left" do
    steps = [
      fn -> Snakepit.execute("echo", %{value: 1}, timeout: @long) end,
      fn -> Snakepit.execute_in_session("s", "pid", %{}, affinity: :strict_queue) end,
      fn -> Snakepit.execute_stream("numbers", %{count: 50}, fn _ -> :ok end) end,
      fn -> "echo" |> Snakepit.async(%{value: 2}) |> Snakepit.await() end,
      fn -> "numbers" |> Snakepit.stream(%{count: 20}) |> Enum.take(5) end
    ]

    assert_nothing_left(fn n ->
      1..n
      |> Enum.chunk_every(50)
      |> Enum.each(fn chunk ->
        killed =
          for i <- chunk do
            step = Enum.at(steps, rem(i, length(steps)))
            # Other numbers of turns than the schedulers' time slices.
            {spawn_monitor(step), rem(i * 7919, 400)}
          end

        for {{pid, monitor}, turns} <- killed do
          for _ <- 1..turns//1, do: :erlang.yield()
          Process.exit(pid, :kill)
          assert_receive {:DOWN, ^monitor, :process, ^pid, _}, @long
        end
      end)
    end)

    assert {:ok, _} = Snakepit.execute("pid", %{}, timeout: @long)
  end

  # More than a normal scheduler encodes.
  defp large, do: String.duplicate("x", 200_000)

  test "callers killed while their large arguments are on a dirty scheduler" do
    for i <- 1..300 do
      {pid, monitor} = spawn_monitor(fn -> Snakepit.execute("echo", %{value: large()}) end)
      for _ <- 1..rem(i * 7919, 400)//1, do: :erlang.yield()
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, _}, @long
    end

    idle()
    # All dirty schedulers still work.
    1..(2 * :erlang.system_info(:dirty_cpu_schedulers))
    |> Enum.map(fn _ -> Task.async(fn -> Snakepit.execute("echo", %{value: large()}) end) end)
    |> Task.await_many(@long)
    |> Enum.each(&assert(&1 == {:ok, large()}))
  end

  test "a caller killed while its tool runs, or while it waits: the tool is stopped" do
    for _ <- 1..20 do
      path = signal_path()

      running =
        spawn(fn -> Snakepit.execute_stream("endless", %{path: path}, fn _ -> :ok end) end)

      eventually(fn -> match?(%{busy: 1}, Snakepit.get_stats()) end)
      waiting = spawn(fn -> Snakepit.execute("pid", %{}) end)
      eventually(fn -> match?(%{queued: 1}, Snakepit.get_stats()) end)
      Process.exit(waiting, :kill)
      eventually(fn -> match?(%{queued: 0}, Snakepit.get_stats()) end)
      Process.exit(running, :kill)
      idle()
    end
  end

  test "all calls of a process end with it, and no others" do
    for n <- [0, 1, 5, 350] do
      path = signal_path()
      before = Snakepit.get_stats()

      caller =
        spawn(fn ->
          {:ok, _} = Snakepit.execute("pid", %{})
          for _ <- 1..n//1, do: Snakepit.async("pid", %{})
          Snakepit.execute_stream("endless", %{path: path}, fn _ -> :ok end)
        end)

      await_file(path <> ".started")
      other = Task.async(fn -> Snakepit.execute("echo", %{value: n}) end)
      done = before.answered + 1 + n
      eventually(fn -> match?(%{answered: ^done, queued: 1}, Snakepit.get_stats()) end)

      waiting =
        spawn(fn ->
          for _ <- 1..n//1, do: Snakepit.async("pid", %{})
          Process.sleep(:infinity)
        end)

      eventually(fn -> Snakepit.get_stats().queued == 1 + n end)
      Process.exit(waiting, :kill)
      eventually(fn -> Snakepit.get_stats().queued == 1 end)
      Process.exit(caller, :kill)
      assert {:ok, ^n} = Task.await(other, @long)
      idle()
      assert Snakepit.get_stats().cancelled == before.cancelled + n + 1
    end
  end

  # Over gRPC the end of a stream was seen only by asking for a message beyond
  # its last, for which nobody gave credit.
  test "a stream that is left when all its credit is used up frees its worker" do
    for count <- [15, 16, 17, 24] do
      halt = fn chunk -> if chunk["n"] == 0, do: :halt end
      assert :ok = Snakepit.execute_stream("numbers", %{count: count}, halt, timeout: @long)
      idle()
      path = signal_path()

      {pid, monitor} =
        spawn_monitor(fn ->
          Snakepit.execute_stream("numbers", %{count: count}, fn _ ->
            File.write!(path, "")
            Process.sleep(:infinity)
          end)
        end)

      await_file(path)
      # The worker has sent what it may.
      eventually(fn -> queue_length(pid) >= min(count, 16) - 1 end)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, @long
      idle()
    end
  end

  defp queue_length(pid), do: pid |> Process.info(:message_queue_len) |> elem(1)

  test "pools closed while workers enter them and calls are made" do
    {:ok, target} = Targets.find(:default)
    me = self()

    for _ <- 1..50 do
      owner =
        spawn(fn ->
          pool = Native.pool_new(:short, 10, 1000)
          send(me, {:pool, pool})
          Process.sleep(:infinity)
        end)

      assert_receive {:pool, pool}, @long
      channel = Native.channel_open("unix:/nonexistent/socket")

      adders =
        for _ <- 1..3 do
          spawn_monitor(fn ->
            try do
              for _ <- 1..10, do: Native.slot_add(pool, self(), "w", "s", 1, channel, [])
            rescue
              # The pool is closed.
              error in ErlangError -> :pool_closed = error.original
            end
          end)
        end

      Process.exit(owner, :kill)
      Native.pool_close(pool)

      for {pid, monitor} <- adders,
          do: assert_receive({:DOWN, ^monitor, :process, ^pid, :normal}, @long)
    end

    assert %{slots: 1} = Native.pool_stats(target.handle)
  end
end
