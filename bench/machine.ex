defmodule Bench.Machine do
  @moduledoc false
  # What the figures were measured on, and who else used the processors.

  @doc """
  Processor time so far, in ticks of all processors together: all, busy, stolen
  by the host, and that of this VM with all its descendants. nil without /proc.
  """
  @spec cpu() :: map | nil
  def cpu do
    with {:ok, stat} <- File.read("/proc/stat"),
         ["cpu" | fields] <- stat |> String.split("\n", parts: 2) |> hd() |> String.split() do
      # guest time is part of user time
      [user, nice, system, idle, iowait, irq, softirq, steal | _] =
        Enum.map(fields, &String.to_integer/1)

      busy = user + nice + system + irq + softirq
      %{total: busy + idle + iowait + steal, busy: busy, steal: steal, own: own_ticks()}
    else
      _ -> nil
    end
  end

  # Children that were waited for are in their parent's account.
  defp own_ticks do
    table = processes()
    children = Enum.group_by(table, fn {_pid, {parent, _}} -> parent end, &elem(&1, 0))
    root = String.to_integer(System.pid())

    root
    |> descendants(children)
    |> Enum.reduce(0, fn pid, sum -> sum + elem(Map.get(table, pid, {0, 0}), 1) end)
  end

  defp descendants(pid, children),
    do: [pid | children |> Map.get(pid, []) |> Enum.flat_map(&descendants(&1, children))]

  defp processes do
    for entry <- File.ls!("/proc"),
        {pid, ""} <- [Integer.parse(entry)],
        {:ok, stat} <- [File.read("/proc/#{pid}/stat")],
        into: %{},
        do: {pid, parent_and_ticks(stat)}
  end

  # The name may have blanks and parentheses: the fields begin after the last.
  defp parent_and_ticks(stat) do
    fields = stat |> String.split(")") |> List.last() |> String.split()
    ticks = fields |> Enum.slice(11, 4) |> Enum.map(&String.to_integer/1) |> Enum.sum()
    {fields |> Enum.at(1) |> String.to_integer(), ticks}
  end

  @doc "Lines for the head of the report."
  @spec facts(Path.t()) :: [{String.t(), String.t()}]
  def facts(python) do
    [
      {"processor", "#{processor()}, #{System.schedulers_online()} schedulers"},
      {"system", first_line("uname", ["-srm"])},
      {"VM", "Elixir #{System.version()}, OTP #{System.otp_release()}, #{vm_flags()}"},
      {"Python", first_line(python, ["--version"])},
      {"commit", commit()},
      {"date", DateTime.utc_now() |> DateTime.truncate(:second) |> DateTime.to_string()}
    ]
  end

  defp vm_flags do
    flags = for name <- ["ERL_FLAGS", "ELIXIR_ERL_OPTIONS"], do: System.get_env(name, "")

    case flags |> Enum.join(" ") |> String.trim() do
      "" -> "default flags"
      text -> text
    end
  end

  defp processor do
    with {:ok, text} <- File.read("/proc/cpuinfo"),
         [_, name] <- Regex.run(~r/^model name\s*:\s*(.+)$/m, text) do
      name
    else
      _ -> to_string(:erlang.system_info(:system_architecture))
    end
  end

  defp commit do
    case first_line("git", ["rev-parse", "--short", "HEAD"]) do
      "unknown" -> "unknown"
      id -> if first_line("git", ["status", "--porcelain"]) == "", do: id, else: id <> ", changed"
    end
  end

  defp first_line(program, args) do
    {text, 0} = System.cmd(program, args, stderr_to_stdout: true)
    text |> String.split("\n") |> hd() |> String.trim()
  rescue
    _ -> "unknown"
  end
end
