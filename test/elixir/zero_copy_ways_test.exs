defmodule Snakepit.ZeroCopyWaysTest do
  # Large data that is not a value among others: chunks and results that are bytes by
  # themselves, and what Elixir's tools get and give. With Snakepit.Test.Pools, over
  # each carrier: the local one hands it over, gRPC copies it.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.{SessionStore, ToolRegistry}
  alias Snakepit.Native

  @size 300_000
  @patience 60_000

  setup do
    before = Native.segment_info()
    start_pools(adapter_args: ["--adapter", "snakepit_way_tools.WayTools"])
    session = "ways-#{System.pid()}-#{System.unique_integer([:positive])}"

    on_exit(fn ->
      Native.segments_set_limit(before.max_bytes, before.max_descriptors)
      if Process.whereis(SessionStore), do: SessionStore.delete_session(session)
      if Process.whereis(ToolRegistry), do: ToolRegistry.cleanup_session(:all_sessions)
    end)

    %{session: session, opts: [session_id: session, timeout: @patience]}
  end

  defp local?, do: defaults()[:transport] != :grpc

  defp run(tool, args, opts \\ [timeout: @patience]) do
    assert {:ok, result} = Snakepit.execute(tool, args, opts)
    result
  end

  defp chunks(tool, args) do
    test = self()
    ref = make_ref()

    assert :ok = Snakepit.execute_stream(tool, args, &send(test, {ref, &1}), timeout: @patience)
    ref |> received() |> Enum.map(&Map.delete(&1, "is_final")) |> Enum.reject(&(&1 == %{}))
  end

  defp received(ref) do
    receive do
      {^ref, chunk} -> [chunk | received(ref)]
    after
      0 -> []
    end
  end

  # How many segments what `fun` does takes, each way, and what had none. Over gRPC there
  # are none of all these.
  defp moved(fun) do
    before = counts()
    result = fun.()
    later = counts()
    {result, if(local?(), do: Map.new(later, fn {key, n} -> {key, n - before[key]} end))}
  end

  defp counts, do: Map.take(Snakepit.ZeroCopy.info().pools.default, [:sent, :received, :inline])

  defp assert_moved(moved, expected), do: assert(moved == if(local?(), do: Map.new(expected)))

  defp bytes(size), do: :binary.copy(<<0x81>>, size)
  defp raw(size), do: %{"raw_data_base64" => Base.encode64(bytes(size))}

  # Nothing of it stays with anybody.
  defp assert_returned do
    eventually(fn ->
      for pid <- Process.list(), do: :erlang.garbage_collect(pid)
      match?(%{lent: 0, mapped: 0}, Native.segment_info())
    end)
  end

  # Without descriptors (`short`) gRPC itself does not go on.

  # ---- chunks -----------------------------------------------------------------

  test "chunks that are nothing but bytes or text" do
    kinds = ["bytes", "bytearray", "memoryview", "stepped", "str", "json"]
    {got, moved} = moved(fn -> chunks("raw", %{kinds: kinds, size: @size}) end)
    text = %{"raw_data_base64" => Base.encode64(String.duplicate("ü", div(@size, 2)))}
    json = %{"text" => String.duplicate("x", @size)}
    assert got == [raw(@size), raw(@size), raw(@size), raw(@size), text, json]
    assert_moved(moved, sent: 0, received: 6, inline: 0)
    assert_returned()
  end

  test "small ones go in the message, and those of the threshold beside it" do
    for {size, beside} <- [{0, 0}, {1, 0}, {65_535, 0}, {65_536, 1}, {65_537, 1}] do
      {got, moved} = moved(fn -> chunks("raw", %{kinds: ["bytes"], size: size}) end)
      assert got == if(size == 0, do: [], else: [raw(size)])
      assert_moved(moved, sent: 0, received: beside, inline: 0)
    end
  end

  test "chunks of what came from here" do
    values = for n <- 1..3, do: {:binary, bytes(@size + n)}

    for tool <- ["back", "back_async"] do
      {got, moved} = moved(fn -> chunks(tool, %{values: values}) end)
      assert got == for(n <- 1..3, do: raw(@size + n))
      assert_moved(moved, sent: 3, received: 3, inline: 0)
      assert_returned()
    end
  end

  test "a worker with threads lets go of them as well" do
    adapter = ["--adapter", "snakepit_way_tools.ThreadedWayTools"]
    start_pools(worker_profile: :thread, threads_per_worker: 2, adapter_args: adapter)
    values = for n <- 1..3, do: {:binary, bytes(@size + n)}

    for tool <- ["back", "back_async"] do
      assert chunks(tool, %{values: values}) == for(n <- 1..3, do: raw(@size + n))
      assert_returned()
    end
  end

  test "chunks that go on to a gRPC client", %{session: session} do
    {:ok, channel} = Snakepit.GRPC.Client.connect(Snakepit.GRPC.Listener.address())
    {:ok, _} = SessionStore.create_session(session)
    args = %{kinds: ["bytes", "json"], size: @size}

    assert {:ok, stream} =
             Snakepit.GRPC.Client.execute_streaming_tool(channel, session, "raw", args)

    assert [data, json | _end] = for({:ok, chunk} <- stream, do: chunk.data)
    assert data == bytes(@size)
    assert byte_size(json) == @size + byte_size(~s({"text": ""}))
    assert_returned()
  end

  test "chunks of a worker that has no descriptor left" do
    args = %{kinds: ["bytes", "json"], size: @size, short: local?()}
    {got, moved} = moved(fn -> chunks("raw", args) end)
    assert got == [raw(@size), %{"text" => String.duplicate("x", @size)}]
    assert_moved(moved, sent: 0, received: 0, inline: 0)
    {got, moved} = moved(fn -> chunks("raw", %{args | short: false}) end)
    assert [_, _] = got
    assert_moved(moved, sent: 0, received: 2, inline: 0)
  end

  # ---- results ----------------------------------------------------------------

  test "results that are bytes by themselves" do
    {got, moved} = moved(fn -> run("binary", %{size: @size}) end)
    assert got == {:binary, bytes(@size)}
    assert_moved(moved, sent: 0, received: 1, inline: 0)

    meta = %{"shape" => [3, 100_000], "text" => String.duplicate("x", 100_000)}
    {got, moved} = moved(fn -> run("binary", %{size: @size, metadata: meta}) end)
    assert got == {:binary, bytes(@size), meta}
    # On the way back both lie in one segment.
    assert_moved(moved, sent: 1, received: 1, inline: 0)
    assert run("binary", %{size: 3}) == {:binary, bytes(3)}
    assert run("binary", %{size: 3, metadata: %{a: 1}}) == {:binary, bytes(3), %{"a" => 1}}
  end

  test "a result of what came from here lies where it lay" do
    {got, moved} = moved(fn -> run("binary_of", %{value: {:binary, bytes(@size)}}) end)
    assert got == {:binary, bytes(@size)}
    assert_moved(moved, sent: 1, received: 1, inline: 0)
    if local?(), do: assert({:ok, _, _} = Native.binary_segment(elem(got, 1)))
  end

  # ---- what is told of a call ---------------------------------------------------

  @told [:segments_sent, :segments_received, :segments_missing, :segment_bytes]

  # What the stop events of what `fun` does say of segments.
  defp told(operation, also, fun) do
    test = self()
    ref = make_ref()
    id = "ways #{inspect(ref)}"

    handler = fn event, measurements, _metadata, _config ->
      if List.last(event) == :stop, do: send(test, {ref, Map.take(measurements, @told)})
    end

    events = for what <- [:stop | also], do: [:snakepit, :grpc_worker, operation, what]
    :ok = Snakepit.Telemetry.attach_many(id, events, handler, nil)

    try do
      fun.()
      received(ref)
    after
      Snakepit.Telemetry.detach(id)
    end
  end

  defp segments(sent, received, missing),
    do: %{segments_sent: sent, segments_received: received, segments_missing: missing}

  defp assert_told([told], expected) do
    if local?() do
      assert Map.delete(told, :segment_bytes) == expected
      count = expected.segments_sent + expected.segments_received
      # They may be somewhat larger than what lies in them.
      assert told.segment_bytes in (count * @size)..(count * 2 * @size)
    else
      assert told == %{}
    end
  end

  # Alone it is told with the answer; with the start it has to be remembered.
  for also <- [[], [:start]] do
    test "which way large values went, with #{inspect([:stop | also])}" do
      also = unquote(also)
      value = {:binary, bytes(@size)}
      one = fn -> run("binary_of", %{value: value}) end
      for _ <- 1..3, do: assert_told(told(:execute, also, one), segments(1, 1, 0))
      assert told(:execute, also, fn -> run("binary", %{size: 10}) end) == [%{}]

      stream = fn -> chunks("back", %{values: [value, {:binary, bytes(@size)}]}) end
      assert_told(told(:execute_stream, also, stream), segments(2, 2, 0))

      async = fn ->
        assert {:ok, _} =
                 "binary_of" |> Snakepit.async(%{value: value}) |> Snakepit.await(@patience)
      end

      assert_told(told(:execute, also, async), segments(1, 1, 0))
    end
  end

  test "that a binary had none is told" do
    :ok = Native.segments_set_limit(0, 1000)
    told = told(:execute, [], fn -> run("binary_of", %{value: {:binary, "abc"}}) end)
    assert told == [%{}]
    told = told(:execute, [], fn -> run("length", %{value: {:binary, bytes(@size)}}) end)
    assert_told(told, segments(0, 0, 1))
  end

  # ---- Elixir's tools -----------------------------------------------------------

  defp expose(session, name, fun) do
    :ok = ToolRegistry.register_elixir_tool(session, name, fun, %{exposed_to_python: true})
  end

  test "what Elixir's tools get and give", %{session: session, opts: opts} do
    text = String.duplicate("ü", div(@size, 2))
    nested = %{"list" => [text, {:binary, bytes(@size)}, 1], "map" => %{"t" => text}}
    expose(session, "length", fn %{"value" => value} -> byte_size(value) end)
    expose(session, "same", fn %{"value" => value} -> {:binary, value} end)
    expose(session, "text", fn _ -> text end)
    expose(session, "nested", fn _ -> nested end)

    expose(session, "described", fn _ ->
      {:binary, bytes(@size), %{"size" => @size, "text" => text}}
    end)

    {got, moved} = moved(fn -> run("ask", %{name: "same", size: @size}, opts) end)
    assert got == @size
    # The same bytes go back without a copy.
    assert_moved(moved, sent: 1, received: 1, inline: 0)

    {got, moved} = moved(fn -> run("through", %{name: "text"}, opts) end)
    assert got == [["str", text]]
    assert_moved(moved, sent: 1, received: 1, inline: 0)

    assert run("through", %{name: "length", value: {:binary, bytes(@size)}}, opts) ==
             [["int", @size]]

    assert [["dict", %{"list" => [^text, back, 1], "map" => %{"t" => ^text}}]] =
             run("through", %{name: "nested"}, opts)

    assert back == bytes(@size)

    assert run("through", %{name: "described"}, opts) ==
             [["tuple", {bytes(@size), %{"size" => @size, "text" => text}}]]

    assert_returned()
  end

  test "small results of Elixir's tools are what they were", %{session: session, opts: opts} do
    for {result, type, seen} <- [
          {{:binary, "abc"}, "bytes", "abc"},
          {{:binary, "abc", %{a: 1}}, "tuple", {"abc", %{"a" => 1}}},
          {{:ok, "text"}, "str", "text"},
          {nil, "NoneType", nil},
          {{1, 2}, "tuple", {1, 2}}
        ] do
      expose(session, "small", fn _ -> result end)
      {got, moved} = moved(fn -> run("through", %{name: "small"}, opts) end)

      if local?() or not match?({1, 2}, result) do
        assert got == [[type, seen]]
      end

      assert_moved(moved, sent: 0, received: 0, inline: 0)
      ToolRegistry.cleanup_session(session)
    end
  end

  test "what cannot be encoded is an error, and leaves nothing", context do
    expose(context.session, "bad", fn _ -> [bytes(@size), self()] end)
    assert {:error, error} = Snakepit.execute("through", %{name: "bad"}, context.opts)
    assert Exception.message(error) =~ "cannot be encoded"
    assert_returned()
  end

  test "many replies, one after another", %{session: session, opts: opts} do
    expose(session, "give", fn _ -> {:binary, bytes(@size)} end)
    {got, moved} = moved(fn -> run("through", %{name: "give", times: 200}, opts) end)
    assert length(got) == 200
    assert Enum.uniq(got) == [["bytes", bytes(@size)]]
    assert_moved(moved, sent: 200, received: 64, inline: 0)
    assert_returned()
  end

  test "beyond the limits they go in the message", %{session: session, opts: opts} do
    expose(session, "give", fn _ -> {:binary, bytes(@size)} end)
    expose(session, "text", fn _ -> String.duplicate("x", @size) end)

    for {max_bytes, max_descriptors} <- [{0, 1000}, {1_000_000_000, 0}] do
      :ok = Native.segments_set_limit(max_bytes, max_descriptors)

      for name <- ["give", "text"] do
        {got, moved} = moved(fn -> run("ask", %{name: name, size: 10}, opts) end)
        assert got == @size
        assert_moved(moved, sent: 0, received: 0, inline: 1)
      end
    end
  end

  test "arguments of a worker that has no descriptor left", %{session: session, opts: opts} do
    expose(session, "length", fn %{"value" => value} -> byte_size(value) end)
    args = %{name: "length", size: @size, short: local?()}
    {got, moved} = moved(fn -> run("ask", args, opts) end)
    assert got == @size
    assert_moved(moved, sent: 0, received: 0, inline: 0)
    {got, moved} = moved(fn -> run("ask", %{args | short: false}, opts) end)
    assert got == @size
    assert_moved(moved, sent: 0, received: 1, inline: 0)
    assert_returned()
  end

  test "a call that ends while its tool runs", %{session: session} do
    test = self()

    expose(session, "late", fn _ ->
      send(test, {:runs, self()})
      receive do: (:go_on -> :ok)
      {:binary, bytes(@size)}
    end)

    opts = [session_id: session, timeout: 200]
    assert {:error, _} = Snakepit.execute("through", %{name: "late"}, opts)
    assert_receive {:runs, pid}, @patience
    send(pid, :go_on)
    expose(session, "give", fn _ -> {:binary, bytes(@size)} end)
    opts = [session_id: session, timeout: @patience]
    assert [["bytes", _]] = run("through", %{name: "give"}, opts)
    assert_returned()
  end
end
