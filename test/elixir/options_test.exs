defmodule Snakepit.OptionsTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  setup do
    start_pools([])
    :ok
  end

  test "options of others are passed over, and said in the debug log only" do
    options = [timeout_profile: :batch, idempotent: true, session_id: "s", timeout: 60_000]

    level = Logger.level()
    on_exit(fn -> Logger.configure(level: level) end)
    Logger.configure(level: :debug)

    log =
      capture_log(fn ->
        assert {:ok, 1} = Snakepit.execute("echo", %{value: 1}, options)
        assert {:ok, 2} = Snakepit.execute_in_session("s", "echo", %{value: 2}, options)
        assert :ok = Snakepit.execute_stream("numbers", %{count: 1}, fn _ -> :ok end, options)
      end)

    refute log =~ "option"

    log =
      capture_log(fn ->
        Snakepit.Logger.with_level(:debug, fn ->
          assert {:ok, 1} = Snakepit.execute("echo", %{value: 1}, options)
        end)
      end)

    assert log =~ ":timeout_profile"
    refute log =~ ":session_id"
    refute log =~ "option :timeout of"
  end
end
