defmodule Snakepit.ZeroCopyCallsTest do
  # With Snakepit.Test.Pools, over each carrier.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.{SessionStore, ToolRegistry}
  alias Snakepit.{Error, Telemetry, ZeroCopy, ZeroCopyRef}
  alias Snakepit.ZeroCopy.Tensor

  @mib 1024 * 1024

  defp start(settings \\ []) do
    settings =
      Keyword.put_new(settings, :adapter_args, [
        "--adapter",
        "snakepit_zero_copy_tools.ZeroCopyTools"
      ])

    start_pools(settings)
  end

  defp run(tool, args, opts \\ []) do
    assert {:ok, result} = Snakepit.execute(tool, args, opts)
    result
  end

  test "a handle arrives with its bytes, alone, nested and more than once" do
    start()

    {:ok, ref} =
      ZeroCopy.to_dlpack([[1, 2, 3], [4, 5, 6]], dtype: :u8, metadata: %{"unit" => "m"})

    assert %{
             "type" => "ZeroCopyRef",
             "kind" => "dlpack",
             "device" => "cpu",
             "dtype" => "uint8",
             "shape" => [2, 3],
             "owner" => "elixir",
             "copy" => true,
             "bytes" => 6,
             "metadata" => %{"unit" => "m"},
             "sum" => 21
           } = run("describe", %{handle: ref})

    assert %{"a" => [%ZeroCopyRef{shape: {2, 3}} = one, %ZeroCopyRef{} = two]} =
             run("echo", %{value: %{a: [ref, ref]}})

    for back <- [one, two] do
      assert ZeroCopy.from_dlpack(back) == {:ok, [[1, 2, 3], [4, 5, 6]]}
      assert ZeroCopy.to_binary(back) == {:ok, <<1, 2, 3, 4, 5, 6>>}
    end
  end

  test "a handle that a tool makes is a struct, whatever the size of its data" do
    start()

    for size <- [0, 1, 63, 65, 4096, 100_000, 5 * @mib] do
      assert %ZeroCopyRef{owner: :python, bytes: ^size, shape: {^size}} =
               ref = run("make", %{size: size})

      assert {:ok, %Tensor{data: data, dtype: "uint8"}} = ZeroCopy.from_dlpack(ref)
      assert data == for(n <- 0..(size - 1)//1, into: <<>>, do: <<n>>)
      assert %{"sum" => sum, "shape" => [^size]} = run("describe", %{handle: ref})
      assert sum == data |> :binary.bin_to_list() |> Enum.sum()
      assert ZeroCopy.close(ref) == :ok
      assert ZeroCopy.from_dlpack(ref) == {:error, :zero_copy_handle_not_found}
    end
  end

  test "chunks have handles too" do
    start()
    test = self()
    sizes = [10, 100_000, 3]

    assert :ok =
             Snakepit.execute_stream("stream", %{sizes: sizes}, fn chunk ->
               send(test, chunk["handle"])
             end)

    for size <- sizes do
      assert_received %ZeroCopyRef{bytes: ^size} = ref
      assert {:ok, data} = ZeroCopy.to_binary(ref)
      assert byte_size(data) == size
    end
  end

  test "Elixir's tools get handles and give them" do
    start()
    session = "handles-#{System.pid()}-#{System.unique_integer([:positive])}"
    on_exit(fn -> if Process.whereis(SessionStore), do: SessionStore.delete_session(session) end)

    twice = fn %{"value" => ref} ->
      {:ok, data} = ZeroCopy.to_binary(ref)
      {:ok, ref} = ZeroCopy.to_dlpack(data <> data, dtype: :u8, shape: {2, byte_size(data)})
      %{"twice" => ref}
    end

    exposed = %{exposed_to_python: true}
    :ok = ToolRegistry.register_elixir_tool(session, "handle_tool", twice, exposed)

    for size <- [3, 100_000] do
      {:ok, ref} = ZeroCopy.to_dlpack(:binary.copy(<<5>>, size))

      assert %{"twice" => %ZeroCopyRef{shape: {2, ^size}} = back} =
               run("through", %{value: ref}, session_id: session)

      assert ZeroCopy.to_binary(back) == {:ok, :binary.copy(<<5>>, 2 * size)}
    end
  end

  test "one that is closed or has no bytes is refused before the call" do
    start()
    {:ok, closed} = ZeroCopy.to_dlpack(<<1>>)
    :ok = ZeroCopy.close(closed)
    {:ok, local} = ZeroCopy.to_dlpack(%{only: :here})

    for ref <- [closed, local, %{closed | ref: make_ref()}] do
      assert {:error, %Error{message: message}} = Snakepit.execute("describe", %{handle: ref})

      assert message =~ "handle" and message =~ "closed handle"
    end

    assert run("echo", %{value: 1}) == 1
  end

  test "two workers get the same handle, and what one made goes to the other" do
    start(pool_size: 2)
    {:ok, ref} = ZeroCopy.to_dlpack(:binary.copy(<<3>>, 200_000))

    sums =
      1..4
      |> Enum.map(fn _ -> Task.async(fn -> run("describe", %{handle: ref})["sum"] end) end)
      |> Task.await_many(60_000)

    assert sums == List.duplicate(600_000, 4)
    made = run("make", %{size: 100_000})
    sums = for _ <- 1..4, do: run("describe", %{handle: made})["sum"]
    assert [_] = Enum.uniq(sums)
  end

  test "bytes of 5 and 64 MiB go there and back, in one piece and in chunks" do
    start()

    for mib <- [5, 64] do
      size = mib * @mib
      data = :binary.copy(<<0x81>>, size)
      assert run("produce", %{size: size}) |> plain() == data
      digest = :crypto.hash(:sha256, data) |> Base.encode16(case: :lower)
      assert %{"size" => ^size, "digest" => ^digest} = run("digest", %{data: data})
      {:ok, ref} = ZeroCopy.to_dlpack(data)
      assert %ZeroCopyRef{bytes: ^size} = back = run("echo", %{value: ref})
      assert ZeroCopy.to_binary(back) == {:ok, data}
    end

    test = self()
    send_size = &send(test, {:chunk, &1["data"] && byte_size(plain(&1["data"]))})
    args = %{size: 5 * @mib, count: 3}
    assert Snakepit.execute_stream("produce_chunks", args, send_size) == :ok

    for _ <- 1..3 do
      assert_received {:chunk, size} when size == 5 * @mib
    end
  end

  defp plain({:binary, bytes}), do: bytes
  defp plain(bytes), do: bytes

  test "the settings are told to workers" do
    start_pools(zero_copy: [enabled: true, threshold: 123])
    assert run("env", %{name: "SNAKEPIT_ZERO_COPY"}) == "1"
    assert run("env", %{name: "SNAKEPIT_ZERO_COPY_THRESHOLD"}) == "123"
  end

  test "a pool has its own" do
    pool = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env, :transport]))

    start_pools(
      pools: [
        Map.merge(pool, %{name: :off, pool_size: 1, zero_copy: [threshold: :infinity]}),
        Map.merge(pool, %{name: :on, pool_size: 1, zero_copy: %{enabled: true}})
      ],
      zero_copy: %{threshold: 4096}
    )

    env = fn pool, name -> run("env", %{name: name}, pool: pool) end
    assert env.(:off, "SNAKEPIT_ZERO_COPY_THRESHOLD") == "0"
    assert env.(:on, "SNAKEPIT_ZERO_COPY_THRESHOLD") == "4096"
    assert env.(:off, "SNAKEPIT_ZERO_COPY") == nil
    assert env.(:on, "SNAKEPIT_ZERO_COPY") == "1"
  end

  test "what there is can be asked" do
    start()
    assert %{enabled: false, threshold: 65_536, handles: n, pools: pools} = ZeroCopy.info()
    assert is_integer(n) and Map.keys(pools) == [:default]
    assert ZeroCopy.info().available == ZeroCopy.available?()
  end

  test "an event is told of what is taken from a result" do
    start()
    test = self()

    :ok =
      Telemetry.attach(
        "zero copy calls",
        [:snakepit, :zero_copy, :import],
        fn _, measurements, metadata, _ -> send(test, {measurements, metadata}) end,
        nil
      )

    on_exit(fn -> Telemetry.detach("zero copy calls") end)
    assert {:ok, _} = ZeroCopy.from_dlpack(run("make", %{size: 70_000}))
    assert_received {%{bytes: 70_000}, %{kind: :dlpack, dtype: "uint8", shape: {70_000}}}
  end
end
