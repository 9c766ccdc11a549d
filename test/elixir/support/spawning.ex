defmodule Snakepit.Test.Spawning do
  @moduledoc false
  # Children of a spawner of the test's own, and whether they still live.

  import ExUnit.Assertions
  import ExUnit.Callbacks, only: [on_exit: 1]

  alias Snakepit.Spawner

  # Far more than anything here takes; only what hangs comes near it.
  @patience 60_000

  # A family of six besides its head: one child in its group, one in a session
  # of its own, one there with an empty environment, a daemon, and a child that
  # ignores SIGTERM with its own child. Prints their numbers.
  @family """
  setsid=$(command -v setsid) sleep=$(command -v sleep)
  sleep 1000 & echo $!
  setsid sleep 1000 & echo $!
  env -i "$setsid" "$sleep" 1000 & echo $!
  (setsid sh -c 'sleep 1000 & echo $!' &)
  setsid sh -c 'trap "" TERM HUP INT; sleep 1000 & echo $$; echo $!; while :; do wait; done' &
  """
  @family_size 6

  def family, do: @family
  def family_size, do: @family_size

  @doc "For `setup`: a spawner, unless the test is tagged :no_spawner."
  def start_spawner(context) do
    spec = Supervisor.child_spec({Spawner, name: nil}, restart: :temporary)

    if context[:no_spawner],
      do: :ok,
      else: {:ok, spawner: ExUnit.Callbacks.start_supervised!(spec)}
  end

  def sh!(spawner, script, more \\ %{}) do
    spec = Map.merge(%{program: "sh", args: ["-c", script]}, more)
    {:ok, id, os_pid} = Spawner.spawn(spawner, spec)
    {id, os_pid}
  end

  # Acknowledges all output up to the end.
  def finish(spawner, id, out \\ %{stdout: "", stderr: ""}) do
    receive do
      {:snakepit_os, ^id, {:output, stream, bytes}} ->
        Spawner.ack(spawner, id, byte_size(bytes))
        finish(spawner, id, Map.update!(out, stream, &(&1 <> bytes)))

      {:snakepit_os, ^id, {:exit, how, usage}} ->
        Map.merge(out, %{exit: how, usage: usage})
    after
      @patience -> flunk("no end of child #{id}; it wrote #{inspect(out)}")
    end
  end

  def run!(spawner, script, more \\ %{}) do
    {id, _pid} = sh!(spawner, script, more)
    finish(spawner, id)
  end

  # The numbers a child prints, each with the start time that makes it unique.
  def read_pids(id, count, text \\ "") do
    pids = text |> String.split(~r/\s+/, trim: true) |> Enum.map(&String.to_integer/1)

    if length(pids) >= count and String.ends_with?(text, "\n") do
      Enum.map(pids, &{&1, start_time!(&1)})
    else
      receive do
        {:snakepit_os, ^id, {:output, :stdout, bytes}} -> read_pids(id, count, text <> bytes)
      after
        @patience -> flunk("child #{id} printed no more than #{inspect(text)}")
      end
    end
  end

  def stat(pid) do
    with {:ok, text} <- File.read("/proc/#{pid}/stat") do
      [state | fields] = text |> String.split(") ") |> List.last() |> String.split()
      {state, fields |> Enum.at(0) |> String.to_integer(), Enum.at(fields, 18)}
    end
  end

  def start_time!(pid) do
    {_state, _parent, start} = stat(pid)
    start
  end

  def parent!(pid) do
    {_state, parent, _start} = stat(pid)
    parent
  end

  def alive?({pid, start}) do
    case stat(pid) do
      {state, _parent, ^start} -> state not in ["Z", "X"]
      _ -> false
    end
  end

  def alive(processes), do: Enum.filter(processes, &alive?/1)

  # For the ends of processes that nobody reports.
  def eventually(fun, left \\ 12_000) do
    cond do
      fun.() ->
        :ok

      left == 0 ->
        flunk("it did not happen")

      true ->
        receive do
        after
          10 -> eventually(fun, left - 1)
        end
    end
  end

  def kill!(pids, signal \\ "KILL") do
    {_, 0} = System.cmd("kill", ["-#{signal}" | Enum.map(List.wrap(pids), &to_string/1)])
  end

  @doc """
  Kills all of them at once, parents first in the list: none has time to die of
  another's death, or to act on it. A dead child of a stopped parent keeps its
  number until the parent is killed as well.
  """
  def kill_at_once!(pids) do
    kill!(pids, "STOP")

    eventually(fn ->
      Enum.all?(pids, &match?({state, _, _} when state in ["T", "t"], stat(&1)))
    end)

    kill!(Enum.reverse(pids))
  end

  def tmp_dir! do
    name = "snakepit_spawner_#{System.pid()}_#{System.unique_integer([:positive])}"
    dir = Path.join(System.tmp_dir!(), name)
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    dir
  end

  def children_of(parent), do: for({pid, ^parent} <- parents(), do: pid)

  @doc "All that descends from a process, with start times."
  def descendants(root) do
    parents = parents()
    for pid <- below(parents, [root]), {_, _, start} <- [stat(pid)], do: {pid, start}
  end

  defp below(parents, roots) do
    case for({pid, parent} <- parents, parent in roots, do: pid) do
      [] -> []
      children -> children ++ below(parents, children)
    end
  end

  # One look at all processes.
  defp parents do
    for name <- File.ls!("/proc"),
        {pid, ""} <- [Integer.parse(name)],
        {_state, parent, _start} <- [stat(pid)],
        do: {pid, parent}
  end
end
