defmodule Snakepit.OSProcess.Listing do
  @moduledoc false
  # Which processes there are, and with what they were started: /proc on Linux,
  # the program ps elsewhere.

  @spec linux?() :: boolean
  def linux?, do: :os.type() == {:unix, :linux}

  @doc "The numbers of all processes that can be seen."
  @spec pids() :: [pos_integer]
  def pids do
    if linux?() do
      with {:ok, names} <- File.ls("/proc") do
        for name <- names, {pid, ""} <- [Integer.parse(name)], do: pid
      else
        _ -> []
      end
    else
      ps(["-A", "-o", "pid="]) |> String.split() |> Enum.map(&String.to_integer/1)
    end
  end

  @doc "Program and arguments; [] for what has none (kernel threads, zombies), nil when gone."
  @spec args(pos_integer) :: [String.t()] | nil
  def args(pid) do
    if linux?() do
      with {:ok, bytes} <- File.read("/proc/#{pid}/cmdline") do
        # A process may have written a title over it, without the last zero.
        bytes |> String.trim_trailing(<<0>>) |> String.split(<<0>>) |> Enum.reject(&(&1 == ""))
      else
        _ -> nil
      end
    else
      case String.split(ps(["-o", "command=", "-p", "#{pid}"])) do
        [] -> nil
        args -> args
      end
    end
  end

  @doc "The process group."
  @spec pgid(pos_integer) :: pos_integer | nil
  def pgid(pid) do
    text =
      if linux?() do
        with {:ok, text} <- File.read("/proc/#{pid}/stat"),
             [_, pgid] <- Regex.run(~r/^.*\) \S \d+ (\d+) /s, text) do
          pgid
        else
          _ -> ""
        end
      else
        String.trim(ps(["-o", "pgid=", "-p", "#{pid}"]))
      end

    case Integer.parse(text) do
      {pgid, ""} when pgid > 0 -> pgid
      _ -> nil
    end
  end

  @doc "A variable of the environment it was started with, where that can be read."
  @spec variable(pos_integer | String.t(), String.t()) :: String.t() | nil
  def variable(pid, name) do
    with {:ok, bytes} <- File.read("/proc/#{pid}/environ") do
      prefix = name <> "="

      bytes
      |> String.split(<<0>>)
      |> Enum.find_value(fn entry ->
        if String.starts_with?(entry, prefix),
          do: binary_part(entry, byte_size(prefix), byte_size(entry) - byte_size(prefix))
      end)
    else
      _ -> nil
    end
  end

  defp ps(args) do
    case System.cmd("ps", args, stderr_to_stdout: true) do
      {text, 0} -> text
      _ -> ""
    end
  rescue
    ErlangError -> ""
  end
end
