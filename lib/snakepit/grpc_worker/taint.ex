defmodule Snakepit.GRPCWorker.Taint do
  @moduledoc false
  # A pool's worker, the crash barrier and `Snakepit.Worker.TaintRegistry`: whether its
  # end was a crash, and whether it is avoided.
  #
  # One that is avoided has its place in the pool's scheduler, which gives it calls only
  # while the pool has no worker that is not avoided: serving is better than not. What
  # counts is what the registry says when the worker's process looks. It is told of every
  # change after it was written, and sets a timer for the end of a taint; so whatever
  # happens at once, what it saw last is what holds.

  alias Snakepit.{CrashBarrier, HealthMonitor, Native}
  alias Snakepit.GRPCWorker.State
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Worker.TaintRegistry

  # For a process that is busy with its worker's end. It looks all the same.
  @answer_ms 1_000
  # Timers have an end, which a taint need not have.
  @longest_wait_ms 86_400_000

  @doc "Before its callers are answered: they find it tainted."
  @spec exited(State.t(), term) :: :ok
  def exited(%{pool: nil}, _how), do: :ok

  def exited(state, how) do
    why = State.exit_info(state, how)

    with {:ok, reason} <- CrashBarrier.crash_reason(why),
         do: HealthMonitor.crashed(state.pool, state.id, reason)

    with {:ok, barrier} <- barrier(state),
         {:ok, info} <- CrashBarrier.crash_info({:error, {:worker_exit, why}}, barrier) do
      CrashBarrier.taint_worker(state.pool, state.id, info, barrier)
    else
      _ -> :ok
    end
  rescue
    # Without its table, while that is made again, it is only not avoided.
    error in RuntimeError ->
      Snakepit.Logger.warning(:worker, "worker #{state.id}: #{error.message}")
  end

  defp barrier(state) do
    config = CrashBarrier.config(state.config)
    if CrashBarrier.enabled?(config), do: {:ok, config}, else: :off
  end

  @doc """
  The registry says something else of a worker than before: returns when calls go where
  they should. A worker that is not ready yet looks when it is.
  """
  @spec changed(String.t()) :: :ok
  def changed(worker_id) do
    case place(worker_id) do
      {pid, slot} when pid == self() ->
        _ = set(slot, worker_id)
        send(pid, :taint_changed)

      {pid, slot} ->
        ask(pid, slot, worker_id)

      nil ->
        nil
    end

    :ok
  end

  defp place(worker_id) do
    with true <- Process.whereis(Workers) != nil,
         {:ok, pid, %{worker_module: Snakepit.GRPCWorker, ready: true} = known} <-
           Workers.fetch_worker(worker_id) do
      {pid, known[:slot]}
    else
      _ -> nil
    end
  end

  defp ask(pid, slot, worker_id) do
    GenServer.call(pid, :taint_changed, @answer_ms)
  catch
    :exit, {:timeout, _} -> set(slot, worker_id)
    :exit, _gone -> :ok
  end

  @doc """
  Says to the scheduler what the registry says, and looks again when that ends. A
  worker that has `served` meanwhile looks because it was told of a change.
  """
  @spec look(State.t(), :joins | :served) :: State.t()
  def look(state, moment) do
    _ = state.taint_timer && Process.cancel_timer(state.taint_timer)
    left = set(state.slot, state.id)
    # It is over without a start in between: the next one is none after a taint.
    _ = moment == :served && left == 0 && TaintRegistry.consume_restart(state.id)
    %{state | taint_timer: if(state.slot && left > 0, do: timer(left))}
  end

  defp timer(left), do: Process.send_after(self(), :taint_changed, min(left, @longest_wait_ms))

  defp set(slot, worker_id) do
    left = TaintRegistry.left_ms(worker_id)
    # One that is gone, or is to go, stays so.
    _ = slot && Native.slot_set_state(slot, if(left > 0, do: :avoided, else: :ready))
    left
  end
end
