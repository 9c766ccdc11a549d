defmodule Snakepit.PublicErrorsTest do
  # What the public functions give for each cause of a failure, over both carriers.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.Pool.Targets

  @patience 60_000
  @pools [:shared, :remote]

  setup_all do
    start_pools(
      pool_max_queue_size: 1,
      pools: [
        pool(:shared, System.get_env("SNAKEPIT_TEST_TRANSPORT", "auto")),
        pool(:remote, "grpc")
      ]
    )
  end

  defp pool(name, transport) do
    %{
      name: name,
      pool_size: 1,
      transport: String.to_existing_atom(transport),
      adapter_args: defaults()[:adapter_args],
      adapter_env: test_env()
    }
  end

  setup do
    on_exit(fn -> eventually(fn -> Enum.all?(@pools, &idle?/1) end) end)
  end

  defp idle?(pool), do: match?(%{available: 1, queued: 0}, Snakepit.get_stats(pool))

  defp call(kind, command, args, opts)
  defp call(:execute, command, args, opts), do: Snakepit.execute(command, args, opts)

  defp call(:stream, command, args, opts),
    do: Snakepit.execute_stream(command, args, fn _ -> :ok end, opts)

  defp call(:lazy, command, args, opts) do
    command |> Snakepit.stream(args, opts) |> Stream.run()
  rescue
    error -> {:error, error}
  end

  defp worker(pool) do
    [id] = Snakepit.list_workers(pool)
    id
  end

  defp details({:error, %Error{category: category, details: details}}, category), do: details
  defp details(other, category), do: flunk("no error of #{category}: #{inspect(other)}")

  for pool <- @pools do
    describe "over #{pool}:" do
      @describetag pool: pool

      test "{:halt, reason} is an error by the type of the reason", %{pool: pool} do
        session = "halts_#{System.unique_integer([:positive])}"

        for {reason, category} <- [
              {:enough, :pool},
              {:timeout, :pool},
              {nil, :pool},
              {{:worker_exit, 1}, :pool},
              {"enough", :worker},
              {%{enough: 1}, :worker},
              {[1], :worker},
              {%ArgumentError{message: "mine"}, :worker}
            ],
            {command, args, opts} <- [
              {"numbers", %{count: 9}, []},
              {"numbers", %{count: 9}, [session_id: session]},
              {"echo_inputs", %{}, [inputs: 1..9]}
            ] do
          halt = fn _ -> {:halt, reason} end
          result = Snakepit.execute_stream(command, args, halt, [pool: pool] ++ opts)
          details = details(result, category)
          assert details.reason == reason
          assert %{command: ^command, pool: ^pool, pool_name: ^pool} = details
          assert details.worker_id == worker(pool)
        end

        halt = fn _ -> {:halt, :enough} end
        args = [session, "numbers", %{count: 9}, halt, [pool: pool]]
        result = apply(Snakepit, :execute_in_session_stream, args)
        assert details(result, :pool).reason == :enough
        refute_received _
      end

      test "{:halt, a Snakepit.Error} is that error", %{pool: pool} do
        mine = Error.validation_error("mine", %{mine: 1})
        halt = fn _ -> {:halt, mine} end
        assert {:error, ^mine} = Snakepit.execute_stream("numbers", %{count: 2}, halt, pool: pool)
      end

      test "the worker itself gives the reason as it is", %{pool: pool} do
        halt = fn _ -> {:halt, {:enough, 1}} end
        result = Snakepit.GRPCWorker.execute_stream(worker(pool), "numbers", %{count: 2}, halt)
        assert result == {:error, {:enough, 1}}
      end

      test "a callback that raises", %{pool: pool} do
        raises = fn _ -> raise "mine" end
        result = Snakepit.execute_stream("numbers", %{count: 2}, raises, pool: pool)
        details = details(result, :pool)
        assert {:callback_exception, %RuntimeError{message: "mine"}, [_ | _]} = details.reason
        assert details.worker_id == worker(pool)
      end

      test "no worker became free in time", %{pool: pool} do
        path = signal_path()
        task = occupy(path, pool: pool)

        for kind <- [:execute, :stream, :lazy] do
          opts = [pool: pool, queue_timeout: 1]
          details = details(call(kind, "numbers", %{count: 1}, opts), :timeout)
          assert %{reason: :queue_timeout, command: "numbers", pool: ^pool} = details
          refute Map.has_key?(details, :worker_id)
        end

        go(path)
        assert {:ok, _} = Task.await(task, @patience)
      end

      test "the queue is full", %{pool: pool} do
        path = signal_path()
        task = occupy(path, pool: pool)

        waits =
          Task.async(fn -> Snakepit.execute("pid", %{}, pool: pool, queue_timeout: @patience) end)

        eventually(fn -> match?(%{queued: 1}, Snakepit.get_stats(pool)) end)

        for kind <- [:execute, :stream, :lazy] do
          details = details(call(kind, "numbers", %{count: 1}, pool: pool), :pool)
          assert %{reason: :pool_saturated, command: "numbers", pool: ^pool} = details
        end

        go(path)
        assert [{:ok, _}, {:ok, _}] = Task.await_many([task, waits], @patience)
      end

      test "the call took too long", %{pool: pool} do
        for kind <- [:execute, :stream] do
          path = signal_path()

          held =
            Task.async(fn -> call(kind, "hold", %{path: path}, pool: pool, timeout: 1_000) end)

          details = details(Task.await(held, @patience), :timeout)
          assert %{command: "hold", pool: ^pool, timeout_ms: 1_000} = details
          assert details.reason in [:timeout, :queue_timeout]
          go(path)
          eventually(fn -> idle?(pool) end)
        end

        path = signal_path()
        # It has a worker from its first chunk on.
        slow = fn _ -> eventually(fn -> File.exists?(path <> ".closed") end) end
        opts = [pool: pool, timeout: 2_000]
        result = Snakepit.execute_stream("endless", %{path: path}, slow, opts)
        assert details(result, :timeout).worker_id == worker(pool)
      end

      test "the worker's process ended", %{pool: pool} do
        worker = worker(pool)

        for kind <- [:execute, :stream, :lazy] do
          path = signal_path()
          go(path)
          command = if kind == :execute, do: "end", else: "end_in_stream"
          args = if kind == :execute, do: %{status: 3}, else: %{status: 3, path: path}
          details = details(call(kind, command, args, pool: pool), :worker)
          assert %{reason: :worker_exit, exit_reason: {:exit_status, 3}} = details
          assert %{command: ^command, pool: ^pool, worker_id: ^worker} = details
          eventually(fn -> idle?(pool) end)
        end
      end

      test "a session's worker is busy", %{pool: pool} do
        id = "busy_#{System.unique_integer([:positive])}"
        assert {:ok, _} = Snakepit.execute_in_session(id, "pid", %{}, pool: pool)
        path = signal_path()
        task = occupy(path, pool: pool, session_id: id)
        opts = [pool: pool, session_id: id, affinity: :strict_fail_fast]
        assert {:error, :worker_busy} = call(:execute, "pid", %{}, opts)
        assert {:error, :worker_busy} = call(:stream, "numbers", %{count: 1}, opts)
        assert details(call(:lazy, "numbers", %{count: 1}, opts), :pool)
        go(path)
        assert {:ok, _} = Task.await(task, @patience)
      end

      test "an exception of Python", %{pool: pool} do
        for kind <- [:execute, :stream, :lazy] do
          assert {:error, %Error.TypeError{python_traceback: text}} =
                   call(kind, "echo", %{nonsense: 1}, pool: pool)

          assert text =~ "nonsense"
        end
      end

      test "arguments that cannot be sent", %{pool: pool} do
        for kind <- [:execute, :stream, :lazy] do
          details = details(call(kind, "echo", %{value: self()}, pool: pool), :pool)
          assert {:invalid_parameter, :json_encode_failed, _} = details.reason
          opts = [pool: pool, binary_parameters: %{value: 1}]
          details = details(call(kind, "echo", %{}, opts), :pool)
          assert details.reason == {:invalid_parameter, :value, :not_binary}
          assert %{command: "echo", pool: ^pool} = details
        end
      end
    end
  end

  test "a pool that is not there" do
    for kind <- [:execute, :stream, :lazy] do
      details = details(call(kind, "echo", %{}, pool: :nowhere), :pool)
      assert %{reason: :pool_not_found, pool_name: :nowhere, command: "echo"} = details
    end
  end

  test "options that are none" do
    for junk <- [1, :timeout, "timeout", {:timeout, 1}, [1], [{:timeout, 1} | :more], 1..2] do
      for kind <- [:execute, :stream, :lazy] do
        result = call(kind, "numbers", %{count: 1}, junk)
        assert %{reason: :invalid_call, command: "numbers"} = details(result, :validation)
      end

      result = Snakepit.execute_in_session("s", "pid", %{}, junk)
      assert %{reason: :invalid_call, pool: :shared} = details(result, :validation)
      fun = fn _ -> :ok end
      result = Snakepit.execute_in_session_stream("s", "numbers", %{count: 1}, fun, junk)
      assert %{reason: :invalid_call} = details(result, :validation)
      result = "pid" |> Snakepit.async(%{}, junk) |> Snakepit.await()
      assert %{reason: :invalid_call} = details(result, :validation)
    end
  end

  test "options may be a map" do
    for kind <- [:stream, :lazy],
        do: assert(:ok = call(kind, "numbers", %{count: 1}, %{pool: "remote"}))

    assert {:ok, _} = Snakepit.execute("pid", %{}, %{pool: :remote, timeout: @patience})
    assert {:ok, _} = Snakepit.execute_in_session("in_a_map", "pid", %{}, %{pool: :remote})
    assert {:ok, _} = "pid" |> Snakepit.async(%{}, %{"unknown" => 1}) |> Snakepit.await()

    assert {:ok, _} = Snakepit.execute("pid", %{}, nil)
    assert {:ok, _} = Snakepit.execute_in_session("in_a_map", "pid", %{}, nil)

    for bad <- [%{timeout: -1}, %{affinity: :no}],
        do: assert(details(Snakepit.execute("pid", %{}, bad), :validation))
  end

  test "a worker that is not there" do
    assert %{worker_id: "none"} =
             details(Snakepit.GRPCWorker.execute("none", "pid", %{}), :worker)

    result = Snakepit.GRPCWorker.execute_stream("none", "numbers", %{}, fn _ -> :ok end)
    assert %{worker_id: "none"} = details(result, :worker)
  end

  test "a pool without a worker" do
    {:ok, target} = Targets.find(:shared)
    handle = Snakepit.Native.pool_new(:nobodys, 0, 1_000)
    on_exit(fn -> Snakepit.Native.pool_close(handle) end)
    Targets.put(%{target | name: :nobodys, handle: handle})
    on_exit(fn -> :persistent_term.erase({Targets, :pool, :nobodys}) end)

    for kind <- [:execute, :stream, :lazy] do
      details = details(call(kind, "echo", %{}, pool: :nobodys), :pool)
      assert %{reason: :pool_not_initialized, pool: :nobodys, command: "echo"} = details
    end
  end
end
