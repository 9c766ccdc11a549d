defmodule Snakepit.LoggerTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.AppEnv

  alias Snakepit.Logger

  doctest Logger

  setup do
    put_env(log_level: nil, log_categories: nil)
  end

  test "only errors by default" do
    assert Logger.should_log?(:error)
    refute Logger.should_log?(:warning)
    refute Logger.should_log?(:none)
  end

  test "the level is configured, and none is nothing" do
    put_env(log_level: :info)
    assert Logger.should_log?(:info, :pool)
    refute Logger.should_log?(:debug)
    put_env(log_level: :none)
    refute Logger.should_log?(:error)
  end

  test "categories choose" do
    put_env(log_level: :debug, log_categories: [:pool])
    assert Logger.should_log?(:error, :pool)
    refute Logger.should_log?(:error, :grpc)
    assert Logger.should_log?(:error)
  end

  test "a process has its own level, others do not" do
    :ok = Logger.set_process_level(:debug)
    assert Logger.get_process_level() == :debug
    assert Logger.should_log?(:debug)
    refute Task.await(Task.async(fn -> Logger.should_log?(:debug) end), 60_000)
    :ok = Logger.clear_process_level()
    refute Logger.should_log?(:debug)
  end

  test "with_level puts the former level back, also after a raise" do
    :ok = Logger.set_process_level(:warning)
    assert Logger.with_level(:none, &Logger.get_process_level/0) == :none
    assert_raise RuntimeError, fn -> Logger.with_level(:none, fn -> raise "x" end) end
    assert Logger.get_process_level() == :warning
  end

  test "messages carry their category, and are made only when wanted" do
    log =
      capture_log([metadata: [:category]], fn ->
        Logger.error(:grpc, "to be seen")
        Logger.debug(:grpc, fn -> flunk("made for nothing") end)
      end)

    assert log =~ "to be seen"
    assert log =~ "category=grpc"
  end

  test "each level can be called with message, category and metadata" do
    allow_all()

    for level <- [:debug, :info, :warning, :error] do
      log =
        capture_log([metadata: [:category, :worker_id]], fn ->
          assert apply(Logger, level, ["one"]) == :ok
          assert apply(Logger, level, [:pool, "two"]) == :ok
          assert apply(Logger, level, [:worker, "three", [worker_id: "w1"]]) == :ok
        end)

      assert log =~ "category=general" and log =~ "one"
      assert log =~ "category=pool" and log =~ "two"
      assert log =~ "worker_id=w1" and log =~ "three"
    end
  end

  defp allow_all do
    level = Elixir.Logger.level()
    on_exit(fn -> Elixir.Logger.configure(level: level) end)
    Elixir.Logger.configure(level: :debug)
    Logger.set_process_level(:debug)
  end

  test "Elixir's own level of a process counts after ours" do
    put_env(log_level: :info)
    :ok = Elixir.Logger.put_process_level(self(), :debug)
    on_exit(fn -> Elixir.Logger.delete_process_level(self()) end)
    assert Logger.get_process_level() == :debug
    assert Logger.with_level(:error, &Logger.get_process_level/0) == :error
    assert Logger.get_process_level() == :debug
    :ok = Elixir.Logger.delete_process_level(self())
    assert Logger.get_process_level() == :info
  end

  test "categories may be a map" do
    put_env(log_level: :debug, log_categories: %{pool: true, grpc: false})
    assert Logger.should_log?(:error, :pool)
    refute Logger.should_log?(:error, :grpc)
    refute Logger.should_log?(:error, :worker)
  end

  test "a level that there is not is refused" do
    assert_raise FunctionClauseError, fn -> Logger.set_process_level(:loud) end
    assert_raise FunctionClauseError, fn -> Logger.with_level(:loud, fn -> :ok end) end
  end

  describe "secrets" do
    test "are not logged" do
      log =
        capture_log([metadata: [:note]], fn ->
          Logger.error(:grpc, "refused: Authorization: Bearer abcdef123456")
          Logger.error(:grpc, fn -> ~s(config is %{api_key: "k-123"}) end)
          Logger.error(:grpc, ["iodata ", "sk-0123456789abc"], note: "password='hunter2'")
        end)

      for secret <- ["abcdef123456", "k-123", "0123456789abc", "hunter2"],
          do: refute(log =~ secret)

      assert log =~ "refused: Authorization: Bearer [redacted]"
      assert log =~ "config is"
    end

    test "are found in texts" do
      for {text, shown} <- [
            {"bearer abc.def-123", "bearer [redacted]"},
            {"key sk-proj-0123456789", "key [redacted]"},
            {~s("api_key": "a\\"b", "x": "y"), ~s("api_key": "[redacted]", "x": "y")},
            {~s(%{"secret" => "s"}), ~s(%{"secret" => "[redacted]"})},
            {"passwd='x'", "passwd='[redacted]'"},
            {"redis://user:pw@host:1/0", "redis://user:[redacted]@host:1/0"}
          ] do
        assert Logger.redact(text) == shown
      end
    end

    test "are found by name, however deep" do
      term = %{
        "env" => [{"HF_TOKEN", "t"}, {"LANG", "C"}],
        password: "p",
        nested: [%{apiKey: "a", n: 1}],
        count: 5
      }

      assert Logger.redact(term) == %{
               "env" => [{"HF_TOKEN", "[redacted]"}, {"LANG", "C"}],
               password: "[redacted]",
               nested: [%{apiKey: "[redacted]", n: 1}],
               count: 5
             }
    end

    test "are not seen in ordinary words and terms" do
      for term <- [
            "the pool has 3 tokens left",
            "sk-1",
            "http://localhost:4317/v1",
            %{token_count: 5},
            {:error, :secret},
            ~D[2024-01-01],
            [1 | 2],
            <<255, 0>>,
            nil
          ] do
        assert Logger.redact(term) == term
      end
    end
  end
end
