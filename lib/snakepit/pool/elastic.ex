defmodule Snakepit.Pool.Elastic do
  @moduledoc false
  # How many workers a pool whose size is not fixed is to have. Runs in the
  # process of Snakepit.Pool, which acts.
  #
  # It grows when a request has to wait and still (or again) does a moment later:
  # the scheduler says so once, when it is asked to. It shrinks by workers that
  # have been idle for `idle_timeout` and that no remembered session prefers.

  alias Snakepit.{Defaults, Error, Native}
  alias Snakepit.GRPCWorker.State
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Pool.{Roster, Targets}
  alias Snakepit.Worker.TaintRegistry

  # A queue that is gone after this is not worth a worker.
  @settle_ms 50
  @shortest_look_ms 20
  @longest_look_ms 5_000

  @spec open(Roster.t(), reference) :: Roster.t()
  def open(roster, handle) do
    roster |> bounded() |> watch(handle)
  end

  # Nobody gets more workers than pools may have.
  defp bounded(roster) do
    limit = limit(roster.config)
    config = roster.config

    bounds = %{
      min_size: min(config.min_size, limit),
      max_size: min(config.max_size, limit)
    }

    %{roster | config: Map.merge(config, bounds)}
  end

  defp limit(config), do: config[:max_workers] || Defaults.pool_max_workers()

  @doc "Asks to be told of a queue, and looks for idle workers, where that makes sense."
  @spec watch(Roster.t()) :: Roster.t()
  def watch(roster), do: watch(roster, handle(roster))

  defp watch(roster, handle) do
    if handle != nil and roster.size < roster.config.max_size,
      do: :ok = Native.pool_watch(handle)

    if roster.size > roster.config.min_size and roster.config.idle_timeout != :infinity,
      do: look_later(roster),
      else: roster
  end

  # One timer for each pool.
  defp look_later(%{look?: true} = roster), do: roster

  defp look_later(roster) do
    wait = roster.config.idle_timeout |> div(4) |> max(@shortest_look_ms) |> min(@longest_look_ms)
    _ = Process.send_after(self(), {:shrink?, roster.name}, wait)
    %{roster | look?: true}
  end

  @doc "A request waits."
  @spec short(atom) :: :ok
  def short(name) do
    _ = Process.send_after(self(), {:grow?, name}, @settle_ms)
    :ok
  end

  @doc "The size that it should have, as what waits now."
  @spec grow(Roster.t()) :: pos_integer
  def grow(roster) do
    stats = Native.pool_stats(handle(roster))
    waiting = if stats.slots_available == 0, do: stats.queued, else: 0
    ready = length(Roster.in_state(roster, :ready))
    capacity = State.capacity(roster.config)
    wanted = ready + div(waiting + capacity - 1, capacity)
    size = wanted |> max(roster.size) |> min(roster.config.max_size)
    # A size that changes is watched anew when it has changed.
    if size == roster.size and size < roster.config.max_size, do: watch_queue(roster)
    size
  end

  defp watch_queue(roster), do: :ok = Native.pool_watch(handle(roster))

  @doc "The size without those that were idle for long, and who they are."
  @spec shrink(Roster.t()) :: {pos_integer, [String.t()]}
  def shrink(roster) do
    timeout = roster.config.idle_timeout
    most = max(roster.size - roster.config.min_size, 0)

    idle =
      for {id, %{load: 0, sessions: 0, idle_ms: ms}} <- slots(roster), ms >= timeout, do: {ms, id}

    ids = idle |> Enum.sort(:desc) |> Enum.take(most) |> Enum.map(&elem(&1, 1))
    {roster.size - length(ids), ids}
  end

  @doc "The pool with what is asked for, and the size that it should have."
  @spec resize(Roster.t(), term) :: {:ok, Roster.t(), pos_integer} | {:error, Error.t()}
  def resize(roster, low..high//_ = range) do
    limit = limit(roster.config)

    cond do
      low < 1 or high < low or range.step != 1 ->
        refuse(roster, range, "a range of workers begins with at least 1 and does not fall")

      high > limit ->
        refuse(roster, range, over(limit))

      true ->
        config = %{roster.config | min_size: low, max_size: high}
        {:ok, %{roster | config: config}, roster.size |> max(low) |> min(high)}
    end
  end

  def resize(roster, size) when is_integer(size) and size > 0 do
    %{min_size: low, max_size: high} = roster.config
    limit = limit(roster.config)

    cond do
      size > limit ->
        refuse(roster, size, over(limit))

      low == high ->
        {:ok, %{roster | config: %{roster.config | min_size: size, max_size: size}}, size}

      size < low or size > high ->
        refuse(roster, size, "its bounds are #{low}..#{high}: resize to a range to change them")

      true ->
        {:ok, roster, size}
    end
  end

  def resize(roster, other),
    do: refuse(roster, other, "a size is a positive number of workers or a range of them")

  defp over(limit),
    do: "the limit is #{limit}: raise max_workers or config :snakepit, pool_max_workers"

  defp refuse(roster, size, why) do
    {:error,
     Error.validation_error(
       "pool #{inspect(roster.name)} cannot get the size #{inspect(size)}: #{why}",
       %{pool: roster.name, size: size, reason: :invalid_size}
     )}
  end

  @doc "Who is too much, replacements aside: those that are missed least."
  @spec surplus(Roster.t(), [String.t()]) :: [String.t()]
  def surplus(roster, replacements) do
    unready =
      Enum.flat_map([:failed, :waiting, :starting], &Roster.in_state(roster, &1)) -- replacements

    known = slots(roster)

    ready =
      roster
      |> Roster.in_state(:ready)
      |> Enum.sort_by(fn id ->
        stats = Map.get(known, id, %{load: 0, sessions: 0, idle_ms: 0})
        avoided? = TaintRegistry.worker_tainted?(id)
        {not avoided?, stats.sessions > 0, stats.load, -stats.idle_ms}
      end)

    Enum.take(unready ++ ready, max(length(unready) + length(ready) - roster.size, 0))
  end

  defp slots(roster) do
    for id <- Roster.in_state(roster, :ready),
        {:ok, %{slot: slot}} when slot != nil <- [Workers.get_worker_metadata(id)],
        {:ok, stats} <- [Native.slot_stats(slot)],
        into: %{},
        do: {id, stats}
  end

  defp handle(roster) do
    case Targets.find(roster.name) do
      {:ok, target} -> target.handle
      _ -> nil
    end
  end
end
