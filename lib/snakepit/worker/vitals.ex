defmodule Snakepit.Worker.Vitals do
  @moduledoc false
  # What the kernel says about a worker's OS process: whether it works, though it
  # does not answer, and how much memory it and its descendants hold.
  #
  # A thread that computes without letting others in (C code that keeps Python's
  # lock) uses a processor, or stands in line for one. A thread that waits for a
  # lock does neither, but for the moments in which it looks at it: less than a
  # hundredth of the time.

  alias Snakepit.OSProcess

  @typedoc "At which time; each thread's time on a processor and in line for one, in ns."
  @type sample ::
          %{
            at: integer,
            stopped?: boolean,
            threads: %{String.t() => {non_neg_integer, non_neg_integer}}
          }
          | :unknown

  # Of one processor.
  @working 0.05
  # Starved is who mostly stands in line.
  @starved 0.5
  # Shorter, and the kernel's clock ticks are too coarse.
  @least_ns 50_000_000

  @doc "To be compared with a later one; `:unknown` where there is no /proc."
  @spec sample(pos_integer | nil) :: sample
  def sample(nil), do: :unknown

  def sample(os_pid) do
    dir = "/proc/#{os_pid}/task"

    case File.ls(dir) do
      {:ok, [_ | _] = tids} ->
        states = Enum.map(tids, &thread_state(dir, &1))

        %{
          at: System.monotonic_time(:nanosecond),
          stopped?: Enum.all?(states, &(&1 in ["T", "t", nil])),
          threads: for(tid <- tids, times = times(dir, tid), into: %{}, do: {tid, times})
        }

      _ ->
        :unknown
    end
  end

  defp thread_state(dir, tid) do
    case OSProcess.fields("#{dir}/#{tid}/stat") do
      [state | _] -> state
      nil -> nil
    end
  end

  defp times(dir, tid) do
    with {:ok, text} <- File.read("#{dir}/#{tid}/schedstat"),
         [run, delay | _] <- String.split(text) do
      {String.to_integer(run), String.to_integer(delay)}
    else
      _ -> ticks("#{dir}/#{tid}/stat")
    end
  end

  # Kernels without schedstat count hundredths of a second.
  defp ticks(path) do
    case OSProcess.fields(path) do
      nil ->
        nil

      fields ->
        [user, system] = for i <- [11, 12], do: fields |> Enum.at(i) |> String.to_integer()
        {(user + system) * 10_000_000, 0}
    end
  end

  @doc "Whether a thread of the process worked between two samples."
  @spec activity(sample, sample) :: :active | :idle | :unknown
  def activity(:unknown, _later), do: :unknown
  def activity(_earlier, :unknown), do: :unknown
  def activity(_earlier, %{stopped?: true}), do: :idle

  def activity(earlier, later) do
    elapsed = later.at - earlier.at

    cond do
      elapsed < @least_ns -> :unknown
      Enum.any?(later.threads, &worked?(&1, earlier.threads, elapsed)) -> :active
      true -> :idle
    end
  end

  defp worked?({tid, {run, delay}}, earlier, elapsed) do
    {run_before, delay_before} = Map.get(earlier, tid, {0, 0})
    ran = run - run_before
    waited = delay - delay_before
    ran > @working * elapsed or (ran > 0 and ran + waited > @starved * elapsed)
  end

  # ---- waits --------------------------------------------------------------

  # In which a thread waits for another one, or for calls, by the machine's numbers
  # (futex, futex_waitv, epoll_wait, epoll_pwait, epoll_pwait2, ppoll).
  @no_work %{"x86_64" => [202, 449, 232, 281, 441, 271], "aarch64" => [98, 449, 22, 441, 73]}
  # As snakepit_bridge calls its threads.
  @lanes ["tool-", "event-loop"]

  @doc """
  Whether a thread that runs tools waits for the system: for time to pass, for a
  file, for the network. Python's lock may be held meanwhile. A thread that waits
  for another thread does not, which is all that those of a deadlock do. False
  where the kernel does not say so, as of a process of another user.
  """
  @spec waits?(pos_integer | nil) :: boolean
  def waits?(nil), do: false

  def waits?(os_pid) do
    case no_work() do
      nil -> false
      numbers -> Enum.any?(lanes(os_pid), &(system_call(&1) not in [nil | numbers]))
    end
  end

  defp no_work do
    machine =
      :erlang.system_info(:system_architecture) |> to_string() |> String.split("-") |> hd()

    @no_work[machine]
  end

  # The main thread is one.
  defp lanes(os_pid) do
    dir = "/proc/#{os_pid}/task"

    for tid <- ls(dir),
        tid == Integer.to_string(os_pid) or lane?("#{dir}/#{tid}/comm"),
        do: "#{dir}/#{tid}"
  end

  defp lane?(path) do
    case File.read(path) do
      {:ok, name} -> String.starts_with?(name, @lanes)
      _ -> false
    end
  end

  # nil for one that runs, or is gone.
  defp system_call(thread) do
    with {:ok, text} <- File.read("#{thread}/syscall"),
         {number, " " <> _} when number >= 0 <- Integer.parse(text) do
      number
    else
      _ -> nil
    end
  end

  # ---- memory -------------------------------------------------------------

  @doc """
  The memory of OS processes and of all that they started, in bytes, by the
  number of each; pages that are shared count as a part (PSS). Those that are
  gone are left out.
  """
  @spec memory([pos_integer]) :: %{pos_integer => non_neg_integer}
  def memory([]), do: %{}

  def memory(os_pids) do
    processes = processes()

    for os_pid <- os_pids,
        members = members(os_pid, processes),
        bytes = members |> Enum.map(&bytes/1) |> Enum.sum(),
        bytes > 0,
        into: %{},
        do: {os_pid, bytes}
  end

  # A worker leads a session: what it started is there, or descends from there.
  defp members(os_pid, processes) do
    session = for {pid, _parent, ^os_pid} <- processes, do: pid
    grow(MapSet.new([os_pid | session]), processes)
  end

  defp grow(known, processes) do
    more = for {pid, parent, _session} <- processes, parent in known, into: known, do: pid
    if MapSet.size(more) == MapSet.size(known), do: known, else: grow(more, processes)
  end

  defp processes do
    for name <- ls("/proc"),
        {pid, ""} <- [Integer.parse(name)],
        [_state, parent, _group, session | _] <- [OSProcess.fields("/proc/#{name}/stat")],
        do: {pid, String.to_integer(parent), String.to_integer(session)}
  end

  defp ls(dir) do
    case File.ls(dir) do
      {:ok, names} -> names
      _ -> []
    end
  end

  defp bytes(pid) do
    with {:ok, text} <- File.read("/proc/#{pid}/smaps_rollup"),
         [_, kilobytes] <- Regex.run(~r/^Pss:\s+(\d+) kB/m, text) do
      String.to_integer(kilobytes) * 1024
    else
      _ -> resident(pid)
    end
  end

  # Of a process of another user, or on an old kernel.
  defp resident(pid) do
    with {:ok, text} <- File.read("/proc/#{pid}/status"),
         [_, kilobytes] <- Regex.run(~r/^VmRSS:\s+(\d+) kB/m, text) do
      String.to_integer(kilobytes) * 1024
    else
      _ -> 0
    end
  end
end
