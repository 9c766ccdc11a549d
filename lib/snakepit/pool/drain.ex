defmodule Snakepit.Pool.Drain do
  @moduledoc false
  # Lets a pool finish what it has taken.

  alias Snakepit.{Error, Native}
  alias Snakepit.Pool.{Call, Changes}

  @poll_ms 10

  @spec run(map, timeout) :: :ok | {:error, Error.t()}
  def run(target, timeout) do
    :ok = set(target, true)
    until = if timeout == :infinity, do: :infinity, else: now() + timeout
    await(target, timeout, until)
  end

  @doc "It takes calls again."
  @spec resume(Call.target()) :: :ok
  def resume(target), do: set(target, false)

  @doc "Whether it takes no new calls."
  @spec draining?(Call.target()) :: boolean
  def draining?(target), do: :persistent_term.get(key(target), nil) == target.handle

  # With the handle: the scheduler that may follow takes calls.
  defp set(target, draining?) do
    :ok = Native.pool_set_draining(target.handle, draining?)

    if draining?,
      do: :persistent_term.put(key(target), target.handle),
      else: :persistent_term.erase(key(target))

    Changes.tell()
  end

  defp key(target), do: {__MODULE__, target.name}

  defp await(target, timeout, until) do
    case Native.pool_stats(target.handle) do
      %{running: 0, queued: 0} ->
        :ok

      # Numbers sort before atoms.
      %{running: running, queued: queued} ->
        if now() < until do
          Process.sleep(@poll_ms)
          await(target, timeout, until)
        else
          {:error, too_late(target.name, timeout, running, queued)}
        end
    end
  end

  defp too_late(name, timeout, running, queued) do
    Error.timeout_error(
      "pool #{inspect(name)} is not drained after #{timeout} ms: #{running} calls run, " <>
        "#{queued} wait. It takes no new ones: drain/2 waits again, resume/1 opens it",
      %{pool: name, timeout_ms: timeout, running: running, queued: queued, reason: :timeout}
    )
  end

  defp now, do: System.monotonic_time(:millisecond)
end
