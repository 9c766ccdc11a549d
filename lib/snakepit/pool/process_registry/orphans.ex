defmodule Snakepit.Pool.ProcessRegistry.Orphans do
  @moduledoc false
  # Ends what dead BEAMs of this instance left behind. Killed is only what is
  # proven: the BEAM that owns it is dead, by number, start time and boot, and
  #
  #   - its file names the process, which still is that one by its start time;
  #   - or the process has that BEAM in its environment, as every worker and
  #     what it started has. That also finds what was started but not yet
  #     recorded, and what was never recorded because no file could be written.

  alias Snakepit.{Logger, OSProcess, Spawner}
  alias Snakepit.OSProcess.Listing
  alias Snakepit.Pool.ProcessRegistry.{Disk, Owner}

  @type context :: %{dir: Path.t(), key: String.t(), owner: Owner.t()}

  # A command line takes many of them, but not any number.
  @at_once 200

  @doc "Returns the processes that it ended."
  @spec run(context) :: [pos_integer]
  # Where the kernel does not tell start times nothing can be proven.
  def run(%{owner: %{start: 0}}), do: []

  def run(%{dir: dir, key: key, owner: this}) do
    recorded =
      for path <- Disk.claim(dir, key, this),
          {:ok, entries} <- [Disk.read_claimed(path)],
          do: {path, processes(entries)}

    living = recorded |> Enum.flat_map(&elem(&1, 1)) |> Enum.filter(&running?/1)
    found = Enum.uniq(living ++ marked(this))
    _ = found != [] && report(found, kill(found))

    # A file whose processes do not end is looked at again by the next start.
    for {path, processes} <- recorded,
        not Enum.any?(processes, &running?/1),
        do: _ = File.rm(path)

    for {pid, _start} = process <- found, not running?(process), do: pid
  end

  defp processes(entries) do
    for {_id, %{process_pid: pid, start_time: start}} <- entries,
        is_integer(pid) and pid > 1 and is_integer(start) and start > 0,
        do: {pid, start}
  end

  defp running?({pid, start}), do: OSProcess.alive?(pid, start)

  defp marked(this) do
    if rogue_cleanup?() do
      # What we were started by may be such a process, and is not ours to end.
      own = Listing.variable("self", Owner.variable())

      for pid <- Listing.pids(),
          pid != this.pid,
          start = OSProcess.start_time(pid),
          text = Listing.variable(pid, Owner.variable()),
          text != own,
          owner = Owner.from_text(text),
          owner.scope == this.scope,
          Owner.dead?(owner, this),
          # Read again: the number may have changed hands in between.
          OSProcess.alive?(pid, start),
          do: {pid, start}
    else
      []
    end
  end

  # `rogue_cleanup: false` and `rogue_cleanup: [enabled: false]`.
  defp rogue_cleanup? do
    case Application.get_env(:snakepit, :rogue_cleanup, true) do
      value when is_boolean(value) -> value
      nil -> true
      settings -> Map.get(Map.new(settings), :enabled, true) == true
    end
  end

  defp kill(processes) do
    processes
    |> Enum.chunk_every(@at_once)
    |> Enum.map(&Spawner.kill_processes/1)
    |> Enum.find(:ok, &(&1 != :ok))
  end

  defp report(processes, result) do
    pids = Enum.map_join(processes, ", ", &to_string(elem(&1, 0)))

    case result do
      :ok ->
        Logger.warning(:startup, "ended what a dead BEAM left behind: OS processes #{pids}")

      {:error, why} ->
        Logger.error(:startup, "a dead BEAM left OS processes #{pids}, which do not end: #{why}")
    end
  end
end
