defmodule Snakepit.LoggerTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.AppEnv

  alias Snakepit.Logger

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
    refute Task.await(Task.async(fn -> Logger.should_log?(:debug) end))
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
end
