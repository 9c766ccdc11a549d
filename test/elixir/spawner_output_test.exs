defmodule Snakepit.SpawnerOutputTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Spawning

  alias Snakepit.Spawner

  # Far more than anything here takes; only what hangs comes near it.
  @patience 60_000
  @window 256 * 1024

  setup :start_spawner

  test "output flows against the window", %{spawner: spawner} do
    {:ok, id, _} = Spawner.spawn(spawner, %{program: "cat", args: ["/dev/zero"]})
    assert receive_bytes(id, @window) == @window
    # Everything the spawner does comes after what it has sent before.
    run!(spawner, "true")
    refute_received {:snakepit_os, ^id, _}
    :ok = Spawner.ack(spawner, id, 1000)
    assert receive_bytes(id, 1000) == 1000
    run!(spawner, "true")
    refute_received {:snakepit_os, ^id, _}
    :ok = Spawner.stop(spawner, id, 0)
    assert_receive {:snakepit_os, ^id, {:exit, {:signal, 9}, _}}, @patience
  end

  defp receive_bytes(id, count, sum \\ 0)
  defp receive_bytes(_id, count, sum) when sum >= count, do: sum

  defp receive_bytes(id, count, sum) do
    assert_receive {:snakepit_os, ^id, {:output, _stream, bytes}}, @patience
    receive_bytes(id, count, sum + byte_size(bytes))
  end

  @tag :not_under_asan
  test "a flood of 100 MB passes with bounded memory", %{spawner: spawner} do
    {:ok, id, _} =
      Spawner.spawn(spawner, %{program: "head", args: ["-c", "100000000", "/dev/zero"]})

    assert drink(spawner, id, 0, 0) == 100_000_000
    rss = File.read!("/proc/#{Spawner.info(spawner).os_pid}/status")
    [kb] = Regex.run(~r/VmHWM:\s+(\d+)/, rss, capture: :all_but_first)
    assert String.to_integer(kb) < 50_000
  end

  # Acknowledges only when the window is used up, which is never exceeded.
  defp drink(spawner, id, sum, unacked) do
    receive do
      {:snakepit_os, ^id, {:output, :stdout, bytes}} ->
        unacked = unacked + byte_size(bytes)
        assert unacked <= @window
        if unacked == @window, do: Spawner.ack(spawner, id, unacked)
        drink(spawner, id, sum + byte_size(bytes), rem(unacked, @window))

      {:snakepit_os, ^id, {:exit, how, _usage}} ->
        assert how == {:status, 0}
        sum
    after
      @patience -> flunk("the flood stopped after #{sum} bytes")
    end
  end

  test "what a dead child has left in its pipe is sent without credit", %{spawner: spawner} do
    script = "head -c 40000 /dev/zero; head -c 30000 /dev/zero >&2"
    {id, _pid} = sh!(spawner, script, %{window: 10})
    assert receive_bytes(id, 70_000) == 70_000
    assert_receive {:snakepit_os, ^id, {:exit, {:status, 0}, _}}, @patience
  end
end
