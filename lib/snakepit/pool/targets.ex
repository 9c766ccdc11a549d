defmodule Snakepit.Pool.Targets do
  @moduledoc false
  # What callers need to reach a pool, where every process can read it without
  # asking another one.

  alias Snakepit.Native
  alias Snakepit.Pool
  alias Snakepit.Pool.{Call, Changes, Drain}

  @names {__MODULE__, :names}

  @stats [
    requests: :requests,
    answered: :completed,
    cancelled: :cancelled,
    queue_timeouts: :queue_timeouts,
    timeouts: :deadlines,
    workers_lost: :slots_lost,
    refused: :refused,
    pool_saturated: :saturated,
    queued: :queued,
    abandoned: :abandoned,
    workers: :slots,
    available: :slots_available,
    busy: :slots_busy
  ]

  # What `failed` is the sum of.
  @failed [:cancelled, :queue_timeouts, :timeouts, :workers_lost, :refused]

  @spec put(Call.target()) :: :ok
  def put(target), do: :persistent_term.put(key(target.name), target)

  @doc "Says which pools there are; the first is the default, unless one is named :default."
  @spec publish([atom, ...]) :: :ok
  def publish(names) do
    default = if :default in names, do: :default, else: hd(names)
    :persistent_term.put(@names, %{default: default, names: names})
    Changes.tell()
  end

  @spec erase() :: :ok
  def erase do
    gone = names()
    _ = :persistent_term.erase(@names)
    Enum.each(gone, &:persistent_term.erase(key(&1)))
    Changes.tell()
  end

  @spec names() :: [atom]
  def names, do: :persistent_term.get(@names, %{names: []}).names

  @spec all() :: [Call.target()]
  def all do
    for name <- names(), {:ok, target} <- [find(name)], do: target
  end

  @doc "By name or text; `Snakepit.Pool`, a process or nil mean the default pool."
  @spec find(Pool.pool() | nil) ::
          {:ok, Call.target()} | {:error, :not_running | :pool_not_found, name :: term}
  def find(pool) when is_nil(pool) or pool == Pool or is_pid(pool) do
    case :persistent_term.get(@names, nil) do
      nil -> {:error, :not_running, pool || Pool}
      %{default: name} -> find(name)
    end
  end

  def find(pool) when is_atom(pool) do
    case :persistent_term.get(key(pool), nil) do
      nil -> absent(pool)
      target -> {:ok, target}
    end
  end

  # No atom is made of a name that comes from outside.
  def find(pool) when is_binary(pool) do
    case Enum.find(names(), &(Atom.to_string(&1) == pool)) do
      nil -> absent(pool)
      name -> find(name)
    end
  end

  def find(pool), do: absent(pool)

  defp absent(pool) do
    {:error, if(names() == [], do: :not_running, else: :pool_not_found), pool}
  end

  @doc "Whether it takes calls and has a worker for them."
  @spec serves?(Call.target()) :: boolean
  def serves?(target),
    do: not Drain.draining?(target) and Native.pool_stats(target.handle).slots > 0

  @doc "The counters of one pool."
  @spec stats(Call.target()) :: %{atom => non_neg_integer}
  def stats(target) do
    native = Native.pool_stats(target.handle)
    counts = Map.new(@stats, fn {key, native_key} -> {key, Map.fetch!(native, native_key)} end)

    Map.merge(counts, %{
      running: native.running - native.abandoned,
      failed: counts |> Map.take(@failed) |> Map.values() |> Enum.sum(),
      errors: :counters.get(target.errors, 1)
    })
  end

  @doc "The counters of all pools together."
  @spec stats() :: %{atom => non_neg_integer}
  def stats do
    zeros = Map.new([:running, :failed, :errors | Keyword.keys(@stats)], &{&1, 0})
    Enum.reduce(all(), zeros, &Map.merge(&2, stats(&1), fn _key, a, b -> a + b end))
  end

  defp key(name), do: {__MODULE__, :pool, name}

  @doc "Counts a call that failed; gives its result back."
  @spec counted(result, Call.target()) :: result when result: term
  def counted({:error, _} = result, target) do
    :ok = :counters.add(target.errors, 1, 1)
    result
  end

  def counted(result, _target), do: result
end
