defmodule Snakepit.OSProcess do
  @moduledoc false
  # What the kernel says about a process. A number is used again after its
  # process is gone; a number and a start time are not.

  @type start_time :: non_neg_integer | nil

  @doc "In clock ticks since boot; nil when there is no such process or no /proc."
  @spec start_time(pos_integer) :: start_time
  def start_time(pid) do
    case stat(pid) do
      {_state, time} -> time
      nil -> nil
    end
  end

  @doc "Whether that very process still runs; zombies do not."
  @spec alive?(pos_integer, start_time) :: boolean
  def alive?(_pid, nil), do: false

  def alive?(pid, time) do
    case stat(pid) do
      {state, ^time} -> state not in ["Z", "X"]
      _ -> false
    end
  end

  defp stat(pid) do
    case fields("/proc/#{pid}/stat") do
      [state | fields] -> {state, fields |> Enum.at(18) |> String.to_integer()}
      nil -> nil
    end
  end

  @doc "What a stat file says from the state on; nil when it cannot be read."
  @spec fields(Path.t()) :: [String.t(), ...] | nil
  # The name in the second field may contain anything, so count from its end.
  def fields(path) do
    with {:ok, text} <- File.read(path),
         [_, rest] <- Regex.run(~r/^.*\) (.*)$/s, text),
         [_ | _] = fields <- String.split(rest) do
      fields
    else
      _ -> nil
    end
  end
end
