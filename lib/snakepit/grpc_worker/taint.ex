defmodule Snakepit.GRPCWorker.Taint do
  @moduledoc false
  # A pool's worker and the crash barrier: whether its end was a crash, and
  # whether it is avoided when it is back.
  #
  # One that is avoided has no place in the pool's scheduler until its time is
  # over, so nothing is given to it, not even what waits at that moment. A pool
  # that has no other worker does not avoid any: serving is better than not.
  # A worker first says that it is there and then looks whether it is the only
  # one; one that leaves first gives up its place and then looks who is there.
  # So one of two sees the other.

  alias Snakepit.{CrashBarrier, Native}
  alias Snakepit.GRPCWorker.State
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Pool.Targets
  alias Snakepit.Worker.TaintRegistry

  @doc "Before its callers are answered: they find it tainted."
  @spec exited(State.t(), term) :: :ok
  def exited(%{pool: nil}, _how), do: :ok

  def exited(state, how) do
    with {:ok, barrier} <- barrier(state),
         result = {:error, {:worker_exit, State.exit_info(state, how)}},
         {:ok, info} <- CrashBarrier.crash_info(result, barrier) do
      CrashBarrier.taint_worker(state.pool, state.id, info, barrier)
    else
      _ -> :ok
    end
  rescue
    # Without its table, while that is made again, it is only not avoided.
    error in RuntimeError ->
      Snakepit.Logger.warning(:worker, "worker #{state.id}: #{error.message}")
  end

  @doc "How long it is to stay away; asked when the world knows that it is there."
  @spec avoid_ms(State.t()) :: non_neg_integer
  def avoid_ms(%{pool: nil}), do: 0

  def avoid_ms(state) do
    case TaintRegistry.left_ms(state.id) do
      0 -> 0
      left -> if others?(state) and match?({:ok, _}, barrier(state)), do: left, else: 0
    end
  end

  @doc "It has left: those that are avoided come when nobody else is there."
  @spec left(State.t()) :: :ok
  def left(%{pool: nil}), do: :ok

  def left(state) do
    if match?({:ok, _}, barrier(state)) and not others?(state),
      do: Enum.each(avoided(state.pool), &come(&1, state.id)),
      else: :ok
  end

  defp come({_pid, id}, id), do: :ok

  defp come({pid, _id}, _gone) do
    send(pid, :taint_over)
    :ok
  end

  defp avoided(pool) do
    pattern = {:"$1", :"$2", %{pool_name: pool, ready: true, slot: nil}}
    Registry.select(Workers, [{pattern, [], [{{:"$2", :"$1"}}]}])
  end

  defp others?(state) do
    case Targets.find(state.pool) do
      {:ok, target} -> Native.pool_stats(target.handle).slots > 0
      _ -> false
    end
  end

  defp barrier(state) do
    config = CrashBarrier.config(state.config)
    if CrashBarrier.enabled?(config), do: {:ok, config}, else: :off
  end
end
