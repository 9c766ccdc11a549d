defmodule Snakepit.ExecuteTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Error

  setup_all do
    start_pools(pool_size: 2)
  end

  defp echo(value) do
    assert {:ok, echoed} = Snakepit.execute("echo", %{value: value})
    echoed
  end

  test "values come back as they went" do
    big = Integer.pow(7, 200)

    for value <- [
          nil,
          true,
          false,
          0,
          -1,
          big,
          -big,
          9_007_199_254_740_993,
          1.0,
          -0.0,
          0.1,
          1.0e300,
          "",
          "text äöü \u{1F40D} \0 \n \"",
          <<0, 255, 128>>,
          [],
          [1, [2, [3.0, nil]]],
          %{},
          %{"a" => %{"b" => [1]}},
          {1, "two", {3}},
          %{1 => "one", {2} => nil},
          %{"__snakepit_type__" => "bytes"},
          String.duplicate("x", 300_000)
        ] do
      assert echo(value) === value
    end
  end

  test "atoms become texts, as values and as keys" do
    assert echo(%{a: :b, nil: nil}) == %{"a" => "b", "nil" => nil}
  end

  test "structs are sent as what they stand for" do
    assert echo(~D[2024-02-29]) == "2024-02-29"
    assert echo(%{at: ~U[2024-01-01 00:00:00Z], set: MapSet.new([1])})["set"] == MapSet.new([1])
    assert echo(%{uri: URI.parse("http://x/y")}) == %{"uri" => "http://x/y"}
  end

  test "arguments may be a keyword list, and atoms name commands" do
    assert Snakepit.execute("echo", value: 1) == {:ok, 1}
    assert Snakepit.execute(:echo, %{value: 2}) == {:ok, 2}
    assert {:ok, pid} = Snakepit.execute("pid", nil)
    assert is_integer(pid)
  end

  test "binary parameters arrive as bytes" do
    bytes = :crypto.strong_rand_bytes(100_000)

    assert {:ok, ^bytes} =
             unwrap(Snakepit.execute("echo", %{}, binary_parameters: %{value: bytes}))

    assert {:error, %Error{details: %{reason: {:invalid_parameter, :value, :not_binary}}}} =
             Snakepit.execute("echo", %{}, binary_parameters: %{value: 1})

    assert Snakepit.execute("echo", %{value: 1}, binary_parameters: :ignored) == {:ok, 1}
  end

  # A tool's bytes come in the binary field or marked in the value.
  defp unwrap({:ok, {:binary, bytes}}), do: {:ok, bytes}
  defp unwrap(result), do: result

  test "what cannot be sent is named with its place" do
    assert {:error, %Error{category: :pool, message: message, details: details}} =
             Snakepit.execute("echo", %{value: [1, %{deep: self()}]})

    assert message =~ "value[1].deep"
    assert message =~ "pid"
    assert details.path == [:value, 1, :deep]
    assert details.command == "echo"
    assert details.pool == :default
    assert {:invalid_parameter, :json_encode_failed, _} = details.reason

    for term <- [fn -> 1 end, make_ref(), [1 | 2], <<1::3>>] do
      assert {:error, %Error{category: :pool}} = Snakepit.execute("echo", %{value: term})
    end
  end

  test "a wrong call is refused with what is wrong" do
    for {command, args, opts, text} <- [
          {1, %{}, [], "command"},
          {"", %{}, [], "command"},
          {<<"pid", 255>>, %{}, [], "command"},
          {"echo", [1], [], "arguments"},
          {"echo", %{}, [timeout: -1], "timeout"},
          {"echo", %{}, [queue_timeout: "1"], "queue_timeout"},
          {"echo", %{}, [affinity: :no], "affinity"},
          {"echo", %{}, [session_id: 1], "session"},
          {"echo", %{}, [session_id: <<255>>], "session"},
          {"echo", %{}, [deadline_ms: "1"], "deadline_ms"}
        ] do
      assert {:error, %Error{category: :validation, message: message, details: details}} =
               Snakepit.execute(command, args, opts)

      assert message =~ text
      assert %{reason: :invalid_call, command: ^command, pool: :default} = details
    end
  end

  # A worker ends a connection that brings bytes for text.
  test "text that is none harms no worker" do
    before = Snakepit.get_stats().workers_lost
    bad = <<"a", 255>>
    assert {:error, %Error{category: :validation}} = Snakepit.execute_in_session(bad, "pid", %{})
    assert {:ok, _} = Snakepit.execute("pid", %{}, correlation_id: bad)
    assert {:ok, _} = Snakepit.execute("pid", %{"correlation_id" => bad})
    assert {:ok, ^bad} = Snakepit.execute("echo", %{value: bad})

    assert {:error, %Error{message: message, details: %{path: [^bad]}}} =
             Snakepit.execute("echo", %{bad => 1})

    assert String.valid?(message)

    assert {:error, %Error{category: :pool}} =
             Snakepit.execute("echo", %{}, binary_parameters: %{bad => "x"})

    assert Snakepit.get_stats().workers_lost == before
  end

  test "an unknown tool is an error that names it" do
    assert {:error, %{__exception__: true} = error} = Snakepit.execute("no_such_tool", %{})
    assert Exception.message(error) =~ "no_such_tool"
  end

  test "an unknown pool is an error, by atom and by text" do
    for pool <- [:nowhere, "nowhere", "a text that is no atom #{System.unique_integer()}"] do
      assert {:error, %Error{category: :pool, details: %{reason: :pool_not_found} = details}} =
               Snakepit.execute("pid", %{}, pool_name: pool)

      assert details.pool_name == pool
      assert {:error, {:pool_not_found, ^pool}} = Snakepit.Pool.get_stats(Snakepit.Pool, pool)
    end

    for pool <- [:default, "default", Snakepit.Pool, Process.whereis(Snakepit.Pool)] do
      assert {:ok, _} = Snakepit.execute("pid", %{}, pool: pool)
    end
  end

  test "options that are unknown are ignored" do
    assert {:ok, _} = Snakepit.execute("pid", %{}, stream_timeout: 1, idempotent: true)
  end

  test "an exception of Python is a struct with its traceback" do
    assert {:error, %Error.TypeError{} = error} = Snakepit.execute("echo", %{nonsense: 1})
    assert error.python_traceback =~ "Error"
    assert error.context["tool_name"] == "echo"
  end

  test "a call that takes too long is a time-out, and its worker serves again" do
    path = signal_path()

    assert {:error, %Error{category: :timeout, details: %{reason: reason}}} =
             Snakepit.execute("hold", %{path: path}, timeout: 200)

    assert reason in [:timeout, :queue_timeout]
    eventually(fn -> match?(%{available: 2, busy: 0}, Snakepit.get_stats()) end)
  end

  test "a deadline in the past is a time-out" do
    past = System.monotonic_time(:millisecond) - 1
    assert {:error, %Error{category: :timeout}} = Snakepit.execute("pid", %{}, deadline_ms: past)
  end

  test "no message is left in the mailbox of the caller" do
    _ = Snakepit.execute("pid", %{})
    _ = Snakepit.execute("hold", %{path: signal_path()}, timeout: 50)
    eventually(fn -> match?(%{busy: 0}, Snakepit.get_stats()) end)
    refute_received _
  end

  test "many callers share the workers" do
    pids =
      1..100
      |> Enum.map(fn i -> Task.async(fn -> {i, Snakepit.execute("echo", %{value: i})} end) end)
      |> Task.await_many(60_000)

    for {i, result} <- pids, do: assert(result == {:ok, i})
  end

  test "counters count" do
    before = Snakepit.get_stats()
    assert %{workers: 2} = before
    for _ <- 1..3, do: Snakepit.execute("pid", %{})
    _ = Snakepit.execute("echo", %{nonsense: 1})
    stats = Snakepit.get_stats()
    assert stats.requests == before.requests + 4
    assert stats.errors == before.errors + 1
    assert Snakepit.Pool.get_stats(Snakepit.Pool, :default) == stats
  end

  test "workers have ids, metadata and health" do
    assert [id, _] = Snakepit.list_workers()
    assert Snakepit.list_workers(:default) == Snakepit.list_workers()
    assert {:ok, pid, metadata} = Snakepit.Pool.Registry.fetch_worker(id)
    assert Snakepit.Pool.Registry.get_worker_id_by_pid(pid) == {:ok, id}
    assert Snakepit.Pool.Registry.metadata_keys() -- Map.keys(metadata) == []
    assert {:ok, %{healthy: true, id: ^id}} = Snakepit.GRPCWorker.get_health(id)
    assert {:ok, "session_" <> _} = Snakepit.GRPCWorker.get_session_id(pid)
    assert Snakepit.Pool.Registry.put_metadata("none", %{}) == {:error, :not_registered}
  end

  test "one worker can be called by its id" do
    for id <- Snakepit.list_workers() do
      {:ok, %{process_pid: os_pid}} = Snakepit.GRPCWorker.get_info(id)
      assert Snakepit.GRPCWorker.execute(id, "pid", %{}) == {:ok, os_pid}
      test = self()
      send_chunk = &send(test, {id, &1})
      assert :ok = Snakepit.GRPCWorker.execute_stream(id, "numbers", %{count: 1}, send_chunk)
      assert_received {^id, %{"n" => 0}}
    end

    assert {:error, %Error{category: :worker}} = Snakepit.GRPCWorker.execute("none", "pid", %{})
  end

  test "the environment of the VM is not touched, that of a worker is as documented" do
    assert System.get_env("SNAKEPIT_READY_FILE") == nil
    assert {:ok, "1"} = Snakepit.execute("env", %{name: "OMP_NUM_THREADS"})
    assert {:ok, "1"} = Snakepit.execute("env", %{name: "PYTHONNOUSERSITE"})
    assert {:ok, json} = Snakepit.execute("env", %{name: "SNAKEPIT_HEARTBEAT_CONFIG"})
    assert {:ok, %{"interval_ms" => 2000}} = Snakepit.Native.json_decode(json)
  end
end
