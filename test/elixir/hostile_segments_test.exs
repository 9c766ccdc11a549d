defmodule Snakepit.HostileSegmentsTest do
  # A worker that lies about memory costs its own calls, and nothing stays behind.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Native, PythonRuntime}
  alias Snakepit.Pool.Targets

  @moduletag :capture_log

  # Nothing takes so long unless it hangs.
  @long 60_000

  defmodule Hostile do
    @behaviour Snakepit.Adapter
    @impl true
    def executable_path do
      {:ok, path, _} = PythonRuntime.resolve_executable()
      path
    end

    @impl true
    def script_path, do: Path.expand("support/python/hostile_segments.py", __DIR__)
    @impl true
    def script_args, do: []
    @impl true
    def uses_grpc?, do: true
  end

  setup do
    before = Native.segment_info()

    on_exit(fn ->
      Native.segments_set_limit(before.max_bytes, before.max_descriptors)
      eventually(&nothing_left?/0)
    end)

    %{files: files()}
  end

  # Once the pools are gone.
  defp nothing_left? do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    match?(%{segments: 0, lent: 0, mapped: 0, bytes: 0, descriptors: 0}, Native.segment_info())
  end

  defp files, do: length(File.ls!("/proc/self/fd"))

  defp start_hostile(mode) do
    start_pools(
      adapter_module: Hostile,
      adapter_args: [mode, signal_path() <> ".marker"],
      pool_reconcile_interval_ms: 1,
      heartbeat: %{enabled: false},
      transport: :local
    )
  end

  defp call(size \\ 100_000),
    do: Snakepit.execute("pid", %{value: :binary.copy(<<255>>, size)}, timeout: @long)

  for mode <- ~w(unknown_id id_0 id_0_of_mine no_bytes too_many_bytes none_sent more_than_it_said
                 more_than_there_is more_of_the_beams unsealed may_be_written may_shrink may_grow
                 sealed_for_the_future a_pipe a_file in_shm twice_in_a_frame two_at_once
                 short_message without_descriptor number_of_the_beams thousands release_unknown
                 release_of_mine release_twice release_odd release_nothing attached_after_release
                 attached_to_pong more_entries_than_bytes too_many_entries dies
                 without_the_flag) do
    test "#{mode}: the call that runs fails, the worker is replaced", %{files: files} do
      start_hostile(unquote(mode))
      assert {:error, %Error{category: :worker, details: %{reason: :worker_exit}}} = call()
      assert {:ok, pid} = call()
      assert {:ok, ^pid} = call()
      stop_app()
      eventually(&nothing_left?/0)
      eventually(fn -> files() <= files + 5 end)
    end
  end

  for mode <- ~w(unasked unused strays fine) do
    test "#{mode}: the right answer comes all the same" do
      start_hostile(unquote(mode))
      assert {:ok, pid} = call()
      for _ <- 1..3, do: assert(call() == {:ok, pid})
      eventually(fn -> match?(%{lent: 0, mapped: 0}, Native.segment_info()) end)
    end
  end

  for mode <- ~w(index index_max offset offset_max length length_max no_list two four negative
                 texts not_text nothing_attached too_large) do
    test "#{mode}: the call fails, the worker goes on" do
      start_hostile(unquote(mode))
      assert {:error, %Error{} = error} = call()
      assert is_binary(Exception.message(error))
      assert {:ok, pid} = call()
      assert call() == {:ok, pid}
    end
  end

  # ---- limits ---------------------------------------------------------------

  defp handle do
    {:ok, target} = Targets.find(:default)
    target.handle
  end

  test "beyond the pool's limit values go inline" do
    start_hostile("fine")
    :ok = Native.pool_set_segments(handle(), %{max_bytes: 300_000})
    assert {:ok, pid} = call(400_000)
    assert call(200_000) == {:ok, pid}
    assert %{inline: 1, segments: 1, max_bytes: 300_000} = Native.pool_segments(handle())
  end

  test "beyond the VM's limits, too" do
    start_hostile("fine")
    :ok = Native.segments_set_limit(0, 100)
    assert {:ok, pid} = call()
    :ok = Native.segments_set_limit(1_000_000_000, 0)
    assert call() == {:ok, pid}
    assert %{inline: 2, segments: 0} = Native.pool_segments(handle())
    assert {:error, {:limit, _}} = Native.segment_alloc(nil, 10)
  end

  test "idle ones make room for one of another size" do
    start_hostile("fine")
    :ok = Native.pool_set_segments(handle(), %{max_bytes: 500_000})

    for size <- [100_000, 200_000, 300_000, 400_000, 100_000] do
      assert {:ok, _} = call(size)
      # The worker lets go a moment after its answer.
      eventually(fn -> Native.pool_segments(handle()).lent == 0 end)
    end

    assert %{inline: 0} = Native.pool_segments(handle())
  end

  test "no more is kept for later than was said, and the worker forgets the rest" do
    start_hostile("fine")
    :ok = Native.pool_set_segments(handle(), %{idle_bytes: 0})
    for _ <- 1..50, do: assert({:ok, _} = call())
    eventually(fn -> Native.pool_segments(handle()).segments == 0 end)
    eventually(fn -> Native.segment_info().descriptors == 0 end)
  end

  defp idle_after(size) do
    assert {:ok, _} = call(size)
    eventually(fn -> Native.pool_segments(handle()).lent == 0 end)
    Native.pool_segments(handle()).idle_bytes
  end

  test "as much as was in use at once is kept for a while" do
    start_hostile("fine")
    :ok = Native.pool_set_segments(handle(), %{idle_bytes: 100_000, idle_ms: 3_600_000})
    first = idle_after(400_000)
    assert first > 400_000
    assert idle_after(400_000) == first
    # Those of other sizes take its place, instead of being added to it.
    for size <- [300_000, 200_000, 300_000, 390_000], do: assert(idle_after(size) <= first)
    larger = idle_after(600_000)
    assert larger > 600_000
    assert idle_after(300_000) <= larger
    :ok = Native.pool_set_segments(handle(), %{idle_ms: 0})
    assert Native.pool_segments(handle()).idle_bytes <= 100_000
    assert idle_after(400_000) <= 100_000
    assert %{inline: 0} = Native.pool_segments(handle())
  end

  test "and then given back" do
    start_hostile("fine")
    :ok = Native.pool_set_segments(handle(), %{idle_bytes: 100_000, idle_ms: 20})
    for _ <- 1..20, do: assert({:ok, _} = call(400_000))
    eventually(fn -> Native.pool_segments(handle()).idle_bytes <= 100_000 end)
    eventually(fn -> match?(%{lent: 0, segments: 0}, Native.pool_segments(handle())) end)
  end

  test "what is kept for a while makes room for another pool's" do
    tools = ["fine", signal_path() <> ".marker"]
    pool = %{pool_size: 1, adapter_module: Hostile, adapter_args: tools}

    start_pools(
      pools: [Map.put(pool, :name, :default), Map.put(pool, :name, :other)],
      heartbeat: %{enabled: false},
      transport: :local
    )

    {:ok, other} = Targets.find(:other)

    for one <- [handle(), other.handle],
        do: :ok = Native.pool_set_segments(one, %{idle_bytes: 100_000, idle_ms: 3_600_000})

    :ok = Native.segments_set_limit(900_000, 100)
    assert idle_after(600_000) > 600_000
    args = %{value: :binary.copy(<<255>>, 600_000)}
    assert {:ok, _} = Snakepit.execute("pid", args, pool: :other, timeout: @long)
    assert %{idle_bytes: 0} = Native.pool_segments(handle())
    assert %{inline: 0, sent: 1} = Native.pool_segments(other.handle)
  end

  test "a threshold of one's own, and none" do
    start_hostile("fine")
    :ok = Native.pool_set_segments(handle(), %{threshold: 10})
    assert {:ok, _} = call(10)
    assert %{segments: 1, threshold: 10, shared: true} = Native.pool_segments(handle())
    :ok = Native.pool_set_segments(handle(), %{threshold: :infinity, idle_bytes: 0})
    assert {:ok, _} = call(10_000_000)
    assert %{segments: 0, threshold: :infinity, inline: 0} = Native.pool_segments(handle())
  end

  test "settings that make no sense are refused" do
    start_hostile("fine")

    for bad <- [
          %{threshold: 0},
          %{threshold: -1},
          %{max_bytes: "1"},
          %{idle_bytes: 1.5},
          %{idle_ms: -1},
          []
        ],
        do: assert_raise(ArgumentError, fn -> Native.pool_set_segments(handle(), bad) end)
  end
end
