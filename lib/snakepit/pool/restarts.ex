defmodule Snakepit.Pool.Restarts do
  @moduledoc false
  # Which workers were lost that had been there, and are being started again under
  # their id, as plain data.

  @type lost :: %{pid: pid, reason: term, at: integer, count: pos_integer}
  @type t :: %{String.t() => lost | pos_integer}

  @spec new() :: t
  def new, do: %{}

  @spec lost(t, String.t(), pid, term) :: t
  def lost(restarts, id, pid, reason) do
    lost = %{
      pid: pid,
      reason: reason,
      at: System.monotonic_time(),
      count: count(restarts[id]) + 1
    }

    Map.put(restarts, id, lost)
  end

  defp count(nil), do: 0
  defp count(%{count: count}), do: count
  defp count(count), do: count

  @doc "It is there: what was lost, if it was."
  @spec ready(t, String.t()) :: {lost | nil, t}
  def ready(restarts, id) do
    case restarts do
      %{^id => %{count: count} = lost} -> {lost, %{restarts | id => count}}
      _ -> {nil, restarts}
    end
  end

  @doc "It does not come back."
  @spec gone(t, String.t()) :: t
  def gone(restarts, id), do: Map.delete(restarts, id)
end
