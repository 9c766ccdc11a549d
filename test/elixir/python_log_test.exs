defmodule Snakepit.PythonLogTest do
  # Python's logging in Elixir's log. Runs once for each carrier: see `make test`.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.GRPCWorker.LogRecord

  @moduletag :capture_log
  @patience 60_000

  # Everything that is logged goes to the test, too.
  defmodule Handler do
    @moduledoc false
    def log(event, %{config: %{test: test}}), do: send(test, {:logged, event})
  end

  setup do
    level = Logger.level()
    :ok = :logger.add_handler(__MODULE__, Handler, %{config: %{test: self()}})

    on_exit(fn ->
      :logger.remove_handler(__MODULE__)
      Logger.configure(level: level)
    end)

    Logger.configure(level: :debug)
    :ok
  end

  defp start(settings) do
    chatty = [adapter_args: ["--adapter", "chatty.Chatty"]]
    start_pools(chatty ++ settings)
    [worker] = Snakepit.list_workers()
    worker
  end

  defp run(command, args \\ %{}, opts \\ []),
    do: Snakepit.execute(command, args, Keyword.put_new(opts, :timeout, @patience))

  # The next message that has the text.
  defp logged(text) do
    receive do
      {:logged, %{msg: {:string, message}, level: level, meta: meta}} ->
        message = IO.chardata_to_string(message)
        if message =~ text, do: {level, message, meta}, else: logged(text)

      {:logged, _other} ->
        logged(text)
    after
      @patience -> flunk("#{inspect(text)} is not logged")
    end
  end

  test "records come with level, logger, file, line, worker and call" do
    worker = start(log_level: :debug)
    {:ok, nil} = run("levels", %{text: "of tea"}, correlation_id: "call-7")

    for {name, level} <- [
          {"debug", :debug},
          {"info", :info},
          {"warning", :warning},
          {"error", :error},
          {"critical", :error}
        ] do
      assert {^level, message, meta} = logged("#{name} of tea")
      assert message == "#{worker}: shop.prices: #{name} of tea"

      assert %{
               category: :worker,
               worker_id: ^worker,
               pool: :default,
               python_logger: "shop.prices",
               function: "levels",
               correlation_id: "call-7"
             } = meta

      assert Path.basename(to_string(meta.file)) == "chatty.py"
      assert is_integer(meta.line)
    end
  end

  test "the level of the configuration is Python's" do
    start(log_level: :warning)
    assert run("level") == {:ok, "WARNING"}
    {:ok, nil} = run("levels", %{text: "of tea"})
    for level <- [:warning, :error, :error], do: assert({^level, _, _} = logged("of tea"))
    stop_app()
    start(log_level: :none)
    {:ok, nil} = run("levels", %{text: "of milk"})
    stop_app()
    refute_received {:logged, %{msg: {:string, _}, meta: %{python_logger: _}}}
  end

  test "exceptions, warnings and threads" do
    start(log_level: :warning)
    {:ok, nil} = run("fails")
    assert {:error, message, _} = logged("in the shop")
    assert message =~ "Traceback (most recent call last):"
    assert message =~ "ValueError: no such price"

    {:ok, line} = run("warns", %{text: "old tea"})
    assert {:warning, message, meta} = logged("old tea")
    assert message =~ "RuntimeWarning: old tea"
    assert meta.python_logger == "py.warnings"
    assert {Path.basename(to_string(meta.file)), meta.line} == {"chatty.py", line}

    {:ok, nil} = run("from_thread", %{text: "closed"})
    assert {:error, _, %{thread: "shopkeeper"}} = logged("closed")
  end

  test "what a process logs last is there, in the log and in the error" do
    start(log_level: :error)
    assert {:error, %{details: details}} = run("dies", %{text: "no more \x1e tea"})
    assert {:error, message, _} = logged("no more")
    assert message =~ "shop.prices: no more"
    assert details.stderr =~ "ERROR shop.prices: no more"
    refute details.stderr =~ "{"
  end

  test "a flood stops nobody, and what is not logged is counted" do
    start(log_level: :error)
    assert run("floods", %{count: 20_000, text: "drop"}) == {:ok, 20_000}
    stop_app()
    assert counted(0) == 20_000
  end

  # All is here: the application has stopped.
  defp counted(sum) do
    receive do
      {:logged, %{msg: {:string, message}}} ->
        case Regex.run(~r/(drop)|(\d+) log records/, IO.chardata_to_string(message)) do
          [_, "drop"] -> counted(sum + 1)
          [_, "", count] -> counted(sum + String.to_integer(count))
          nil -> counted(sum)
        end

      {:logged, _other} ->
        counted(sum)
    after
      0 -> sum
    end
  end

  test "more than a thousand in a second are too many" do
    budget =
      Enum.reduce(1..1_000, LogRecord.budget(), fn _, budget ->
        assert {true, {0, _}, budget} = LogRecord.take(budget, :error, 5)
        budget
      end)

    assert {false, {0, _}, budget} = LogRecord.take(budget, :warning, 1_004)
    assert {false, {0, _}, budget} = LogRecord.take(budget, :info, 1_004)
    assert LogRecord.dropped(budget) == {2, :warning}
    assert {true, {2, :warning}, budget} = LogRecord.take(budget, :info, 1_005)
    assert {0, _} = LogRecord.dropped(budget)
  end

  test "whatever is written is text at most" do
    worker = start(log_level: :info, log_python_output: true)

    for {text, stream, expected} <- [
          {"\x1e{\"level\":40,\"logger\":1,\"message\":\"a\"}\n", 2, "\"logger\":1"},
          {"\x1enot JSON\n", 2, "not JSON"},
          {"half a line \x1e{\"level\":20,\"logger\":\"x\",\"message\":\"whole\"}\n", 2,
           "x: whole"},
          {"\x1e{\"level\":40,\"logger\":\"x\",\"message\":\"on stdout\"}\n", 1, "on stdout"},
          {"\x1e" <> String.duplicate("y", 200_000) <> "\n", 2, "yyyy"},
          {"plain\n", 1, "plain"}
        ] do
      {:ok, nil} = run("writes", %{text: text, stream: stream})
      assert {:info, message, meta} = logged(expected)
      assert String.starts_with?(message, worker)
      refute is_map_key(meta, :python_logger) and meta.python_logger != "x"
    end

    {:ok, nil} = run("prints", %{text: "from print"})
    assert {:info, _, %{stream: :stdout}} = logged("from print")
    # The file is no atom, no code and no charlist but text of itself.
    said = ~s({"level":20,"logger":"x","message":"m","file":7,"line":"9","thread":[1]})
    {:ok, nil} = run("writes", %{text: "\x1e#{said}\n", stream: 2})
    assert {:info, _, meta} = logged("x: m")
    assert Path.basename(to_string(meta.file)) == "logger.ex"
  end

  test "long messages are cut in the middle" do
    start(log_level: :error)
    {:ok, nil} = run("from_thread", %{text: "begin" <> String.duplicate("ä", 200_000) <> "end"})
    assert {:error, message, _} = logged("begin")
    assert message =~ "... [cut] ..."
    assert String.ends_with?(message, "end")
    assert byte_size(message) < 65_536
  end
end
