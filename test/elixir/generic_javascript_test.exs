defmodule Snakepit.Adapters.GenericJavaScriptTest do
  # Needs Node.js (scripts/system_deps.sh).
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Adapters.GenericJavaScript
  alias Snakepit.Error
  alias Snakepit.GRPC.Client
  alias Snakepit.Pool.Registry

  setup do
    tools = signal_path() <> ".js"

    File.write!(tools, """
    module.exports = {
      double: ({value}) => 2 * value,
      later: async ({value}) => value,
      bytes: ({value}) => Buffer.from(value),
      size: ({value}) => value.length,
      nothing: () => undefined,
      cycle: () => { const a = {}; a.a = a; return a; },
      reject: async () => { throw new RangeError('too far'); },
      throw_text: () => { throw 'a text'; },
      session: (_args, context) => context.session_id,
      names: (args) => Object.keys(args).sort(),
    };
    """)

    start_pools(
      adapter_module: GenericJavaScript,
      adapter_args: ["--adapter", tools],
      adapter_env: [],
      pool_size: 2,
      transport: :auto
    )

    :ok
  end

  test "what is always there" do
    assert {:ok, %{"status" => "pong"}} = Snakepit.execute("ping", %{})

    assert {:ok, %{"echoed" => %{"a" => [1, nil, "ü"]}}} =
             Snakepit.execute("echo", %{a: [1, nil, "ü"]})

    assert {:ok, %{"result" => 4}} = Snakepit.execute("compute", %{operation: "sqrt", a: 16})

    for {operation, result} <- [add: 10, subtract: 6, multiply: 16, divide: 4, power: 64] do
      assert {:ok, %{"result" => ^result}} =
               Snakepit.execute("compute", %{operation: operation, a: 8, b: 2})
    end

    assert {:ok, %{"runtime" => "node", "pid" => pid, "tools" => names}} =
             Snakepit.execute("info", %{})

    assert pid in Enum.map(os_processes(), &elem(&1, 0))
    assert GenericJavaScript.supported_commands() -- names == []

    for _ <- 1..20 do
      assert {:ok, %{"value" => n}} =
               Snakepit.execute("random", %{type: "integer", min: 3, max: 5})

      assert n in 3..5
      assert {:ok, %{"value" => x}} = Snakepit.execute("random", %{})
      assert x >= 0 and x < 1
    end
  end

  test "what cannot be computed is an exception" do
    for args <- [
          %{operation: "root", a: 1},
          %{operation: "constructor", a: 1},
          %{operation: "divide", a: 1, b: 0},
          %{operation: "sqrt", a: -1}
        ] do
      assert {:error, %Error.ValueError{}} = Snakepit.execute("compute", args)
    end

    assert {:error, %Error.TypeError{message: "b is a number"}} =
             Snakepit.execute("compute", %{operation: "add", a: 1, b: "2"})

    assert {:error, %Error.ValueError{}} = Snakepit.execute("random", %{min: 2, max: 1})

    assert {:error, %Error.ValueError{message: "there is no tool no_such"}} =
             Snakepit.execute("no_such", %{})

    assert {:error, %Error.ValueError{}} = Snakepit.execute("toString", %{})
  end

  test "tools of one's own" do
    assert {:ok, 4} = Snakepit.execute("double", %{value: 2})
    assert {:ok, [1]} = Snakepit.execute("later", %{value: [1]})
    assert {:ok, {:binary, "abc"}} = Snakepit.execute("bytes", %{value: "abc"})
    assert {:ok, nil} = Snakepit.execute("nothing", %{})
    assert {:ok, "s1"} = Snakepit.execute_in_session("s1", "session", %{})

    assert {:ok, ["__proto__", "a"]} =
             Snakepit.execute("names", %{"__proto__" => %{"x" => 1}, "a" => 1})

    big = :binary.copy(<<0, 255>>, 1_000_000)
    assert {:ok, 2_000_000} = Snakepit.execute("size", %{}, binary_parameters: %{value: big})
    huge = :binary.copy(<<0x81>>, 70_000_000)
    assert {:ok, 70_000_000} = Snakepit.execute("size", %{}, binary_parameters: %{value: huge})
    long = String.duplicate("a", 5_000_000)
    assert {:ok, %{"echoed" => %{"a" => ^long}}} = Snakepit.execute("echo", %{a: long})
    text = String.duplicate("ä", 500_000)
    assert {:ok, {:binary, ^text}} = Snakepit.execute("bytes", %{value: text})
  end

  test "tools that fail" do
    assert {:error, %Error.PythonException{python_type: "RangeError"} = error} =
             Snakepit.execute("reject", %{})

    assert error.message == "too far"
    assert error.python_traceback =~ "RangeError: too far"
    assert error.context["tool_name"] == "reject"
    assert {:error, %Error.TypeError{}} = Snakepit.execute("cycle", %{})

    assert {:error, %Error.PythonException{message: "a text"}} =
             Snakepit.execute("throw_text", %{})

    assert {:ok, 2} = Snakepit.execute("double", %{value: 1})
  end

  test "streams are refused before they reach a worker" do
    assert {:error, %Error{category: :validation} = error} =
             Snakepit.execute_stream("ping", %{}, fn _ -> :ok end)

    assert error.message =~ "Streaming not supported"
    assert error.details.adapter == GenericJavaScript
  end

  test "many calls at once" do
    1..200
    |> Task.async_stream(&Snakepit.execute("double", %{value: &1}),
      max_concurrency: 20,
      timeout: 60_000
    )
    |> Enum.with_index(1)
    |> Enum.each(fn {{:ok, answer}, n} -> assert answer == {:ok, 2 * n} end)
  end

  test "it speaks the rest of the protocol that is needed, and says what it lacks" do
    [worker | _] = Snakepit.list_workers()
    {:ok, pid} = Registry.get_worker_pid(worker)
    {:ok, port} = GenServer.call(pid, {:get_port})
    {:ok, channel} = Client.connect(port)
    on_exit(fn -> Snakepit.Native.channel_close(channel) end)

    assert {:ok, %{message: "Pong: hello"}} = Client.ping(channel, "hello")
    assert {:ok, %{success: true}} = Client.initialize_session(channel, "s")
    assert {:ok, %{success: true}} = Client.heartbeat(channel, "s")
    assert {:ok, %{success: true}} = Client.cleanup_session(channel, "s")

    assert {:error, %Error{category: :grpc_error, grpc_status: :unimplemented}} =
             Client.get_session(channel, "s")
  end
end
