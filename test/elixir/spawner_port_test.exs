defmodule Snakepit.SpawnerPortTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Spawning

  alias Snakepit.Spawner

  # Far more than anything here takes; only what hangs comes near it.
  @patience 60_000

  setup :start_spawner

  # ---- frames ------------------------------------------------------------------
  defp raw_port(options \\ [packet: 4]) do
    options = [:binary, :nouse_stdio, :exit_status, args: ["--port"]] ++ options
    Port.open({:spawn_executable, Spawner.default_path()}, options)
  end

  defp string(text), do: <<byte_size(text)::32, text::binary>>

  @tag :no_spawner
  test "a message that is not understood is answered, and the spawner goes on" do
    port = raw_port()
    assert_receive {^port, {:data, <<65, 2::32, _::32>>}}, @patience

    for {message, word} <- [
          {"", "too early"},
          {"garbage", "type"},
          {<<2, 1::64>>, "too early"},
          {<<3, 1::64, 99::32, 0>>, "signal"},
          {<<5, 0>>, "more bytes"}
        ] do
      Port.command(port, message)
      assert_receive {^port, {:data, <<70, len::32, text::binary-size(len)>>}}, @patience
      assert text =~ word
    end

    Port.command(port, <<1, 77::64, 1::32, 0::32, 0::32, string("a\0b")::binary>>)
    assert_receive {^port, {:data, <<67, 77::64, 1, _::32, rest::binary>>}}, @patience
    assert rest =~ "NUL"

    spawn = <<1, 78::64, 1::32, 0::32, 0::32, string("cat")::binary>>
    spawn = spawn <> <<1::32, string("/dev/zero")::binary, 0::32, 0::32, 0::32>>
    Port.command(port, spawn)
    assert_receive {^port, {:data, <<66, 78::64, pid::32, start::64, 0::32>>}}, @patience
    assert start_time!(pid) == "#{start}"
    Port.command(port, spawn)
    assert_receive {^port, {:data, <<67, 78::64, 1, _::32, rest::binary>>}}, @patience
    assert rest =~ "EEXIST"

    Port.command(port, <<5>>)
    assert_receive {^port, {:exit_status, 0}}, @patience
    refute alive?({pid, "#{start}"})
  end

  @tag :no_spawner
  test "a broken frame ends the spawner and its children" do
    port = raw_port([])
    spawn = <<1, 1::64, 1::32, 0::32, 0::32, string("sleep")::binary>>
    spawn = spawn <> <<1::32, string("1000")::binary, 0::32, 0::32, 0::32>>
    # In pieces, as the frames of a stream may come.
    frame = string(spawn)
    for <<piece::binary-size(7) <- frame>>, do: Port.command(port, piece)
    left = rem(byte_size(frame), 7)
    Port.command(port, binary_part(frame, byte_size(frame) - left, left))
    assert_receive {^port, {:data, <<_::32, 65, 2::32, _::32>> <> rest}}, @patience

    started =
      if rest == "" do
        assert_receive {^port, {:data, bytes}}, @patience
        bytes
      else
        rest
      end

    assert <<_::32, 66, 1::64, pid::32, start::64, 0::32>> = started
    Port.command(port, <<0xFFFFFFFF::32>>)
    assert_receive {^port, {:data, <<_::32, 70, _::32, text::binary>>}}, @patience
    assert text =~ "64 MiB"
    assert_receive {^port, {:exit_status, 3}}, @patience
    refute alive?({pid, "#{start}"})
  end

  # ---- a program that cannot be used -------------------------------------------
  @tag :no_spawner
  test "start_link says what is wrong with the program" do
    Process.flag(:trap_exit, true)
    dir = tmp_dir!()
    file = Path.join(dir, "snakepit_spawner")
    File.write!(file, "#!/bin/sh\nexit 9\n")

    cases = [
      {Path.join(dir, "missing"), "build it with mix compile"},
      {file, "chmod +x"},
      {dir, "directory"},
      {"/dev/null", "not a file"}
    ]

    for {path, hint} <- cases do
      assert {:error, {:spawner_unavailable, text}} = Spawner.start_link(name: nil, path: path)
      assert text =~ path
      assert text =~ hint
    end

    File.chmod!(file, 0o755)
    assert {:error, {:spawner_unavailable, text}} = Spawner.start_link(name: nil, path: file)
    assert text =~ "ended with status 9"
    File.write!(file, "#!/bin/sh\nprintf '\\0\\0\\0\\1x' >&4\nread x\n")
    assert {:error, {:spawner_unavailable, text}} = Spawner.start_link(name: nil, path: file)
    assert text =~ "another protocol"
  end
end
