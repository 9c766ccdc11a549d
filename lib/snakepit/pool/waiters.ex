defmodule Snakepit.Pool.Waiters do
  @moduledoc false
  # Who waits for pools to have workers, and what they are told.

  alias Snakepit.Error
  alias Snakepit.Pool.Roster

  @type waiter :: %{what: :ready | :init_complete, names: [atom], timeout: timeout}
  @type pools :: %{atom => Roster.t()}

  @spec wanted(:all | Snakepit.Pool.pool(), [atom]) :: {:ok, [atom]} | :error
  def wanted(:all, order), do: {:ok, order}

  def wanted(name, order) do
    case Enum.find(order, &(&1 == name or Atom.to_string(&1) == name)) do
      nil -> :error
      name -> {:ok, [name]}
    end
  end

  @doc "Answers those whose wait is over; the others."
  @spec settle(%{GenServer.from() => waiter}, pools) :: %{GenServer.from() => waiter}
  def settle(waiters, pools) do
    {answered, waiting} =
      waiters
      |> Enum.map(fn {from, waiter} -> {from, waiter, verdict(waiter, pools)} end)
      |> Enum.split_with(fn {_from, _waiter, answer} -> answer != nil end)

    for {from, _waiter, answer} <- answered, do: GenServer.reply(from, answer)
    Map.new(waiting, fn {from, waiter, nil} -> {from, waiter} end)
  end

  @doc "What a waiter is to be told now; nil: nothing yet."
  @spec verdict(waiter, pools) :: :ok | {:error, Error.t()} | nil
  def verdict(%{what: what, names: names}, rosters) do
    pools = Enum.map(names, &Map.fetch!(rosters, &1))

    cond do
      Enum.any?(pools, &Roster.dead?/1) -> {:error, dead(Enum.filter(pools, &Roster.dead?/1))}
      what == :init_complete and not Enum.all?(pools, &Roster.settled?/1) -> nil
      Enum.all?(pools, &Roster.ready?/1) -> :ok
      true -> nil
    end
  end

  defp dead([roster | _] = rosters) do
    details =
      case Enum.map(rosters, & &1.name) do
        [name] -> %{pool: name}
        names -> %{pools: names}
      end

    Error.pool_error(
      "pool #{inspect(roster.name)} has no worker: #{roster.error.message}",
      roster.error.details |> Map.merge(details) |> Map.put(:reason, :no_workers_started)
    )
  end

  @spec too_long(waiter, pools) :: Error.t()
  def too_long(waiter, pools) do
    late = Enum.reject(waiter.names, &Roster.ready?(pools[&1]))
    shown = if late == [], do: waiter.names, else: late
    pool = if length(shown) == 1, do: hd(shown), else: shown

    Error.timeout_error(
      "pool #{inspect(pool)} was not ready within #{waiter.timeout} ms",
      %{pool: pool, timeout_ms: waiter.timeout, reason: :timeout}
    )
  end
end
