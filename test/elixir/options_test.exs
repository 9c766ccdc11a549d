defmodule Snakepit.OptionsTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  setup do
    start_pools([])
    level = Logger.level()
    on_exit(fn -> Logger.configure(level: level) end)
    Logger.configure(level: :debug)
  end

  test "options of others are passed over, and said in the debug log only" do
    options = [timeout_profile: :batch, idempotent: true, session_id: "s", timeout: 60_000]

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
    refute log =~ ":idempotent"
    refute log =~ ":session_id"
    refute log =~ "option :timeout of"
  end

  test "by every way to call" do
    strange = [stream_timeout: 1_800_000, library: "math", timeout: 60_000]

    calls = [
      fn -> assert {:ok, 1} = Snakepit.execute("echo", %{value: 1}, strange) end,
      fn -> assert {:ok, 1} = Snakepit.execute_in_session("s", "echo", %{value: 1}, strange) end,
      fn ->
        assert {:ok, 1} = "echo" |> Snakepit.async(%{value: 1}, strange) |> Snakepit.await()
      end,
      fn ->
        assert [_ | _] = "numbers" |> Snakepit.stream(%{count: 1}, strange) |> Enum.to_list()
      end,
      fn ->
        assert :ok = Snakepit.execute_stream("numbers", %{count: 1}, fn _ -> :ok end, strange)
      end,
      fn ->
        args = ["s", "numbers", %{count: 1}, fn _ -> :ok end, strange]
        assert :ok = apply(Snakepit, :execute_in_session_stream, args)
      end
    ]

    for call <- calls do
      log = capture_log(fn -> Snakepit.Logger.with_level(:debug, call) end)

      for key <- [:stream_timeout, :library],
          do: assert(log =~ "option #{inspect(key)} of a call")
    end
  end
end
