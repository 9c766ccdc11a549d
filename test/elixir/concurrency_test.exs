defmodule Snakepit.ConcurrencyTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.ToolRegistry
  alias Snakepit.Error
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.WorkerProfile

  @moduletag :capture_log

  @patience 60_000
  @several 4

  # One worker, which gets several calls at a time.
  defp start(profile, extra \\ []) do
    pool =
      Map.new(Keyword.take(defaults(), [:adapter_env, :transport]))
      |> Map.merge(%{name: :default, pool_size: 1})
      |> Map.merge(Map.new(settings(profile)))
      |> Map.merge(Map.new(extra))

    start_pools(pools: [pool], pooling_enabled: true, log_level: :none)
  end

  defp settings(:thread) do
    [
      worker_profile: :thread,
      threads_per_worker: @several,
      adapter_args: ["--adapter", "snakepit_concurrency_tools.Threads"]
    ]
  end

  defp settings(:coroutine) do
    [
      concurrency: @several,
      adapter_args: ["--adapter", "snakepit_concurrency_tools.Coroutines"]
    ]
  end

  defp async(command, args, opts \\ []) do
    Task.async(fn -> Snakepit.execute(command, args, [timeout: @patience] ++ opts) end)
  end

  defp await(tasks), do: Task.await_many(tasks, @patience)

  defp call(command, args \\ %{}), do: Snakepit.execute(command, args, timeout: @patience)

  for profile <- [:thread, :coroutine] do
    describe "as #{profile}s:" do
      @describetag profile: profile

      test "calls run at the same time", %{profile: profile} do
        start(profile)
        args = %{name: "all", parties: @several}
        results = await(for _ <- 1..@several, do: async("meet", args))
        names = for {:ok, name} <- results, do: name
        assert length(names) == @several
        # Each in its own thread, or all in the loop's.
        assert length(Enum.uniq(names)) == if(profile == :thread, do: @several, else: 1)
      end

      test "no more of them than the capacity", %{profile: profile} do
        start(profile)
        # More than one worker takes at once; the later ones pass at sight.
        args = %{name: "few", parties: @several}
        results = await(for _ <- 1..(5 * @several), do: async("meet", args))
        assert Enum.all?(results, &match?({:ok, _}, &1))
        assert {:ok, @several} = call("most")
      end

      test "an exception is that of one call", %{profile: profile} do
        start(profile)
        args = %{name: "all", parties: @several}
        failing = async("fail", args)
        others = for _ <- 2..@several, do: async("meet", args)

        assert {:error, %Error.ValueError{message: "one of them"}} =
                 Task.await(failing, @patience)

        assert Enum.all?(await(others), &match?({:ok, _}, &1))
      end

      test "one is cancelled, the others go on", %{profile: profile} do
        start(profile)
        {:ok, pid} = call("pid")
        path = signal_path()
        handle = Snakepit.async("last", %{name: "all", path: path})
        others = for _ <- 2..@several, do: async("meet", %{name: "all", parties: @several})
        assert Enum.all?(await(others), &match?({:ok, _}, &1))
        assert :ok = Snakepit.cancel(handle)
        eventually(fn -> File.exists?(path <> ".cancelled") end)
        assert {:ok, ^pid} = call("pid")
      end

      test "a deadline is one call's", %{profile: profile} do
        start(profile)
        {:ok, pid} = call("pid")
        path = signal_path()
        args = %{name: "other", path: path}
        short = &Snakepit.execute("last", args, timeout: &1)

        assert {:error, %Error{category: :timeout}} =
                 timed_out_running(path <> ".started", 300, short)

        eventually(fn -> File.exists?(path <> ".cancelled") end)
        args = %{name: "all", parties: @several}
        assert Enum.all?(await(for(_ <- 1..@several, do: async("meet", args))), &ok?/1)
        assert {:ok, ^pid} = call("pid")
      end

      test "a worker that dies answers each of its calls once", %{profile: profile} do
        start(profile)
        {:ok, pid} = call("pid")
        path = signal_path()
        test = self()

        callers =
          for n <- 1..@several do
            spawn_link(fn ->
              args = %{name: "all", path: path}
              send(test, {n, Snakepit.execute("last", args, timeout: @patience)})

              receive do
                another -> send(test, {:another, another})
              end
            end)
          end

        eventually(fn -> match?(%{active: 4}, load()) end)
        kill(pid)

        for n <- 1..@several do
          assert_receive {^n, {:error, %Error{category: :worker}}}, @patience
        end

        eventually(fn -> match?({:ok, other} when other != pid, call("pid")) end)
        refute_received {:another, _}
        Enum.each(callers, &Process.unlink/1)
        Enum.each(callers, &Process.exit(&1, :kill))
      end

      test "streams and calls run beside each other", %{profile: profile} do
        start(profile)
        test = self()
        args = %{name: "all", parties: @several, count: 40}

        streams =
          for n <- 1..2 do
            Task.async(fn ->
              Snakepit.execute_stream("meet_in_stream", args, &send(test, {n, &1}),
                timeout: @patience
              )
            end)
          end

        calls = for _ <- 3..@several, do: async("meet", %{name: "all", parties: @several})
        assert Enum.all?(await(calls), &ok?/1)
        assert await(streams) == [:ok, :ok]

        for n <- 1..2 do
          for i <- 0..39, do: assert(%{"n" => ^i} = receive_item(n))
        end
      end
    end
  end

  describe "in one loop:" do
    test "each has its own context" do
      start(:coroutine)

      tasks =
        for n <- 1..@several, do: async("who", %{name: "who", parties: @several, me: "me #{n}"})

      assert await(tasks) == for(n <- 1..@several, do: {:ok, "me #{n}"})
    end

    test "all call Elixir at the same time" do
      start(:coroutine)
      test = self()
      ToolRegistry.register_elixir_tool("s", "meet_again", &meet_again(test, &1), exposed())

      tasks =
        for n <- 1..@several do
          async("ask", %{name: "ask", parties: @several, value: n}, session_id: "s")
        end

      # None of them is answered before all have come.
      waiting = for _ <- 1..@several, do: receive_call()
      Enum.each(waiting, &send(&1, :go))
      assert Enum.sort(await(tasks)) == for(n <- 1..@several, do: {:ok, n * 10})
    end

    test "a tool that is none does not hold them up" do
      start(:coroutine)
      held = async("hold_main", %{name: "all", parties: @several - 1})
      args = %{name: "all", parties: @several - 1}
      assert Enum.all?(await(for(_ <- 2..@several, do: async("meet", args))), &ok?/1)
      assert {:ok, "MainThread"} = Task.await(held, @patience)
    end

    test "a consumer that is slow does not hold them up" do
      start(:coroutine)
      test = self()

      slow =
        Task.async(fn ->
          Snakepit.execute_stream("endless", %{}, fn _ ->
            send(test, {:first, self()})
            receive(do: (:go -> :halt))
          end)
        end)

      assert_receive {:first, consumer}, @patience
      args = %{name: "all", parties: @several - 1}
      assert Enum.all?(await(for(_ <- 2..@several, do: async("meet", args))), &ok?/1)
      send(consumer, :go)
      assert Task.await(slow, @patience) == :ok
    end

    test "what is known of such a worker" do
      start(:coroutine)
      [id] = Snakepit.list_workers()
      {:ok, worker} = Workers.get_worker_pid(id)
      assert WorkerProfile.Process.get_capacity(worker) == @several

      assert {:ok, %{profile: :process, capacity: @several, threading: "event-loop"}} =
               WorkerProfile.Process.get_metadata(worker)
    end
  end

  defp ok?(result), do: match?({:ok, _}, result)

  defp receive_item(n) do
    assert_receive {^n, item}, @patience
    item
  end

  defp receive_call do
    assert_receive {:asked, from}, @patience
    from
  end

  defp meet_again(test, %{"value" => value}) do
    send(test, {:asked, self()})

    receive do
      :go -> value * 10
    end
  end

  defp exposed, do: %{exposed_to_python: true}

  defp load do
    [id] = Snakepit.list_workers()
    {:ok, worker} = Workers.get_worker_pid(id)
    %{active: WorkerProfile.Thread.get_load(worker)}
  end
end
