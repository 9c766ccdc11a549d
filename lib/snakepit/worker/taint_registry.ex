defmodule Snakepit.Worker.TaintRegistry do
  @moduledoc """
  Workers that are avoided, and until when.

  A worker keeps its id when its OS process is started again, so a taint
  outlives the process that earned it. `Snakepit.CrashBarrier` writes here when a
  worker dies, and so may you, with or without a crash barrier; reading is one look into
  an ETS table.

      :ok = Snakepit.Worker.TaintRegistry.taint_worker("default_worker_1", duration_ms: 5_000)
      true = Snakepit.Worker.TaintRegistry.worker_tainted?("default_worker_1")

  A worker that is tainted finishes what it runs and gets no further calls, except in a
  pool that has no other worker. Calls of its sessions go elsewhere (`:hint`) or are refused
  with `:session_worker_unavailable` (strict modes).
  """

  alias Snakepit.{Defaults, ETSOwner}
  alias Snakepit.GRPCWorker.Taint

  @table :snakepit_worker_taints
  # Of workers that never came back.
  @forgotten_after_ms 600_000

  @typedoc "What was given to `taint_worker/2`, and `:tainted_until` in monotonic ms."
  @type info :: map

  @doc """
  Taints a worker from now on, for `:duration_ms` (`crash_barrier_taint_duration_ms`), in
  place of a taint that it may have. When this returns no call goes to it any more. Other
  options (`:pool`, `:reason`, `:exit_code`, `:device`) are kept as they are.
  """
  @spec taint_worker(String.t(), keyword | map) :: :ok
  def taint_worker(worker_id, opts \\ []) do
    table = ETSOwner.ensure_table(@table)
    {duration, info} = opts |> Map.new() |> Map.pop(:duration_ms)
    duration = duration(duration || Defaults.crash_barrier_taint_duration_ms())
    until = now() + duration

    _ = :ets.select_delete(table, [{{:_, :"$1", :_, :_}, [{:<, :"$1", forgotten()}], [true]}])
    info = Map.merge(info, %{duration_ms: duration, tainted_until: until})
    true = :ets.insert(table, {worker_id, until, true, info})
    Taint.changed(worker_id)
  end

  defp duration(ms) when is_integer(ms) and ms >= 0, do: ms

  defp duration(other) do
    raise ArgumentError,
          "duration_ms is how long a worker is avoided, an integer of at least 0, " <>
            "got: #{inspect(other)}"
  end

  @doc "Whether it is tainted now."
  @spec worker_tainted?(String.t()) :: boolean
  def worker_tainted?(worker_id), do: left_ms(worker_id) > 0

  @doc false
  # How much longer, in ms.
  @spec left_ms(String.t()) :: non_neg_integer
  def left_ms(worker_id) do
    case lookup(worker_id) do
      [{_, until, _, _}] -> max(until - now(), 0)
      [] -> 0
    end
  end

  @doc "What is known of a worker that is tainted now."
  @spec worker_info(String.t()) :: {:ok, info} | :error
  def worker_info(worker_id) do
    case lookup(worker_id) do
      [{_, until, _, info}] -> if until > now(), do: {:ok, info}, else: :error
      [] -> :error
    end
  end

  @doc """
  The first time after a taint it says what the taint was, then `:error`: for who
  tells that the worker is back. The taint itself lasts its time.
  """
  @spec consume_restart(String.t()) :: {:ok, info} | :error
  def consume_restart(worker_id) do
    case lookup(worker_id) do
      [{_, until, true, info}] ->
        # Of several at once only one finds it untold.
        head = {worker_id, until, true, :"$1"}
        told = [{head, [], [{{worker_id, until, false, :"$1"}}]}]
        if :ets.select_replace(@table, told) == 1, do: {:ok, info}, else: :error

      _ ->
        :error
    end
  end

  @doc "Forgets a worker's taint; when this returns it gets calls again."
  @spec clear_worker(String.t()) :: :ok
  def clear_worker(worker_id) do
    _ = there?() && :ets.delete(@table, worker_id)
    Taint.changed(worker_id)
  end

  defp lookup(worker_id), do: if(there?(), do: :ets.lookup(@table, worker_id), else: [])
  defp there?, do: :ets.whereis(@table) != :undefined
  defp forgotten, do: now() - @forgotten_after_ms
  defp now, do: System.monotonic_time(:millisecond)
end
