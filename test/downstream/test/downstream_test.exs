defmodule DownstreamTest do
  use ExUnit.Case, async: false

  alias Downstream.{Callbacks, Client, Config, Environment, Errors}

  setup_all do
    :ok = Snakepit.Pool.await_ready(Snakepit.Pool, 60_000)
    :ok = Snakepit.Pool.await_init_complete(Snakepit.Pool, 60_000)
  end

  defp session do
    id = "downstream-#{System.unique_integer([:positive])}"
    on_exit(fn -> Snakepit.Bridge.SessionStore.delete_session(id) end)
    id
  end

  test "calls" do
    assert {:ok, 3.0} = Client.call("math", "sqrt", [9])
    assert {:ok, "Ab"} = Client.call("builtins", "str", ["Ab"], idempotent: true)

    assert {:ok, 11} = Client.call("builtins", "int", ["1011"], kwargs: %{"base" => 2})
    assert {:ok, %{"helpers" => ["numbers"], "context" => true}} = Client.helpers()
    assert {:ok, 2.0} = Client.call("math", "sqrt", [4], pool_name: :other)
  end

  test "Python's exceptions" do
    assert {:error, %Errors.PythonError{type: "ValueError", message: message} = error} =
             Client.call("math", "sqrt", [-1])

    assert message =~ "math domain error" or message =~ "nonnegative"
    assert error.traceback =~ "execute_tool"
    assert error.context["function"] == "sqrt"
    assert error.context["library"] == "math"

    assert {:error, %Errors.PythonError{type: "ZeroDivisionError"}} =
             Client.call("operator", "truediv", [1, 0])

    assert {:error, %Errors.PythonError{type: "ModuleNotFoundError"}} =
             Client.call("no_such_module", "f", [])

    {:error, reason} = Snakepit.execute("no.such.command", %{})
    assert %Errors.PythonError{type: "NotImplementedError"} = Errors.translate(reason)
  end

  test "errors of the pool" do
    assert {:error, %Snakepit.Error{category: :pool, details: %{reason: :pool_not_found}} = error} =
             Client.call("math", "sqrt", [1], pool_name: :none)

    assert "#{error}" =~ "none"
    assert is_binary(Exception.message(error))

    assert {:error, %Snakepit.Error{category: :timeout}} =
             Client.call("time", "sleep", [600], timeout: 200)

    assert %Snakepit.Error{category: :validation, message: "no", details: %{a: 1}} =
             Errors.invalid("no", %{a: 1})
  end

  test "objects stay in the worker of their session" do
    id = session()
    opts = [session_id: id, affinity: :strict_queue]
    {:ok, %{"pid" => pid} = ref} = Client.instantiate("downstream_adapter", "Counter", [5], opts)

    for n <- 1..10, do: assert({:ok, 5 + n} == Client.call_method(ref, "add", [1], opts))
    assert {:ok, ^pid} = Client.call("os", "getpid", [], opts)
    assert {:ok, true} = Client.release_ref(ref, opts)
    assert {:ok, false} = Client.release_ref(ref, opts)
    {:ok, _} = Client.instantiate("downstream_adapter", "Counter", [1], opts)
    assert {:ok, 1} = Client.release_session(id, affinity: :strict_queue)
    {:ok, session} = Snakepit.Bridge.SessionStore.get_session(id)
    assert session.last_worker_id in Snakepit.Pool.list_workers(Snakepit.Pool, :default)
  end

  test "streams" do
    test = self()
    on_value = fn value -> send(test, value) end
    assert :ok = Client.stream("downstream_adapter", "numbers", [3], on_value)
    for n <- 0..2, do: assert_received(%{"value" => ^n})
    refute_received _
    assert :ok = Client.stream("downstream_adapter", "numbers", [1_000], fn _ -> :halt end)
  end

  test "what has no plain form" do
    assert {:ok, {:unserializable, _type, nil}} = Client.call("downstream_adapter", "opaque")
  end

  test "Python calls back" do
    id = session()
    assert :ok = Callbacks.enable(id, fn value -> %{"twice" => [value, value]} end)
    assert :ok = Callbacks.enable(id, fn _ -> :another end)

    assert {:ok, %{"twice" => [%{"x" => 1.5}, %{"x" => 1.5}]}} =
             Snakepit.execute(
               "downstream.callback",
               %{"session_id" => id, "value" => %{"x" => 1.5}},
               session_id: id
             )

    assert {:error, _} = Snakepit.execute("downstream.callback", %{"value" => 1})
  end

  test "the environment" do
    assert %{"python" => %{"version" => version, "hash" => hash}} = Environment.lock()
    assert version =~ ~r/^3\.\d+/
    assert is_binary(hash)
    assert {output, 0} = Environment.run("import sys; print(sys.version_info[0])")
    assert output =~ "3"
    refute Environment.managed?()
    assert File.exists?(Snakepit.PythonRuntime.executable_path())
    assert File.exists?(Config.requirements())
    assert %{"PYTHONPATH" => path} = Config.adapter_env()
    assert path =~ "downstream/priv/python"
  end

  test "what examples and guides do" do
    assert %{requests: requests, errors: _, queued: 0} = Snakepit.Pool.get_stats(Snakepit.Pool)
    assert is_integer(requests)
    assert %{workers: _} = Snakepit.get_stats()
    assert is_list(Snakepit.list_workers())
    assert is_binary(Snakepit.RunID.generate())
    assert Process.whereis(Snakepit.Supervisor)
    assert {:ok, _} = Snakepit.GRPC.Listener.await_ready(5_000)
    assert %{total_workers: 3} = Snakepit.Worker.LifecycleManager.get_stats()
    assert Snakepit.Pool.Registry.worker_count() == 3
    [worker | _] = Snakepit.list_workers()
    refute Snakepit.Worker.TaintRegistry.worker_tainted?(worker)

    {:ok, breaker} = Snakepit.CircuitBreaker.start_link(name: __MODULE__.Breaker)
    assert Snakepit.CircuitBreaker.call(breaker, fn -> {:ok, 1} end) == {:ok, 1}
    policy = Snakepit.RetryPolicy.new(max_attempts: 3)
    assert Snakepit.RetryPolicy.should_retry?(policy, 1)
    assert Downstream.Types.handle?(%Snakepit.ZeroCopyRef{kind: :arrow, ref: make_ref()})
  end

  test "telemetry" do
    assert :ok = Downstream.Telemetry.attach("downstream", self())
    assert {:error, :already_exists} = Downstream.Telemetry.attach("downstream", self())
    assert 7 == Downstream.Telemetry.around(fn -> 7 end, %{library: "math"})
    assert_received {[:snakepit, :python, :call, :start], %{system_time: _}, %{library: "math"}}
    assert_received {[:snakepit, :python, :call, :stop], %{duration: _}, %{library: "math"}}
    assert :ok = Downstream.Telemetry.detach("downstream")
  end
end
