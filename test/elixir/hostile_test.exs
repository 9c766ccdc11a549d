defmodule Snakepit.HostileTest do
  # A worker that breaks the rules of the local carrier costs its own calls: they
  # end with an error that says so, and the pool works again afterwards.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{Error, GRPCWorker, Native, OSProcess, PythonRuntime}
  alias Snakepit.Pool.ProcessRegistry
  alias Snakepit.Pool.Registry, as: Workers
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
    def script_path, do: Path.expand("support/python/hostile_worker.py", __DIR__)
    @impl true
    def script_args, do: []
    @impl true
    def uses_grpc?, do: true
  end

  # Its first worker misbehaves, those after it do not.
  defp start_hostile(mode), do: start_pools(settings(mode))

  defp settings(mode) do
    [
      adapter_module: Hostile,
      adapter_args: [mode, signal_path() <> ".marker"],
      pool_reconcile_interval_ms: 1,
      # It would count as an answer to these, which is not what is tested.
      heartbeat: %{enabled: false},
      transport: :local
    ]
  end

  defp call(opts \\ []), do: Snakepit.execute("pid", %{}, Keyword.put_new(opts, :timeout, @long))

  # The test's process is the caller.
  defp assert_no_message do
    assert stop_app() == []
    assert Process.info(self(), :messages) == {:messages, []}
  end

  defp gone?({pid, time}), do: not OSProcess.alive?(pid, time)

  # ---- the connection ends ------------------------------------------------

  for mode <- ~w(garbage length_2_31 length_max reserved written_ahead written_back written_2_63
                 scribble half_a_frame hang_up talk asks_nothing asks_twice
                 asks_and_does_not_listen) do
    test "#{mode}: the call that runs fails, the worker is replaced" do
      start_hostile(unquote(mode))
      [{pid, _} = first] = os_processes()

      assert {:error, %Error{category: :worker, details: %{reason: :worker_exit}}} = call()
      assert {:ok, second} = call()
      assert second != pid
      assert gone?(first)
      assert_no_message()
    end
  end

  test "calls that wait for a worker that breaks the rules are run by the next" do
    start_hostile("garbage")
    [{first, _}] = os_processes()

    answers =
      1..8
      |> Enum.map(fn _ -> Task.async(fn -> {call(), Process.info(self(), :messages)} end) end)
      |> Task.await_many(2 * @long)

    assert Enum.all?(answers, &(elem(&1, 1) == {:messages, []}))
    {good, bad} = answers |> Enum.map(&elem(&1, 0)) |> Enum.split_with(&match?({:ok, _}, &1))
    assert [{:error, %Error{details: %{reason: :worker_exit}}}] = bad
    assert [{:ok, second}] = Enum.uniq(good)
    assert second != first
    assert_no_message()
  end

  test "a stream on a worker that breaks the rules fails" do
    start_hostile("reserved")
    none = fn _chunk -> flunk("no chunk was sent") end

    assert {:error, %Error{details: %{reason: :worker_exit}}} =
             Snakepit.execute_stream("pid", %{}, none, timeout: @long)

    assert {:ok, _} = call()
    assert_no_message()
  end

  test "a call that cannot be written, for the worker claims to have read too much, fails" do
    start_hostile("read_ahead")
    assert {:ok, first} = call()
    assert {:error, %Error{category: :worker, details: %{reason: :worker_exit}}} = call()
    assert {:ok, second} = call()
    assert second != first
    assert_no_message()
  end

  test "a worker that never answers: time-out, then it is replaced" do
    start_hostile("silence")
    [{first, _}] = os_processes()
    {:ok, target} = Targets.find(:default)
    :ok = Native.pool_set_cancel_grace(target.handle, 1)

    assert {:error, %Error{category: :timeout}} = call(timeout: 50)
    assert {:ok, second} = call()
    assert second != first
    assert_no_message()
  end

  # ---- the frame is dropped -----------------------------------------------

  for mode <- ~w(strays chunks twice pongs kinds empty_kinds beams_kinds deaf cut) do
    test "#{mode}: the right answer comes all the same" do
      start_hostile(unquote(mode))
      [{first, _}] = os_processes()
      for _ <- 1..3, do: assert(call() == {:ok, first})
      assert_no_message()
    end
  end

  for mode <- ~w(last_words last_words_unheard) do
    test "#{mode}: what it answers before it ends counts" do
      start_hostile(unquote(mode))
      [{first, _}] = os_processes()
      assert call() == {:ok, first}
      # Until its end is seen it may be given a call, which it does not answer.
      eventually(fn -> match?({:ok, second} when second != first, call()) end)
      assert_no_message()
    end
  end

  test "last_words_of_a_stream: all of it comes" do
    start_hostile("last_words_of_a_stream")
    test = self()
    opts = [timeout: @long]
    assert :ok = Snakepit.execute_stream("pid", %{}, &send(test, {:chunk, &1}), opts)
    for _ <- 1..10, do: assert_received({:chunk, _})
    eventually(fn -> match?({:ok, _}, call()) end)
    assert_no_message()
  end

  test "answers to pings that were not sent are kept from the worker's process" do
    start_hostile("pongs")
    [id] = Snakepit.list_workers()
    {:ok, worker} = Workers.get_worker_pid(id)
    :erlang.trace(worker, true, [:receive])
    assert {:ok, _} = call()
    assert {:ok, %{healthy: true}} = GRPCWorker.get_health(id)
    :erlang.trace(worker, false, [:receive])
    delivered = :erlang.trace_delivered(worker)
    assert_receive {:trace_delivered, ^worker, ^delivered}, @long
    assert [_the_one_that_was_sent] = traced_pongs([])
    assert_no_message()
  end

  defp traced_pongs(found) do
    receive do
      {:trace, _, :receive, {:snakepit_local, _, {:pong, n, 0}}} -> traced_pongs([n | found])
      {:trace, _, :receive, _} -> traced_pongs(found)
    after
      0 -> found
    end
  end

  test "a stream that sends more than it was allowed loses its worker, not the caller's memory" do
    start_hostile("over_credit")
    [first] = os_processes()

    # Asks for nothing more before the worker is gone.
    callback = fn _chunk ->
      eventually(fn -> first not in os_processes() end)
      Process.put(:most, max(waiting_messages(), Process.get(:most, 0)))
    end

    assert {:error, %Error{category: :worker}} =
             Snakepit.execute_stream("pid", %{}, callback, timeout: @long)

    # The rest of the 16 that a stream starts with, and its end, which may come later.
    assert Process.get(:most) in 15..16
    assert {:ok, _other} = call()
    assert_no_message()
  end

  # ---- inputs -------------------------------------------------------------

  for mode <- ~w(wants_max wants_17 wants_short wants_long wants_blindly) do
    test "#{mode}: who asks for too many inputs is replaced, few were made" do
      start_hostile(unquote(mode))
      [first] = os_processes()
      made = :counters.new(1, [])

      inputs =
        Stream.repeatedly(fn ->
          :counters.add(made, 1, 1)
          :binary.copy("x", 1024)
        end)

      assert {:error, %Error{category: :worker, details: %{reason: :worker_exit}}} =
               call(inputs: inputs)

      # A ring full of them, and some that wait for room.
      assert :counters.get(made, 1) <= 256
      assert {:ok, _} = call()
      assert gone?(first)
      assert_no_message()
    end
  end

  test "inputs that are asked for and never read keep a call until its deadline" do
    start_hostile("silence")
    assert {:error, %Error{category: :timeout}} = call(inputs: [1], timeout: 200)
    assert_no_message()
  end

  for {mode, inputs} <- [wants_strays: [1, 2], wants_after_the_end: [], wants_none: nil] do
    test "#{mode}: dropped, and the answer counts" do
      start_hostile(unquote(to_string(mode)))
      [{first, _}] = os_processes()
      assert call(inputs: unquote(inputs)) == {:ok, first}
      assert call() == {:ok, first}
      assert_no_message()
    end
  end

  # ---- calls that lie ahead -----------------------------------------------

  for mode <- ~w(unclaimed unclaimed_twice scribbled_claims cleared_claims) do
    test "#{mode}: each call has one answer, whatever is said of those ahead" do
      start_pools([pool_size: 2] ++ settings(unquote(mode)))
      pids = for {pid, _} <- os_processes(), do: pid

      answers =
        1..32
        |> Enum.map(fn _ ->
          Task.async(fn ->
            {for(_ <- 1..100, do: call()), Process.info(self(), :messages)}
          end)
        end)
        |> Task.await_many(2 * @long)

      for {all, left} <- answers do
        assert left == {:messages, []}
        assert Enum.all?(all, fn {:ok, pid} -> pid in pids end)
      end

      {:ok, target} = Targets.find(:default)
      stats = Native.pool_stats(target.handle)
      assert %{requests: 3200, completed: 3200, running: 0, queued: 0, slots: 2} = stats
      assert_no_message()
    end
  end

  test "claimed_for_good: what it holds ends by its time-out, the rest is run by the next" do
    start_hostile("claimed_for_good")
    [{first, _}] = os_processes()
    {:ok, target} = Targets.find(:default)
    :ok = Native.pool_set_cancel_grace(target.handle, 1)

    # On a busy machine it is not at once known to be quick.
    eventually(fn ->
      for _ <- 1..50, do: call(timeout: 2_000)

      answers =
        1..32
        |> Enum.map(fn _ -> Task.async(fn -> call(timeout: 2_000, queue_timeout: @long) end) end)
        |> Task.await_many(2 * @long)

      for answer <- answers do
        assert match?({:ok, _}, answer) or
                 match?(
                   {:error, %Error{category: c}} when c in [:timeout, :worker, :pool],
                   answer
                 )
      end

      match?({:ok, second} when second != first, call())
    end)

    assert %{running: 0, queued: 0} = Native.pool_stats(target.handle)
    assert_no_message()
  end

  # ---- the answer cannot be read ------------------------------------------

  for mode <- ~w(protobuf protobuf_cut protobuf_length cbor_cut cbor_reserved cbor_deep
                 cbor_length cbor_array cbor_map cbor_text cbor_two) do
    test "#{mode}: the call says that the answer cannot be read, the worker stays" do
      start_hostile(unquote(mode))
      [{first, _}] = os_processes()
      assert {:error, %Error{category: :worker} = error} = call()
      assert {:decode, text} = error.details.reason
      assert error.message =~ "the worker's answer cannot be read: " <> text
      assert call() == {:ok, first}
      assert_no_message()
    end
  end

  test "a key that stands twice in a map is an error in CBOR, in plain JSON the last counts" do
    start_hostile("cbor_duplicate")
    [{first, _}] = os_processes()
    assert {:error, %Error{category: :worker, details: %{reason: {:decode, text}}}} = call()
    assert text =~ "twice"
    assert call() == {:ok, first}
    assert Native.json_decode(~s({"a":1,"a":2})) == {:ok, %{"a" => 2}}
    assert_no_message()
  end

  # ---- the handshake ------------------------------------------------------

  for mode <- ~w(wrong_token wrong_magic short_hello broken_at_once exits_in_hello
                 exits_after_hello) do
    test "#{mode}: it is turned away, the next one is let in" do
      {:ok, _} = start_app(Keyword.merge(defaults(), settings(unquote(mode))))
      eventually(fn -> match?({:ok, _}, call()) end)
      assert {:ok, pid} = call()
      # Without the one that was turned away, which may still be ending.
      assert [^pid] = ProcessRegistry.get_active_process_pids()
      assert_no_message()
    end
  end

  test "connections that say nothing keep nobody out" do
    start_hostile("silent")
    [{first, _}] = os_processes()
    assert call() == {:ok, first}
    assert_no_message()
  end
end
