defmodule Snakepit.Pool.Drain do
  @moduledoc false
  # Lets a pool finish what it has taken.

  alias Snakepit.{Error, Native}

  @poll_ms 10

  @spec run(map, timeout) :: :ok | {:error, Error.t()}
  def run(target, timeout) do
    :ok = Native.pool_set_draining(target.handle, true)
    until = if timeout == :infinity, do: :infinity, else: now() + timeout
    await(target, timeout, until)
  end

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
