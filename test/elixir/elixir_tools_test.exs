defmodule Snakepit.ElixirToolsTest do
  # Python calls Elixir. Runs once for each carrier: see `make test`.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.{SessionStore, ToolContext, ToolRegistry}
  alias Snakepit.Error

  @patience 60_000

  setup do
    start_pools(pools())
    session = "tools-#{System.pid()}-#{System.unique_integer([:positive])}"

    on_exit(fn ->
      if Process.whereis(SessionStore), do: SessionStore.delete_session(session)
      if Process.whereis(ToolRegistry), do: ToolRegistry.cleanup_session(:all_sessions)
    end)

    %{session: session, opts: [session_id: session, timeout: @patience]}
  end

  defp pools do
    pool = &Map.merge(%{adapter_args: ["--adapter", "elixir_calls.ElixirCalls"]}, &1)

    [
      pools: [
        pool.(%{name: :default, pool_size: 1}),
        pool.(%{name: :two, pool_size: 2}),
        pool.(%{
          name: :threads,
          pool_size: 1,
          worker_profile: :thread,
          threads_per_worker: 120,
          adapter_args: ["--adapter", "elixir_calls.ThreadedElixirCalls"]
        })
      ]
    ]
    |> Enum.map(fn {:pools, list} -> {:pools, Enum.map(list, &with_env/1)} end)
  end

  defp with_env(pool),
    do: pool |> Map.merge(%{adapter_env: test_env(), transport: transport()}) |> in_profile()

  defp transport, do: defaults()[:transport]
  defp local?, do: transport() != :grpc

  defp expose(session, name, fun) do
    :ok = ToolRegistry.register_elixir_tool(session, name, fun, %{exposed_to_python: true})
  end

  # The tool says that it runs, and does so until its process ends.
  defp expose_hold(session) do
    test = self()

    expose(session, "hold", fn _ ->
      send(test, {:holding, self()})
      Process.sleep(:infinity)
    end)
  end

  # To be there before the end, so that it says why.
  defp await_holding do
    assert_receive {:holding, pid}, @patience
    Process.monitor(pid)
  end

  # With more time where that was over before the Elixir tool ran.
  defp while_holding(ms, call) do
    assert ms < 2 * @patience
    %Task{ref: ref} = task = Task.async(fn -> call.(ms) end)

    receive do
      {:holding, pid} -> {task, Process.monitor(pid)}
      {^ref, _late} -> Process.demonitor(ref, [:flush]) && while_holding(2 * ms, call)
    end
  end

  defp await_end(monitor) do
    assert_receive {:DOWN, ^monitor, :process, _, reason}, @patience
    reason
  end

  # ---- calls --------------------------------------------------------------

  test "every way to write a call", %{session: session, opts: opts} do
    expose(session, "pair", fn %{"a" => a, "b" => b} = params when map_size(params) == 2 ->
      [a, b]
    end)

    assert {:ok, answers} = Snakepit.execute("forms", %{}, opts)
    assert answers == List.duplicate([1, 2], 7)
  end

  test "values are the same on both sides", %{session: session, opts: opts} do
    expose(session, "same", & &1["value"])

    for value <- [
          nil,
          true,
          0,
          -1,
          2 ** 63,
          -(2 ** 100),
          1.5,
          "",
          "zwölf",
          [],
          %{},
          [1, [2, [3]]],
          %{"a" => %{"b" => nil}},
          {1, {2, "x"}},
          List.duplicate(%{"n" => 1}, 1_000),
          String.duplicate("é", 300_000)
        ],
        tool <- ["call", "call_async"] do
      assert {:ok, ^value} = Snakepit.execute(tool, %{name: "same", args: %{value: value}}, opts)
    end
  end

  test "bytes, structs and what a tool says", %{session: session, opts: opts} do
    expose(session, "wrapped", fn _ -> {:ok, %{x: 1}} end)
    expose(session, "date", fn _ -> %{on: ~D[2024-02-29]} end)
    expose(session, "binary", fn _ -> {:binary, <<0, 255>>} end)
    expose(session, "binary_meta", fn _ -> {:binary, <<1>>, %{n: 1}} end)
    call = &Snakepit.execute("call", %{name: &1}, opts)
    assert {:ok, %{"x" => 1}} = call.("wrapped")
    assert {:ok, %{"on" => _}} = call.("date")
    assert {:ok, <<0, 255>>} = bytes(call.("binary"))
    assert {:ok, {<<1>>, %{"n" => 1}}} = bytes(call.("binary_meta"))
  end

  # A top-level result of bytes has a form of its own.
  defp bytes({:ok, {:binary, bytes}}), do: {:ok, bytes}
  defp bytes(other), do: other

  test "what is exposed is listed, with its parameters", %{session: session, opts: opts} do
    ToolRegistry.register_elixir_tool(session, "hidden", fn _ -> 1 end)

    ToolRegistry.register_elixir_tool(session, "shown", fn _ -> 1 end, %{
      description: "Shown",
      exposed_to_python: true,
      parameters: [%{name: "a", type: "integer", required: true}]
    })

    assert {:ok, %{"tools" => tools, "names" => ["shown"]}} =
             Snakepit.execute("listed", %{}, opts)

    assert tools == %{
             "shown" => %{
               "name" => "shown",
               "description" => "Shown",
               "parameters" => %{
                 "a" => %{"type" => "integer", "description" => "", "required" => true}
               }
             }
           }
  end

  test "a tool for all sessions needs none", %{opts: opts} do
    :ok = ToolRegistry.register_elixir_tool("everywhere", fn _ -> "here" end, %{})
    assert {:ok, "here"} = Snakepit.execute("call", %{name: "everywhere"}, timeout: @patience)
    assert {:ok, "here"} = Snakepit.execute("call", %{name: "everywhere"}, opts)
  end

  # ---- the context --------------------------------------------------------

  test "the tool knows the call that it runs for", %{session: session, opts: opts} do
    expose(session, "context", fn _ ->
      context = ToolContext.current()
      left = ToolContext.time_left()

      %{
        tool: context.tool,
        session: context.session_id,
        correlation: context.correlation_id,
        logger: Logger.metadata()[:correlation_id],
        worker: context.worker_id,
        path: context.path,
        # gRPC rounds deadlines up.
        bounded: is_integer(left) and left > 0 and left <= 1.1 * @patience
      }
    end)

    opts = Keyword.put(opts, :correlation_id, "mine")
    assert {:ok, got} = Snakepit.execute("call", %{name: "context"}, opts)
    [worker | _] = Snakepit.Pool.list_workers(Snakepit.Pool, :default)

    assert got == %{
             "tool" => "context",
             "session" => session,
             "correlation" => "mine",
             "logger" => "mine",
             "worker" => worker,
             "path" => %{"default" => 1},
             "bounded" => true
           }

    assert ToolContext.current() == nil
    assert ToolContext.time_left() == :infinity
  end

  test "the context of a call", %{session: session, opts: opts} do
    opts = Keyword.put(opts, :correlation_id, "c-1")

    assert {:ok, %{"session_id" => ^session, "correlation_id" => "c-1", "cancelled" => false} = c} =
             Snakepit.execute("context", %{}, opts)

    assert c["has_deadline"] and c["remaining"] > 0 and c["remaining"] <= @patience / 1000 + 0.1
    assert c["time_remaining"] <= c["remaining"]

    assert {:ok, %{"has_deadline" => false, "remaining" => nil}} =
             Snakepit.execute("context", %{}, timeout: :infinity)
  end

  # ---- what goes wrong ----------------------------------------------------

  test "only tools that are exposed can be called", %{session: session, opts: opts} do
    expose(session, "known", fn _ -> 1 end)
    ToolRegistry.register_elixir_tool(session, "hidden", fn _ -> 1 end)
    :ok = ToolRegistry.register_python_tool(session, "remote", "some-worker")

    for name <- ["hidden", "remote", "none", ""], tool <- ["failure", "failure_async"] do
      assert {:ok, %{"class" => "UnknownElixirToolError", "message" => text, "bases" => bases}} =
               Snakepit.execute(tool, %{name: name}, opts)

      assert "ValueError" in bases
      assert text =~ "exposes no tool '#{name}' to session '#{session}'; it exposes: known"
    end

    assert {:error, %Error.ValueError{python_type: "UnknownElixirToolError"}} =
             Snakepit.execute("call", %{name: "none"}, opts)
  end

  test "an Elixir exception becomes one of Python", %{session: session, opts: opts} do
    expose(session, "raise", fn %{"text" => text} -> raise ArgumentError, text end)
    args = %{name: "raise", args: %{text: "not so"}}

    for tool <- ["failure", "failure_async"] do
      assert {:ok, report} = Snakepit.execute(tool, args, opts)
      assert %{"class" => "ElixirToolError", "tool" => "raise", "kind" => "error"} = report
      assert "RuntimeError" in report["bases"]
      assert report["type"] == "ArgumentError"
      assert report["message"] == "Elixir tool 'raise' failed: ArgumentError: not so"
      assert Enum.any?(report["stacktrace"], &(&1 =~ "elixir_tools_test.exs"))
      assert report["cause"] =~ "Elixir stacktrace"
      assert report["cause"] =~ "elixir_tools_test.exs"
    end

    # And back in Elixir both are there.
    assert {:error, %Error.RuntimeError{python_type: "ElixirToolError"} = error} =
             Snakepit.execute("call", args, opts)

    assert error.python_traceback =~ "elixir_calls.py"
    assert error.python_traceback =~ "elixir_tools_test.exs"
  end

  test "throws, exits, errors and what cannot be sent", %{session: session, opts: opts} do
    expose(session, "throw", fn _ -> throw(:ball) end)
    expose(session, "exit", fn _ -> exit(:bye) end)
    expose(session, "error", fn _ -> {:error, "not today"} end)
    expose(session, "clause", fn %{"never" => x} -> x end)
    expose(session, "unencodable", fn _ -> %{inner: [self()]} end)
    expose(session, "suicide", fn _ -> Process.exit(self(), :kill) end)
    expose(session, "leaves", fn _ -> Process.exit(self(), :normal) end)
    failure = &(Snakepit.execute("failure", %{name: &1}, opts) |> elem(1))
    assert %{"kind" => "throw", "message" => text} = failure.("throw")
    assert text =~ "thrown: :ball"
    assert %{"kind" => "exit", "message" => text} = failure.("exit")
    assert text =~ ":bye"
    assert %{"kind" => "returned", "message" => text} = failure.("error")
    assert text =~ "not today"
    assert %{"kind" => "error", "type" => "FunctionClauseError"} = failure.("clause")
    assert %{"kind" => "result", "message" => text} = failure.("unencodable")
    assert text =~ "result[:inner][0] is a pid"

    for name <- ~w(suicide leaves) do
      assert %{"kind" => "transport", "message" => text} = failure.(name)
      assert text =~ "process died"
    end

    assert {:ok, _} = Snakepit.execute("pid", %{}, opts)
  end

  test "arguments that cannot be sent are refused in Python", %{session: session, opts: opts} do
    expose(session, "same", & &1)
    deep = Enum.reduce(1..200, 0, fn _, inner -> [inner] end)

    assert {:ok, %{"class" => _}} =
             Snakepit.execute("failure", %{name: "same", args: %{deep: deep}}, opts)
             |> then(fn {:ok, got} -> {:ok, Map.put_new(got, "class", nil)} end)
  end

  test "the traceback of Python survives its way through Elixir", %{session: session} = c do
    expose(session, "through", fn _ ->
      with {:error, error} <- Snakepit.execute("fail", %{text: "lost"}, pool: :two),
           do: raise(error)
    end)

    expose(session, "tuple", fn _ -> Snakepit.execute("fail", %{text: "lost"}, pool: :two) end)

    for name <- ["through", "tuple"] do
      assert {:ok, report} = Snakepit.execute("failure", %{name: name}, c.opts)
      assert %{"python_type" => "KeyError", "python_traceback" => trace} = report
      assert trace =~ "elixir_calls.py"
      assert trace =~ "KeyError: 'lost'"
      assert report["cause"] =~ "KeyError: 'lost'"
    end
  end

  # ---- at the same time ---------------------------------------------------

  test "coroutines and threads call at the same time", %{session: session, opts: opts} do
    expose_meet(session)

    for {tool, pool} <- [
          {"gather", :default},
          {"threads", :default},
          {"gather", :threads},
          {"threads", :threads}
        ] do
      assert {:ok, got} =
               Snakepit.execute(tool, %{name: "meet", count: 30}, [{:pool, pool} | opts])

      assert got == Enum.to_list(0..29)
    end
  end

  # Returns when `n` are here.
  defp expose_meet(session) do
    {:ok, meeting} = Agent.start_link(fn -> [] end)

    expose(session, "meet", fn %{"i" => i, "n" => n} ->
      me = self()

      all =
        Agent.get_and_update(meeting, fn waiting ->
          all = [me | waiting]
          {all, if(length(all) == n, do: [], else: all)}
        end)

      if length(all) == n, do: Enum.each(all, &send(&1, :all_here))
      receive(do: (:all_here -> i))
    end)
  end

  test "a slow tool holds up no other of the same worker", %{session: session, opts: opts} do
    expose_hold(session)
    expose(session, "quick", fn _ -> 1 end)
    opts = [{:pool, :threads} | opts]
    slow = Snakepit.async("call", %{name: "hold"}, opts)
    holder = await_holding()
    for _ <- 1..20, do: assert({:ok, 1} = Snakepit.execute("call", %{name: "quick"}, opts))
    Snakepit.cancel(slow)
    await_end(holder)
  end

  # ---- giving up ----------------------------------------------------------

  for tool <- ["call", "call_async"] do
    test "the deadline ends the Elixir tool, too: #{tool}", %{session: session} = c do
      expose_hold(session)
      {:ok, pid} = Snakepit.execute("pid", %{}, c.opts)

      opts = [session_id: session]
      call = &Snakepit.execute(unquote(tool), %{name: "hold"}, [timeout: &1] ++ opts)
      {task, holder} = while_holding(2_000, call)
      assert {:error, %Error{category: :timeout}} = Task.await(task, @patience)
      assert {:shutdown, :rpc_cancelled} = await_end(holder)
      # It was the tool that ended, not its worker.
      assert {:ok, ^pid} = Snakepit.execute("pid", %{}, c.opts)
    end

    test "a caller that dies ends it: #{tool}", %{session: session} = c do
      expose_hold(session)
      {:ok, pid} = Snakepit.execute("pid", %{}, c.opts)
      caller = spawn(fn -> Snakepit.execute(unquote(tool), %{name: "hold"}, c.opts) end)
      holder = await_holding()
      Process.exit(caller, :kill)
      assert {:shutdown, :rpc_cancelled} = await_end(holder)
      assert {:ok, ^pid} = Snakepit.execute("pid", %{}, c.opts)
    end
  end

  test "a worker that dies ends what it asked for", %{session: session} = c do
    expose_hold(session)
    {:ok, os_pid} = Snakepit.execute("pid", %{}, c.opts)
    task = Task.async(fn -> Snakepit.execute("call", %{name: "hold"}, c.opts) end)
    holder = await_holding()
    kill(os_pid)
    assert {:shutdown, :rpc_cancelled} = await_end(holder)
    assert {:error, %Error{category: :worker}} = Task.await(task, @patience)
  end

  test "a coroutine that is cancelled ends its Elixir tool", %{session: session, opts: opts} do
    expose_hold(session)
    test = self()

    expose(session, "after", fn _ ->
      send(test, {:asks, self()})
      receive(do: (:go -> "first"))
    end)

    task = Task.async(fn -> Snakepit.execute("race", %{winner: "after", loser: "hold"}, opts) end)

    holder = await_holding()
    assert_receive {:asks, winner}, @patience
    send(winner, :go)
    assert {:shutdown, :rpc_cancelled} = await_end(holder)
    assert {:ok, ["first"]} = Task.await(task, @patience)
  end

  # ---- back and forth -----------------------------------------------------

  test "an Elixir tool calls the pool that waits for it", %{session: session, opts: opts} do
    for pool <- [:default, :two, :threads],
        do: expose(session, "add_#{pool}", fn p -> Snakepit.execute("add", p, pool: pool) end)

    add = fn pool, on ->
      args = %{name: "add_#{on}", args: %{a: 1, b: 2}}
      Snakepit.execute("call", args, [{:pool, pool} | opts])
    end

    assert {:ok, 3} = add.(:default, :two)
    assert {:ok, 3} = add.(:two, :two)
    assert {:ok, 3} = add.(:threads, :threads)
    # The only worker waits for this very call.
    assert {:error, %Error.RuntimeError{message: text}} = add.(:default, :default)
    assert text =~ "pool :default run calls that wait for this one"
    assert {:ok, _} = Snakepit.execute("pid", %{}, opts)
  end

  test "a hundred calls deep, and no deeper than allowed", %{session: session, opts: opts} do
    expose(session, "down", fn %{"left" => left} ->
      args = %{name: "down", left: left - 1}
      options = [pool: :threads, session_id: session, timeout: @patience]

      case Snakepit.execute("descend", args, options) do
        {:ok, depth} -> {:ok, depth + 1}
        {:error, error} -> {:error, error}
      end
    end)

    descend = fn left ->
      Snakepit.execute("descend", %{name: "down", left: left}, [{:pool, :threads} | opts])
    end

    assert {:ok, 99} = descend.(99)
    assert {:error, %Error.RuntimeError{message: text}} = descend.(100)
    assert text =~ "100 calls wait for one another already"
    assert {:ok, 10} = descend.(10)
  end

  test "a call of a tool inherits deadline and correlation id", %{session: session, opts: opts} do
    expose(session, "inner", fn _ -> Snakepit.execute("context", %{}, pool: :two) end)
    opts = Keyword.merge(opts, timeout: 50_000, correlation_id: "outer")
    assert {:ok, inner} = Snakepit.execute("call", %{name: "inner"}, opts)
    assert inner["correlation_id"] == "outer"
    # Of 50 s; over gRPC the worker has a moment more. By itself a call has 60.
    assert inner["remaining"] < 55
  end

  # ---- the stub, and tools of workers -------------------------------------

  test "the stub is there for old code", %{session: session, opts: opts} do
    expose(session, "twice", fn %{"value" => v} -> [v, Logger.metadata()[:correlation_id]] end)
    args = %{name: "twice", value: "[1,2]"}
    assert {:ok, %{"success" => true, "value" => json}} = Snakepit.execute("by_stub", args, opts)
    json = with {:binary, bytes} <- json, do: bytes
    assert {:ok, [[1, 2], "by-stub"]} = Snakepit.Native.json_decode(json)

    assert {:ok, got} = Snakepit.execute("service", %{}, opts)

    assert got == %{
             "pong" => "pong",
             "began" => true,
             "valid" => true,
             "same" => true,
             "ended" => true,
             "code" => "NOT_FOUND"
           }

    expose_hold(session)
    stub = &Snakepit.execute("stub_times_out", %{name: "hold", seconds: &1 / 1000}, opts)
    {task, holder} = while_holding(500, stub)
    assert {:ok, "DEADLINE_EXCEEDED"} = Task.await(task, @patience)
    await_end(holder)
  end

  test "tools that a worker registers are called by name", %{session: session, opts: opts} do
    assert {:ok, names} = Snakepit.execute("register", %{}, opts)
    assert "add" in names
    [worker | _] = Snakepit.Pool.list_workers(Snakepit.Pool, :default)

    assert {:ok, %{type: :remote, worker_id: ^worker}} = ToolRegistry.get_tool(session, "add")
    assert {:ok, 3} = ToolRegistry.execute_tool(session, "add", %{"a" => 1, "b" => 2})

    assert {:error, %Error.KeyError{}} =
             ToolRegistry.execute_tool(session, "fail", %{"text" => "x"})

    assert {:error, {:tool_not_local, "add"}} =
             ToolRegistry.execute_local_tool(session, "add", %{})

    # Registered again, they are what they were.
    assert {:ok, ^names} = Snakepit.execute("register", %{}, opts)
  end

  test "what the worker may not have under way is refused", %{session: session, opts: opts} do
    if local?() do
      test = self()

      expose(session, "wait", fn _ ->
        send(test, {:waits, self()})
        receive(do: (:go -> 1))
      end)

      max = Snakepit.Bridge.WorkerRequests.max()
      args = %{name: "wait", count: max + 1}
      task = Task.async(fn -> Snakepit.execute("gather", args, opts) end)
      for _ <- 1..max, do: assert_receive({:waits, _}, @patience)
      assert {:error, %Error.RuntimeError{message: text}} = Task.await(task, @patience)
      assert text =~ "too many requests under way"
    end
  end
end
