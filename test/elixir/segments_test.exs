defmodule Snakepit.SegmentsTest do
  # Large values go beside the messages, in memory that both sides see: with
  # whatever happens to a call, they are what they were, and nothing stays behind.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Native}

  @moduletag :capture_log

  @from 65_536
  @page 4096
  @long 60_000

  setup_all do
    tools = ["--adapter", "snakepit_segment_tools.SegmentTools"]

    start_pools(
      transport: :local,
      heartbeat: %{enabled: false},
      pools: [
        %{name: :default, pool_size: 1, adapter_args: tools, adapter_env: test_env()},
        %{name: :pair, pool_size: 2, adapter_args: tools, adapter_env: test_env()}
      ]
    )
  end

  setup do
    on_exit(fn ->
      eventually(&idle?/0)
      eventually(&returned?/0)
    end)
  end

  defp idle?, do: match?(%{busy: 0, queued: 0}, Snakepit.get_stats())

  # No worker has any, and all that there are wait for their next use.
  defp returned? do
    _ = for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    info = Native.segment_info()
    info.lent == 0 and info.segments == info.idle and info.mapped == 0
  end

  # In a process of its own, which leaves no binary behind.
  defp apart(fun), do: fun |> Task.async() |> Task.await(@long)

  defp call!(tool, args, opts \\ []) do
    {:ok, result} = Snakepit.execute(tool, args, Keyword.put_new(opts, :timeout, @long))
    result
  end

  defp bytes(size), do: <<255, 0>> <> :rand.bytes(size - 2)
  defp text(size), do: String.duplicate("ä", div(size, 2)) <> String.duplicate("x", rem(size, 2))

  defp digest(value, kind), do: [kind, byte_size(value), :crypto.hash(:sha256, value)]

  defp beside?(binary), do: match?({:ok, _, _}, Native.binary_segment(binary))

  # ---- what they are --------------------------------------------------------

  for size <-
        [@from - 1, @from, @from + 1] ++
          Enum.flat_map([17, 32, 33, 256, 600], &[&1 * @page - 1, &1 * @page, &1 * @page + 1]) do
    test "#{size} bytes arrive and come back as they were" do
      apart(fn ->
        value = bytes(unquote(size))
        assert call!("digests", %{values: [value]}) == [digest(value, "bytes")]
        assert call!("echo", %{value: value}) == value
        plain = text(unquote(size))
        assert call!("digests", %{values: [plain]}) == [digest(plain, "str")]
        assert call!("echo", %{value: plain}) == plain
      end)
    end
  end

  test "what comes back lies where it was sent from, and goes again without a copy" do
    apart(fn ->
      value = bytes(1_000_000)
      assert Native.binary_segment(value) == :none
      back = call!("echo", %{value: value})
      assert back == value
      assert {:ok, id, @page} = Native.binary_segment(back)
      again = call!("echo", %{value: back})
      assert again == value
      assert {:ok, ^id, @page} = Native.binary_segment(again)
    end)
  end

  test "which way values went is counted" do
    apart(fn ->
      %{sent: sent, received: received, inline: inline} = moved()
      value = bytes(@from)
      assert call!("echo", %{value: value}) == value
      assert moved() == %{sent: sent + 1, received: received + 1, inline: inline}
      assert call!("echo", %{value: bytes(@from - 1)}) |> byte_size() == @from - 1
      assert moved() == %{sent: sent + 1, received: received + 1, inline: inline}
    end)
  end

  defp moved,
    do: Map.take(Snakepit.ZeroCopy.info().pools.default, [:sent, :received, :inline])

  test "small values go the old way" do
    apart(fn ->
      value = bytes(@from - 1)
      refute value |> then(&call!("echo", %{value: &1})) |> beside?()
    end)
  end

  test "what Python makes is there without a copy" do
    apart(fn ->
      for kind <- ["bytes", "bytearray", "memoryview"] do
        made = call!("make", %{size: 1_000_000, kind: kind})
        assert made == :binary.copy(<<7>>, 1_000_000)
        assert beside?(made)
      end
    end)
  end

  test "a caller that drops what it gets does not come to the limit" do
    {:ok, %{handle: handle}} = Snakepit.Pool.Targets.find(:default)
    %{max_bytes: before} = Native.pool_segments(handle)
    on_exit(fn -> Native.pool_set_segments(handle, %{max_bytes: before}) end)
    size = 64 * 1024 * 1024
    :ok = Native.pool_set_segments(handle, %{max_bytes: 16 * size})
    apart(fn -> for _ <- 1..1_000, do: call!("give", %{size: size}) && :dropped end)
  end

  test "in maps, lists, tuples and beside other arguments" do
    apart(fn ->
      {a, b} = {bytes(70_000), text(80_000)}
      value = %{"a" => [a, %{"b" => b}, {1, a}], "n" => [1, 2.5, nil], "s" => MapSet.new([a])}
      assert call!("echo", %{value: value, x: a, y: [b]}) == value
      made = call!("make", %{size: 100_000, kind: "nested"})
      data = :binary.copy(<<7>>, 100_000)
      assert made == %{"list" => [data, %{"inner" => data}], "tuple" => {data, 1}}
    end)
  end

  test "{:binary, text} is bytes" do
    apart(fn ->
      value = text(100_000)
      assert call!("digests", %{values: [{:binary, value}]}) == [digest(value, "bytes")]
    end)
  end

  for count <- [1, 15, 16, 17, 63, 64, 65, 200, 1000] do
    test "#{count} in one call" do
      apart(fn ->
        values = for i <- 1..unquote(count), do: bytes(@from + i)
        assert call!("digests", %{values: values}) == Enum.map(values, &digest(&1, "bytes"))
        assert call!("echo", %{value: values}) == values
      end)
    end
  end

  test "of different sizes in one call" do
    apart(fn ->
      values = for i <- 1..100, do: bytes(@from + rem(i * 37_813, 300_000))
      assert call!("echo", %{value: values}) == values
    end)
  end

  test "the same value many times is one segment" do
    apart(fn ->
      value = call!("echo", %{value: bytes(200_000)})
      before = Native.segment_info().segments
      assert call!("echo", %{value: List.duplicate(value, 200)}) == List.duplicate(value, 200)
      assert Native.segment_info().segments <= before + 1
    end)
  end

  test "a part of a value is a value of its own" do
    apart(fn ->
      whole = call!("echo", %{value: bytes(1_000_000)})
      parts = [binary_part(whole, 8192, 100_000), binary_part(whole, 0, 100_000), whole]
      assert call!("echo", %{value: parts}) == parts
      assert call!("echo", %{value: whole}) == whole
    end)
  end

  test "what the tool keeps is not written over" do
    apart(fn ->
      value = bytes(300_000)
      assert call!("keep", %{name: "a", value: value}) == 300_000
      for _ <- 1..50, do: assert(call!("length", %{value: bytes(300_000)}) == 300_000)
      assert call!("kept", %{name: "a"}) == digest(value, "bytes")
      eventually(fn -> Native.segment_info().lent == 1 end)
      call!("drop", %{name: "a"})
    end)
  end

  test "what the caller keeps is not written over" do
    apart(fn ->
      kept = for i <- 1..20, do: {i, call!("make", %{size: 100_000, fill: i})}

      echoed =
        for i <- 1..20,
            do: {i, call!("echo", %{value: <<255, i>> <> :binary.copy(<<i>>, 100_000)})}

      for _ <- 1..50, do: call!("length", %{value: bytes(100_002)})
      for {i, made} <- kept, do: assert(made == :binary.copy(<<i>>, 100_000))
      for {i, back} <- echoed, do: assert(back == <<255, i>> <> :binary.copy(<<i>>, 100_000))
    end)
  end

  test "one worker's value goes to another as it is" do
    apart(fn ->
      made = call!("make", %{size: 5_000_000, fill: 200}, pool_name: :pair)
      {:ok, id, _} = Native.binary_segment(made)
      back = call!("echo", %{value: made})
      assert back == made
      assert {:ok, ^id, _} = Native.binary_segment(back)
    end)
  end

  # ---- streams and inputs -----------------------------------------------------

  test "chunks of a stream" do
    apart(fn ->
      me = self()

      :ok =
        Snakepit.execute_stream("chunks", %{count: 100, size: 150_000}, fn
          %{"is_final" => true} ->
            :ok

          chunk ->
            send(
              me,
              {chunk["n"], beside?(chunk["data"]),
               chunk["data"] == :binary.copy(<<chunk["n"]>>, 150_000)}
            )
        end)

      for n <- 0..99, do: assert_received({^n, true, true})
    end)
  end

  test "a stream that is halted" do
    apart(fn ->
      _ =
        Snakepit.execute_stream("chunks", %{count: 1000, size: 150_000}, fn chunk ->
          if chunk["n"] == 5, do: :halt, else: :ok
        end)
    end)
  end

  test "inputs" do
    apart(fn ->
      values = for i <- 1..60, do: bytes(@from + 1000 * i)
      me = self()

      :ok =
        Snakepit.execute_stream("echo_inputs", %{}, &send(me, {:got, &1["value"]}), inputs: values)

      for value <- values, do: assert_received({:got, ^value})
    end)
  end

  # ---- calls that do not end well -------------------------------------------

  test "a call that is cancelled by its timeout" do
    path = signal_path()
    args = %{path: path, value: bytes(500_000)}
    apart(fn -> assert {:error, %Error{}} = Snakepit.execute("hold", args, timeout: 300) end)
    go(path)
  end

  test "a caller that is killed" do
    path = signal_path()
    pid = spawn(fn -> Snakepit.execute("hold", %{path: path, value: bytes(500_000)}) end)
    await_file(path <> ".started")
    Process.exit(pid, :kill)
    go(path)
  end

  test "a worker that is killed while it has it" do
    path = signal_path()

    apart(fn ->
      made = call!("make", %{size: 400_000, fill: 3})

      task =
        Task.async(fn ->
          Snakepit.execute("hold", %{path: path, value: bytes(500_000)}, timeout: @long)
        end)

      await_file(path <> ".started")
      kill(worker_pid_of(:default))
      assert {:error, %Error{}} = Task.await(task, @long)
      # What it gave is there without it.
      assert made == :binary.copy(<<3>>, 400_000)
    end)

    eventually(fn -> match?({:ok, _}, Snakepit.execute("length", %{value: "x"})) end)
  end

  defp worker_pid_of(pool) do
    {_id, %{process_pid: pid}} =
      Enum.find(Snakepit.Pool.ProcessRegistry.current_run_entries(), fn {id, _} ->
        match?({:ok, %{pool_name: ^pool}}, Snakepit.Pool.Registry.get_worker_metadata(id))
      end)

    pid
  end

  test "calls that wait in the queue and are given up" do
    path = signal_path()

    apart(fn ->
      holder = Task.async(fn -> Snakepit.execute("hold", %{path: path}, timeout: @long) end)
      await_file(path <> ".started")

      waiting =
        for _ <- 1..20 do
          Task.async(fn -> Snakepit.execute("length", %{value: bytes(200_000)}, timeout: 500) end)
        end

      for task <- waiting, do: assert({:error, %Error{}} = Task.await(task, @long))
      go(path)
      assert {:ok, nil} = Task.await(holder, @long)
    end)
  end

  test "a call that cannot be encoded leaves nothing" do
    apart(fn ->
      assert {:error, %Error{}} = Snakepit.execute("echo", %{value: [bytes(100_000), self()]})
    end)
  end

  # ---- many -------------------------------------------------------------------

  test "many callers at once" do
    apart(fn ->
      1..400
      |> Task.async_stream(
        fn i ->
          value = bytes(@from + rem(i * 7919, 500_000))
          assert call!("echo", %{value: value}, pool_name: :pair) == value
        end,
        max_concurrency: 16,
        timeout: @long
      )
      |> Enum.each(&assert {:ok, true} = &1)
    end)
  end

  test "10,000 hand-overs leave no more than a few did" do
    value = bytes(@from)

    run = fn batches ->
      for _ <- 1..batches do
        # What a caller holds is free at the latest when it has gone.
        apart(fn ->
          for i <- 1..20 do
            3 = length(call!("echo", %{value: [value, i, value]}))
            100_000 = byte_size(call!("make", %{size: 100_000}))
          end
        end)
      end

      eventually(&returned?/0)
      info = Native.segment_info()
      [info.segments, info.descriptors, files(), mappings()]
    end

    first = run.(25)
    resident = Enum.map(both(), &resident/1)

    for {before, later} <- Enum.zip(first, run.(225)),
        do: assert(later <= before + 50)

    # If what 9,000 of them had stayed, either would have grown by four times as much.
    for {pid, before} <- Enum.zip(both(), resident),
        do: assert(resident(pid) <= before + 150 * 1024)
  end

  # The BEAM and the worker.
  defp both do
    [id] = Snakepit.list_workers(:default)
    {:ok, %{process_pid: worker}} = Snakepit.GRPCWorker.get_info(id)
    [System.pid(), worker]
  end

  # In KiB.
  defp resident(pid) do
    [_, kib] = Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, File.read!("/proc/#{pid}/status"))
    String.to_integer(kib)
  end

  defp files, do: length(File.ls!("/proc/self/fd"))

  defp mappings do
    "/proc/self/maps"
    |> File.read!()
    |> String.split("\n")
    |> Enum.count(&(&1 =~ "memfd:snakepit"))
  end

  # ---- memory of one's own ----------------------------------------------------

  test "an allocated segment is written, sealed and sent without a copy" do
    apart(fn ->
      {:ok, segment} = Native.segment_alloc(nil, 1_000_000)
      data = bytes(600_000)
      assert :ok = Native.segment_write(segment, 0, data)

      assert :ok =
               Native.segment_write(segment, 600_000, [
                 "ab",
                 ["c" | "d"],
                 :binary.copy(<<1>>, 100)
               ])

      assert {:error, :range} = Native.segment_write(segment, 999_999, "ab")
      assert {:error, :range} = Native.segment_write(segment, 1_000_001, "")
      assert :ok = Native.segment_write(segment, 999_999, "z")
      binary = Native.segment_binary(segment)
      assert {:error, :sealed} = Native.segment_write(segment, 0, "a")
      assert byte_size(binary) == 1_000_000
      assert binary_part(binary, 0, 600_000) == data
      assert binary_part(binary, 600_000, 5) == <<"abcd", 1>>
      assert binary == Native.segment_binary(segment)
      {:ok, id, _} = Native.binary_segment(binary)
      back = call!("echo", %{value: binary})
      assert back == binary
      assert {:ok, ^id, _} = Native.binary_segment(back)
    end)
  end

  test "what cannot be allocated is refused" do
    assert {:error, {:limit, text}} = Native.segment_alloc(nil, 1_000_000_000_000_000)
    assert text =~ "zero_copy"
    assert_raise ArgumentError, fn -> Native.segment_alloc(nil, 0) end
    assert_raise ArgumentError, fn -> Native.segment_alloc(self(), 10) end
  end
end
