defmodule Snakepit.SpawnerFamilyTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Spawning

  alias Snakepit.Spawner

  # Far more than anything here takes; only what hangs comes near it.
  @patience 60_000

  setup :start_spawner

  test "stop leaves nobody of the family", %{spawner: spawner} do
    {id, _pid} = sh!(spawner, family() <> "wait")
    family = read_pids(id, family_size())
    assert length(alive(family)) == family_size()
    :ok = Spawner.stop(spawner, id, 50)
    finish(spawner, id)
    assert alive(family) == []
  end

  test "nobody of the family outlives a child that exits", %{spawner: spawner} do
    {id, _pid} =
      sh!(spawner, family() <> "while ! test -e \"$GO\"; do sleep 0.01; done; exit 4", %{
        env: [{"GO", go = Path.join(tmp_dir!(), "go")}]
      })

    family = read_pids(id, family_size())
    File.write!(go, "")
    assert finish(spawner, id).exit == {:status, 4}
    assert alive(family) == []
  end

  test "nobody of the family outlives a child that is killed", %{spawner: spawner} do
    {id, pid} = sh!(spawner, family() <> "wait")
    family = read_pids(id, family_size())
    kill!(pid)
    assert finish(spawner, id).exit == {:signal, 9}
    assert alive(family) == []
  end

  test "one family's end does not touch another", %{spawner: spawner} do
    {one, pid} = sh!(spawner, family() <> "wait")
    {two, _pid} = sh!(spawner, family() <> "wait")
    first = read_pids(one, family_size())
    second = read_pids(two, family_size())
    kill!(pid)
    finish(spawner, one)
    assert alive(first) == []
    assert alive(second) == second
    :ok = Spawner.stop(spawner, two, 0)
    finish(spawner, two)
    assert alive(second) == []
  end

  test "when a guard is killed, its family is killed and its owner told", %{spawner: spawner} do
    {id, pid} = sh!(spawner, family() <> "wait")
    family = read_pids(id, family_size())
    {other, _pid} = sh!(spawner, family() <> "wait")
    second = read_pids(other, family_size())
    kill!(parent!(pid))
    assert finish(spawner, id).exit == {:signal, 9}
    assert alive(family) == []
    assert alive(second) == second
  end

  test "a guard that is stopped goes on", %{spawner: spawner} do
    assert run!(spawner, "kill -STOP $PPID; exit 3").exit == {:status, 3}
  end

  test "daemons that end leave no zombies", %{spawner: spawner} do
    {id, pid} = sh!(spawner, "for i in $(seq 20); do (true &); done; echo $$; exec sleep 1000")
    [child] = read_pids(id, 1)
    guard = parent!(pid)
    eventually(fn -> children_of(guard) == [pid] end)
    assert alive?(child)
  end

  test "a child that forks without an end", %{spawner: spawner} do
    script = """
    for i in $(seq 50); do (setsid sh -c 'echo $$; while :; do sleep 0.01; done' &); done
    wait; sleep 1000
    """

    {id, _pid} = sh!(spawner, script)
    family = read_pids(id, 50)
    :ok = Spawner.stop(spawner, id, 0)
    assert finish(spawner, id).exit == {:signal, 9}
    assert alive(family) == []
  end

  test "a child that closes its output is still watched", %{spawner: spawner} do
    {id, _pid} = sh!(spawner, "echo $$; exec <&- >&- 2>&-; while :; do sleep 1000; done")
    read_pids(id, 1)
    :ok = Spawner.stop(spawner, id, @patience)
    assert finish(spawner, id).exit == {:signal, 15}
  end

  test "fifty at once", %{spawner: spawner} do
    script = "trap 'exit $N' TERM; echo $$ $N; while :; do sleep 1000 & wait; done"

    children =
      1..50
      |> Enum.map(fn n ->
        Task.async(fn ->
          {id, pid} = sh!(spawner, script, %{env: [{"N", "#{n}"}]})
          assert_receive {:snakepit_os, ^id, {:output, :stdout, line}}, @patience
          assert line == "#{pid} #{n}\n"
          process = {pid, start_time!(pid)}
          :ok = Spawner.stop(spawner, id, @patience)
          {n, process, finish(spawner, id).exit}
        end)
      end)
      |> Task.await_many(@patience)

    for {n, _process, how} <- children, do: assert(how == {:status, n})
    assert alive(for {_n, process, _how} <- children, do: process) == []
  end
end
