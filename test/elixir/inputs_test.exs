defmodule Snakepit.InputsTest do
  # Tools that read what the caller makes while they run.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Error

  # What a tool has not taken yet is at most this.
  @window 16
  # Small ones.
  @chunks 64
  @long 60_000

  setup_all do
    tools = ["--adapter", "snakepit_test_tools.TestTools"]
    threaded = ["--adapter", "snakepit_test_tools.ThreadedTestTools"]
    env = [adapter_env: test_env()]

    start_pools(
      pools: [
        Map.new([name: :default, pool_size: 1, adapter_args: tools] ++ env),
        Map.new(
          [
            name: :threads,
            pool_size: 1,
            worker_profile: :thread,
            threads_per_worker: 4,
            adapter_args: threaded
          ] ++ env
        )
      ]
    )
  end

  setup do
    on_exit(fn -> eventually(&idle?/0) end)
  end

  defp idle?, do: match?(%{busy: 0, queued: 0}, Snakepit.get_stats())

  # Counts what was made, and tells how often it began and ended.
  defp watched(enumerable) do
    made = :counters.new(3, [])

    stream =
      Stream.resource(
        fn ->
          :counters.add(made, 2, 1)
          :start
        end,
        fn
          :start -> {enumerable, :over}
          :over -> {:halt, :over}
        end,
        fn _ -> :counters.add(made, 3, 1) end
      )

    {Stream.each(stream, fn _ -> :counters.add(made, 1, 1) end), made}
  end

  defp made(counters), do: :counters.get(counters, 1)
  defp begun(counters), do: :counters.get(counters, 2)
  defp ended(counters), do: :counters.get(counters, 3)

  defp naturals, do: Stream.iterate(0, &(&1 + 1))

  defp collect(test \\ self()), do: fn chunk -> send(test, {:got, chunk}) end

  defp received do
    receive do
      {:got, %{"value" => value}} -> [value | received()]
      {:got, _end} -> received()
    after
      0 -> []
    end
  end

  # ---- to the end -----------------------------------------------------------

  for pool <- [:default, :threads], tool <- ~w(sum_all sum_async) do
    test "#{tool} in #{pool}: one answer to many inputs" do
      opts = [pool: unquote(pool), timeout: @long]

      for count <- [0, 1, 2, 7, 8, 9, 15, 16, 17, 24, 25, 1000] do
        {inputs, counters} = watched(1..count//1)

        assert Snakepit.execute(unquote(tool), %{}, [inputs: inputs] ++ opts) ==
                 {:ok, div(count * (count + 1), 2)}

        assert {made(counters), begun(counters), ended(counters)} == {count, 1, 1}
      end

      refute_received _
    end
  end

  for pool <- [:default, :threads], tool <- ~w(echo_inputs echo_async) do
    test "#{tool} in #{pool}: chunks come while inputs go" do
      count = 10_000
      most = :atomics.new(1, [])

      callback = fn chunk ->
        waiting = waiting_messages()
        if waiting > :atomics.get(most, 1), do: :atomics.put(most, 1, waiting)

        with %{"value" => value} <- chunk,
             do: Process.put(:values, [value | Process.get(:values, [])])
      end

      opts = [inputs: 1..count, pool: unquote(pool), timeout: @long]
      assert Snakepit.execute_stream(unquote(tool), %{}, callback, opts) == :ok
      assert Enum.reverse(Process.get(:values)) == Enum.to_list(1..count)
      # Chunks that were allowed, and wishes for inputs.
      assert :atomics.get(most, 1) <= @chunks + @window + 2
      refute_received _
    end
  end

  test "a lazy stream of chunks reads its inputs as it is read" do
    {inputs, counters} = watched(naturals())
    stream = Snakepit.stream("echo_inputs", %{extra: "x"}, inputs: inputs)
    assert begun(counters) == 0

    assert [%{"value" => 0, "extra" => "x"}, %{"value" => 1}, %{"value" => 2}] =
             Enum.take(stream, 3)

    assert {begun(counters), ended(counters)} == {1, 1}
    # Again from the start.
    assert [%{"value" => 0}] = Enum.take(stream, 1)
    assert {begun(counters), ended(counters)} == {2, 2}

    values = for %{"value" => n} <- Snakepit.stream("echo_inputs", %{}, inputs: 1..500), do: n
    assert values == Enum.to_list(1..500)
    refute_received _
  end

  test "a stream of chunks can be the inputs of another call" do
    first = Snakepit.stream("echo_inputs", %{}, inputs: 1..100, pool: :threads)
    numbers = first |> Stream.filter(&is_map_key(&1, "value")) |> Stream.map(& &1["value"])
    assert Snakepit.execute("sum_all", %{}, inputs: numbers) == {:ok, 5050}
    refute_received _
  end

  test "any enumerable will do, also one that ends with its last item" do
    for inputs <- [
          [1, 2, 3],
          1..3,
          Stream.take(naturals(), 4) |> Stream.drop(1),
          Stream.take_while([1, 2, 3, 99], &(&1 < 4)),
          MapSet.new([1, 2, 3]),
          Stream.flat_map([1], fn _ -> [1, 2, 3] end),
          Stream.concat([1], [2, 3])
        ] do
      assert Snakepit.execute("sum_all", %{}, inputs: inputs) == {:ok, 6}
    end

    path = signal_path()
    File.write!(path, "one\ntwo\n")

    assert Snakepit.execute("annotated", %{}, inputs: File.stream!(path)) ==
             {:ok, ["one\n", "two\n"]}
  end

  test "inputs are values of any kind, and stay what they are" do
    values = [
      nil,
      true,
      "text",
      "7",
      "{\"a\": 1}",
      "",
      1.5,
      12_345_678_901_234_567_890,
      %{"a" => [1, %{"b" => nil}]},
      [],
      %{}
    ]

    assert Snakepit.execute("annotated", %{}, inputs: values) == {:ok, values}
    assert Snakepit.execute("sizes", %{}, inputs: [<<255, 0, 254>>, "ab"]) == {:ok, [3, 2]}
  end

  test "large inputs" do
    inputs = Stream.map(1..24, fn n -> :binary.copy(<<n + 160>>, 1_048_576) end)

    assert Snakepit.execute("sizes", %{}, inputs: inputs, timeout: @long) ==
             {:ok, List.duplicate(1_048_576, 24)}

    back = Snakepit.stream("echo_inputs", %{}, inputs: Stream.map(1..8, &large/1), timeout: @long)

    assert for(%{"value" => v} <- back, do: byte_size(v)) ==
             for(n <- 1..8, do: byte_size(large(n)))
  end

  defp large(n), do: String.duplicate("#{n}", 1_048_576)

  test "the enumerable is run by the caller, beside its other messages" do
    me = self()
    for n <- 1..40, do: send(me, {:number, n})
    send(me, :other)

    inputs =
      Stream.repeatedly(fn ->
        assert self() == me

        receive do
          {:number, n} -> n
        end
      end)

    assert Snakepit.execute("sum_all", %{}, inputs: Stream.take(inputs, 40)) == {:ok, 820}
    assert_received :other
    refute_received _
  end

  test "an enumerable that waits for a chunk gets one" do
    # Each input is made of the chunk before it: no side waits for the other.
    table = :ets.new(:last, [])
    :ets.insert(table, {:last, 1})

    inputs = Stream.repeatedly(fn -> :ets.lookup_element(table, :last, 2) end)

    assert Snakepit.execute_stream(
             "echo_inputs",
             %{},
             fn %{"value" => n} ->
               :ets.insert(table, {:last, n + 1})
               if n == 100, do: :halt
             end,
             inputs: inputs,
             timeout: @long
           ) == :ok

    refute_received _
  end

  test "in a session" do
    assert Snakepit.execute_in_session("alice", "count_by_context", %{}, inputs: 1..40) ==
             {:ok, ["alice", 40]}

    assert :ok =
             Snakepit.execute_in_session_stream("alice", "echo_inputs", %{}, collect(),
               inputs: 1..3
             )

    assert received() == [1, 2, 3]
  end

  test "after the end it stays the end" do
    assert Snakepit.execute("read_on", %{}, inputs: 1..3) == {:ok, [[1, 2, 3], [], "none"]}
  end

  for pool <- [:default, :threads] do
    test "a tool in #{pool} may read in threads of its own, and beside other work" do
      opts = [pool: unquote(pool), timeout: @long]

      assert Snakepit.execute("shared", %{}, [inputs: 1..200] ++ opts) ==
               {:ok, Enum.to_list(1..200)}

      assert Snakepit.execute("patient", %{}, [inputs: [5]] ++ opts) == {:ok, [5, true]}
      path = signal_path()

      late =
        Stream.map(1..3, fn n ->
          if n == 1, do: await_file(path <> ".started")
          n
        end)

      assert Snakepit.execute("impatient", %{path: path}, [inputs: late] ++ opts) ==
               {:ok, [1, 2, 3]}
    end
  end

  test "several calls of one worker have inputs of their own" do
    1..4
    |> Enum.map(fn n ->
      Task.async(fn ->
        assert Snakepit.execute("sum_all", %{},
                 inputs: Stream.map(1..500, &(&1 * n)),
                 pool: :threads,
                 timeout: @long
               ) == {:ok, 125_250 * n}
      end)
    end)
    |> Task.await_many(@long)
  end

  # ---- bounds ---------------------------------------------------------------

  test "nothing is made before the tool reads, and not much ahead" do
    path = signal_path()
    {inputs, counters} = watched(naturals())
    opts = [inputs: inputs, timeout: @long]

    task =
      Task.async(fn ->
        Snakepit.execute("read_some", %{path: path, count: 100}, opts)
      end)

    await_file(path <> ".started")
    assert begun(counters) == 0
    go(path)
    assert Task.await(task, @long) == {:ok, Enum.to_list(0..99)}
    assert made(counters) in 100..(100 + @window)
    assert {begun(counters), ended(counters)} == {1, 1}
  end

  test "a tool that reads nothing leaves the enumerable alone" do
    path = signal_path()
    go(path)
    {inputs, counters} = watched(naturals())

    assert Snakepit.execute("read_some", %{path: path, count: 0}, inputs: inputs) == {:ok, []}
    assert {begun(counters), ended(counters)} == {0, 0}
    refute_received _
  end

  # ---- early ends -----------------------------------------------------------

  test "an exception of the tool ends the enumerable" do
    {inputs, counters} = watched(naturals())

    assert {:error, %Error.ValueError{message: "no third"}} =
             Snakepit.execute_stream("fail_at_third", %{}, collect(), inputs: inputs)

    assert received() == [0, 1]
    assert {begun(counters), ended(counters)} == {1, 1}
    refute_received _
    {inputs, counters} = watched(naturals())

    assert_raise Error.ValueError, fn ->
      Enum.to_list(Snakepit.stream("fail_at_third", %{}, inputs: inputs))
    end

    assert {begun(counters), ended(counters)} == {1, 1}
  end

  test "the callback ends it all" do
    for {callback, check} <- [
          {fn _ -> :halt end, &(&1 == :ok)},
          {fn _ -> {:halt, :enough} end,
           &match?({:error, %Error{details: %{reason: :enough}}}, &1)},
          {fn _ -> raise "mine" end, &match?({:error, %Error{category: :pool}}, &1)}
        ] do
      {inputs, counters} = watched(naturals())
      assert check.(Snakepit.execute_stream("echo_inputs", %{}, callback, inputs: inputs))
      assert {begun(counters), ended(counters)} == {1, 1}
      refute_received _
    end

    {inputs, counters} = watched(naturals())

    assert catch_throw(
             Snakepit.execute_stream("echo_inputs", %{}, fn _ -> throw(:out) end, inputs: inputs)
           ) == :out

    assert {begun(counters), ended(counters)} == {1, 1}
    refute_received _
  end

  for pool <- [:default, :threads], tool <- ~w(read_all read_all_async) do
    test "#{tool} in #{pool}: what the enumerable raises reaches the caller, the tool is cancelled" do
      for {fail, expected} <- [
            {fn -> raise ArgumentError, "mine" end, {:error, %ArgumentError{message: "mine"}}},
            {fn -> throw(:out) end, {:throw, :out}},
            {fn -> exit(:out) end, {:exit, :out}}
          ] do
        path = signal_path()

        inputs =
          Stream.map(1..10, fn n ->
            if n == 5, do: fail.()
            n
          end)

        {inputs, counters} = watched(inputs)
        opts = [inputs: inputs, pool: unquote(pool)]
        assert caught(fn -> Snakepit.execute(unquote(tool), %{path: path}, opts) end) == expected
        assert ended(counters) == 1
        assert cancelled?(path)

        again = signal_path()
        call = fn -> Snakepit.execute_stream(unquote(tool), %{path: again}, collect(), opts) end
        assert caught(call) == expected
        assert cancelled?(again)

        lazy = signal_path()
        call = fn -> Enum.to_list(Snakepit.stream(unquote(tool), %{path: lazy}, opts)) end
        assert caught(call) == expected
        assert cancelled?(lazy)
        assert ended(counters) == 3
        refute_received _
      end
    end

    test "#{tool} in #{pool}: a killed caller, in the middle of its enumerable" do
      path = signal_path()
      opts = [inputs: one_and_wait(path), pool: unquote(pool), timeout: :infinity]

      {pid, monitor} =
        spawn_monitor(fn -> Snakepit.execute(unquote(tool), %{path: path}, opts) end)

      await_file(path <> ".1")
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, _, :killed}, @long
      assert cancelled?(path)
    end

    test "#{tool} in #{pool}: the deadline passes while the tool waits for an input" do
      path = time_out_reading(unquote(tool), unquote(pool), 300)
      assert cancelled?(path)
      refute_received _
    end
  end

  # Where the time was over before the tool read, it gets more the next time.
  defp time_out_reading(tool, pool, ms) do
    path = signal_path()
    opts = [inputs: one_and_wait(path), pool: pool, timeout: ms]
    assert {:error, %Error{category: :timeout}} = Snakepit.execute(tool, %{path: path}, opts)
    assert ms < 2 * @long
    if File.exists?(path <> ".1"), do: path, else: time_out_reading(tool, pool, 2 * ms)
  end

  defp caught(fun) do
    fun.()
  catch
    kind, reason -> {kind, reason}
  end

  # The second input is made when the tool has been told.
  defp one_and_wait(path) do
    Stream.map(1..2, fn n ->
      if n == 2, do: await_file(path <> ".closed")
      n
    end)
  end

  # Inside the reading, where it waited for the next.
  defp cancelled?(path) do
    await_file(path <> ".closed")
    File.read!(path <> ".closed") in ["ToolCancelled", "CancelledError"]
  end

  test "the deadline passes while the caller waits for the tool" do
    path = signal_path()
    {inputs, counters} = watched(naturals())

    assert {:error, %Error{category: :timeout}} =
             Snakepit.execute("read_some", %{path: path, count: 1}, inputs: inputs, timeout: 300)

    assert {begun(counters), ended(counters)} == {0, 0}
    refute_received _
  end

  test "the worker dies" do
    {inputs, counters} = watched(naturals())
    {:ok, pid} = Snakepit.execute("pid", %{})

    callback = fn
      %{"value" => 3} -> kill(pid)
      _ -> :ok
    end

    assert {:error, %Error{category: :worker, details: %{reason: :worker_exit}}} =
             Snakepit.execute_stream("echo_inputs", %{}, callback, inputs: inputs, timeout: @long)

    assert ended(counters) == 1
    refute_received _
    eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{})) end)
  end

  # ---- refused --------------------------------------------------------------

  test "an input that cannot be sent is named; the call is cancelled" do
    path = signal_path()
    {inputs, counters} = watched([1, 2, %{"a" => [self()]}, 4])

    assert {:error, %Error{} = error} =
             Snakepit.execute("read_all", %{path: path}, inputs: inputs)

    assert error.message =~ "inputs[2].a[0]"
    assert ended(counters) == 1
    assert cancelled?(path)
    refute_received _
  end

  test "a tool that reads no inputs is not given any" do
    {inputs, counters} = watched(1..3)

    assert {:error, %Error.TypeError{message: message}} =
             Snakepit.execute("echo", %{value: 1}, inputs: inputs)

    assert message =~ "reads no inputs"
    assert begun(counters) == 0
    refute_received _
  end

  test "a parameter named inputs takes an argument too, but not both" do
    assert Snakepit.execute("sum_all", %{inputs: [1, 2, 3]}) == {:ok, 6}

    assert {:error, %Error.TypeError{message: message}} =
             Snakepit.execute("sum_all", %{inputs: [1]}, inputs: [2])

    assert message =~ "'inputs'"

    # One that is declared to be read does not.
    assert {:error, %Error.TypeError{message: message}} = Snakepit.execute("annotated", %{})
    assert message =~ "option inputs:"
    assert {:error, %Error.TypeError{}} = Snakepit.execute("annotated", %{rows: [1]})
  end

  test "what is no enumerable is refused, and inputs of async calls" do
    for wrong <- [5, :stream, "text", self()] do
      assert {:error, %Error{category: :validation, message: message}} =
               Snakepit.execute("sum_all", %{}, inputs: wrong)

      assert message =~ "enumerable"
    end

    assert {:error, %Error{category: :validation}} =
             "sum_all" |> Snakepit.async(%{}, inputs: [1]) |> Snakepit.await()
  end
