defmodule Snakepit.SpawnerZygoteTest do
  # Zygotes as the spawner sees them: any program with a socket, friend or not.
  # Those of Python are in prefork_test.exs.
  use ExUnit.Case, async: true

  alias Snakepit.Spawner

  @patience 60_000

  # The word READY of c_src/spawner/zygote_proto.h. dash writes each printf in
  # one piece, so that it is one datagram.
  @ready "printf '\\001%0511d' 0 | tr 0 '\\000' | dd bs=512 iflag=fullblock status=none >&3; "

  setup do
    {:ok, spawner: start_supervised!({Spawner, name: nil})}
  end

  defp zygote!(spawner, script) do
    {:ok, id, pid} = Spawner.spawn_zygote(spawner, %{program: "sh", args: ["-c", script]})
    {id, pid}
  end

  defp fork(spawner, zygote), do: Spawner.fork(spawner, zygote, %{program: "sh"})

  defp queued(spawner, zygote) do
    task = Task.async(fn -> fork(spawner, zygote) end)
    # It is in the spawner's hands when a later order was answered.
    {:ok, id, _} = Spawner.spawn(spawner, %{program: "true"})
    assert_receive {:snakepit_os, ^id, {:exit, {:status, 0}, _}}, @patience
    task
  end

  test "a zygote that nobody knows", %{spawner: spawner} do
    assert {:error, %{stage: :fork, errno: :esrch, message: message}} = fork(spawner, 4711)
    assert message =~ "forked from is gone"
  end

  test "a child that is no zygote", %{spawner: spawner} do
    {:ok, id, _pid} = Spawner.spawn(spawner, %{program: "sleep", args: ["1000"]})
    assert {:error, %{stage: :fork, errno: :esrch}} = fork(spawner, id)
  end

  test "settings that a copy cannot be given are refused", %{spawner: spawner} do
    for {setting, stage} <- [
          {"user=nobody", :user},
          {"group=nogroup", :user},
          {"umask=0", :user},
          {"containment=pid_namespace", :namespace}
        ] do
      assert {:error, %{stage: ^stage, errno: :eopnotsupp}} =
               Spawner.fork(spawner, 4711, %{program: "sh", settings: [setting]})
    end
  end

  test "a zygote is in no cgroup and no namespace of its own", %{spawner: spawner} do
    for {how, stage} <- [{"cgroup", :cgroup}, {"pid_namespace", :namespace}] do
      assert {:error, %{stage: ^stage, errno: :eopnotsupp}} =
               Spawner.spawn_zygote(spawner, %{program: "sh", settings: ["containment=#{how}"]})
    end
  end

  test "a program that cannot be executed", %{spawner: spawner} do
    assert {:error, %{stage: :exec, errno: :enoent}} =
             Spawner.spawn_zygote(spawner, %{program: "/no/such/program"})
  end

  test "a zygote is a child like any other", %{spawner: spawner} do
    {id, pid} = zygote!(spawner, "echo out; exit 7")
    assert_receive {:snakepit_os, ^id, {:output, :stdout, "out\n"}}, @patience
    assert_receive {:snakepit_os, ^id, {:exit, {:status, 7}, _}}, @patience
    refute File.exists?("/proc/#{pid}")
  end

  test "it has its socket and no other descriptor more", %{spawner: spawner} do
    {id, _pid} = zygote!(spawner, "ls -l /proc/$$/fd")
    assert_receive {:snakepit_os, ^id, {:output, :stdout, text}}, @patience
    links = for line <- String.split(text, "\n"), line =~ "->", do: line
    assert length(links) == 4
    assert Enum.count(links, &(&1 =~ "socket:")) == 1
  end

  test "what waits for a zygote that ends is told so", %{spawner: spawner} do
    {id, _pid} = zygote!(spawner, "exec sleep 1000")
    tasks = for _ <- 1..3, do: queued(spawner, id)
    Spawner.stop(spawner, id, 0)

    for task <- tasks do
      assert {:error, %{stage: :fork, errno: :esrch}} = Task.await(task, @patience)
    end
  end

  test "a zygote that closes its socket lives on, and is not forked", %{spawner: spawner} do
    {id, _pid} = zygote!(spawner, "exec 3>&-; echo closed; exec sleep 1000")
    assert_receive {:snakepit_os, ^id, {:output, :stdout, "closed\n"}}, @patience
    # It may be seen before or after the fork is asked for.
    task = queued(spawner, id)
    Spawner.stop(spawner, id, 0)
    assert {:error, %{stage: :fork}} = Task.await(task, @patience)
    assert_receive {:snakepit_os, ^id, {:exit, {:signal, 9}, _}}, @patience
  end

  test "noise on its socket is not understood, and nothing more", %{spawner: spawner} do
    noise = "printf x >&3; printf '%0512d' 0 >&3; printf '%04000d' 7 >&3; "
    {id, _pid} = zygote!(spawner, noise <> "echo done; exec sleep 1000")
    assert_receive {:snakepit_os, ^id, {:output, :stdout, "done\n"}}, @patience
    task = queued(spawner, id)
    refute_received {:snakepit_os, ^id, {:zygote, _}}
    Spawner.stop(spawner, id, 0)
    assert {:error, %{errno: :esrch}} = Task.await(task, @patience)
  end

  test "a child that comes to the spawner late outlives its zygote", %{spawner: spawner} do
    python = System.get_env("SNAKEPIT_PYTHON") || "python3"
    script = Path.expand("support/python/slow_zygote.py", __DIR__)
    spec = %{program: python, args: [script]}
    {:ok, zygote, _pid} = Spawner.spawn_zygote(spawner, spec)
    assert_receive {:snakepit_os, ^zygote, {:zygote, :ready}}, @patience
    {:ok, id, _pid} = fork(spawner, zygote)
    Spawner.signal(spawner, zygote, 9)
    assert_receive {:snakepit_os, ^zygote, {:exit, {:signal, 9}, _}}, @patience
    # What is nobody's is killed meanwhile.
    {:ok, next, _} = Spawner.spawn(spawner, %{program: "sleep", args: ["0.5"]})
    assert_receive {:snakepit_os, ^next, {:exit, {:status, 0}, _}}, @patience
    Spawner.stop(spawner, id, 60_000)
    assert_receive {:snakepit_os, ^id, {:exit, {:signal, 15}, _}}, @patience
  end

  @tag :not_under_asan
  test "one that says it is ready and then does nothing is ended", %{spawner: spawner} do
    {id, _pid} = zygote!(spawner, @ready <> "exec sleep 1000")
    assert_receive {:snakepit_os, ^id, {:zygote, :ready}}, @patience
    # Seen by the end of what it was sent, or after its time.
    assert {:error, %{stage: :fork}} = fork(spawner, id)
    assert_receive {:snakepit_os, ^id, {:exit, {:signal, 9}, _}}, @patience
    {:ok, next, _} = Spawner.spawn(spawner, %{program: "true"})
    assert_receive {:snakepit_os, ^next, {:exit, {:status, 0}, _}}, @patience
  end
end
