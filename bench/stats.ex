defmodule Bench.Stats do
  @moduledoc false
  # Figures from samples, and what makes a measurement one to repeat.

  # Percent of all processor time, beyond which other work decides the figure.
  @steal_limit 2.0
  @foreign_limit 5.0

  @curve [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.99]

  @doc "The smallest sample that at least `p` percent of all do not exceed."
  @spec percentile([number, ...], number) :: number
  def percentile([_ | _] = samples, p) when p >= 0 and p <= 100,
    do: samples |> Enum.sort() |> List.to_tuple() |> ranked(p)

  @doc "The same for several; what is beyond the resolution of the samples is left out."
  @spec curve([number, ...], [number]) :: [{number, number}]
  def curve([_ | _] = samples, percents \\ @curve) do
    sorted = samples |> Enum.sort() |> List.to_tuple()
    count = tuple_size(sorted)
    for p <- percents, p == 0 or (100 - p) * count > 99.999, do: {p, ranked(sorted, p)}
  end

  defp ranked(sorted, p) do
    count = tuple_size(sorted)
    # Without the error of p / 100: the 99th of 100 is not the 100th.
    rank = (p * count / 100) |> Float.round(6) |> Float.ceil() |> trunc()
    elem(sorted, min(max(rank, 1), count) - 1)
  end

  @spec median([number, ...]) :: number
  def median(samples), do: percentile(samples, 50)

  @doc "A value by its limit; nil when one is not known."
  @spec ratio(number | nil, number | nil) :: float | nil
  def ratio(value, limit) when is_number(value) and is_number(limit) and limit > 0,
    do: value / limit

  def ratio(_value, _limit), do: nil

  @doc """
  What part of the processors' time between two readings of `Bench.Machine.cpu/0`
  others had: the host (`steal`) and foreign processes, in percent. nil when
  the system does not say.
  """
  @spec load(map | nil, map | nil) :: %{steal: float, foreign: float} | nil
  def load(%{} = before, %{} = later) do
    case later.total - before.total do
      total when total > 0 ->
        foreign = later.busy - before.busy - (later.own - before.own)
        %{steal: percent(later.steal - before.steal, total), foreign: percent(foreign, total)}

      _ ->
        nil
    end
  end

  def load(_before, _later), do: nil

  defp percent(part, total), do: Float.round(100 * max(part, 0) / total, 1)

  @spec disturbed?(map | nil) :: boolean
  def disturbed?(nil), do: false

  def disturbed?(load), do: load.steal > @steal_limit or load.foreign > @foreign_limit

  @doc "Of several tries, `{result, load}`, the one with the least foreign work."
  @spec least_disturbed([{term, map | nil}, ...]) :: {term, map | nil}
  def least_disturbed(tries) do
    Enum.min_by(tries, fn
      {_result, nil} -> 0
      {_result, load} -> load.steal + load.foreign
    end)
  end
end