end

defmodule Snakepit.InputsElsewhereTest do
  # Workers of other makes.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Error

  test "a worker that knows nothing of inputs: an error that says so" do
    start_pools(transport: :grpc, adapter_args: ["--adapter", "without_inputs.Tools"])

    assert {:error, %Error{} = error} = Snakepit.execute("sum_all", %{}, inputs: [1])
    assert error.message =~ "takes no inputs"
    assert error.details.reason == :unimplemented

    assert {:error, %Error{details: %{reason: :unimplemented}}} =
             Snakepit.execute_stream("echo_inputs", %{}, fn _ -> flunk("a chunk") end, inputs: [1])

    assert Snakepit.execute("sum_all", %{inputs: [1]}) == {:ok, 1}
    refute_received _
  end

  test "a gRPC worker that asks for too many inputs loses the call, few were made" do
    start_pools(transport: :grpc, adapter_args: ["--adapter", "hostile_inputs.Tools"])

    for tool <- ~w(max seventeen blindly) do
      made = :counters.new(1, [])

      inputs =
        Stream.repeatedly(fn ->
          :counters.add(made, 1, 1)
          :binary.copy("x", 1_048_576)
        end)

      assert {:error, %Error{} = error} = Snakepit.execute(tool, %{}, inputs: inputs)
      assert error.message =~ "more inputs than it may"
      # What gRPC buffers, and what waits for it.
      assert :counters.get(made, 1) <= 128
      refute_received _
    end

    assert Snakepit.execute("strays", %{}, inputs: [1]) == {:ok, nil}
    assert {:error, %Error{}} = Snakepit.execute("no_response", %{}, inputs: [1])
    assert {:ok, pid} = Snakepit.execute("pid", %{})
    assert is_integer(pid)
    refute_received _
  end
end
