defmodule Snakepit.Pool.Roster do
  @moduledoc false
  # Which workers one pool has and wants, as plain data. Snakepit.Pool acts.
  #
  # A worker is :waiting (to be started), :starting, {:ready, pid}, :failed, or
  # :retiring: another one has its place, or nobody.
  # The first set of workers is the pool's initialisation; it is over when
  # each of them is ready or has failed.

  alias Snakepit.Error

  @longest_wait_ms 60_000

  @enforce_keys [:name, :config, :size]
  defstruct [
    :name,
    :config,
    :size,
    :error,
    workers: %{},
    unsettled: MapSet.new(),
    ready_once?: false,
    tries: 0,
    retry_at: nil,
    gave_up?: false,
    # Of an elastic pool: the timer to look for idle workers is set.
    look?: false
  ]

  @type worker_id :: String.t()
  @type t :: %__MODULE__{
          name: atom,
          config: map,
          size: pos_integer,
          error: Error.t() | nil,
          workers: %{worker_id => :waiting | :starting | {:ready, pid} | :failed | :retiring},
          unsettled: MapSet.t(worker_id),
          ready_once?: boolean,
          tries: non_neg_integer,
          retry_at: integer | nil,
          gave_up?: boolean,
          look?: boolean
        }

  @spec new(map, pos_integer) :: t
  def new(config, size), do: %__MODULE__{name: config.name, config: config, size: size}

  @doc "Ids for `count` more workers, of the first set when `:initial`."
  @spec add(t, non_neg_integer, :initial | :later) :: {t, [worker_id]}
  def add(roster, count, kind) do
    ids =
      for i <- 1..count//1 do
        unique = System.unique_integer([:positive])
        if kind == :initial, do: "#{roster.name}_worker_#{i}_#{unique}", else: id(roster, unique)
      end

    workers = Enum.into(ids, roster.workers, &{&1, :waiting})
    roster = %{roster | workers: workers}

    if kind == :initial,
      do: {%{roster | unsettled: MapSet.new(ids)}, ids},
      else: {roster, ids}
  end

  @doc "A worker that was there before this pool process."
  @spec adopt(t, worker_id) :: t
  def adopt(roster, id) do
    %{
      roster
      | workers: Map.put(roster.workers, id, :starting),
        unsettled: MapSet.put(roster.unsettled, id)
    }
  end

  @spec starting(t, worker_id) :: t
  def starting(roster, id), do: %{roster | workers: Map.put(roster.workers, id, :starting)}

  @spec ready(t, worker_id, pid) :: t
  def ready(roster, id, pid) do
    %{
      settle(roster, id)
      | workers: Map.put(roster.workers, id, {:ready, pid}),
        ready_once?: true,
        error: nil,
        tries: 0,
        retry_at: nil,
        gave_up?: false
    }
  end

  @doc """
  A worker could not start. Failures before `retry_at` belong to one round;
  a pool that never had a worker gives up after `max_rounds` more.
  """
  @spec failed(t, worker_id, Error.t(), integer, %{first_wait: pos_integer, max_rounds: integer}) ::
          t
  def failed(roster, id, error, now, limits) do
    roster = %{
      settle(roster, id)
      | workers: Map.put(roster.workers, id, :failed),
        error: error
    }

    if roster.retry_at == nil or now >= roster.retry_at do
      wait = min(limits.first_wait * Integer.pow(2, min(roster.tries, 16)), @longest_wait_ms)
      gave_up? = not roster.ready_once? and roster.tries >= limits.max_rounds
      %{roster | tries: roster.tries + 1, retry_at: now + wait, gave_up?: gave_up?}
    else
      roster
    end
  end

  @doc "It goes, and leaves its place to others."
  @spec retire(t, worker_id) :: t
  def retire(roster, id) do
    %{settle(roster, id) | workers: Map.put(roster.workers, id, :retiring)}
  end

  @spec retiring?(t, worker_id) :: boolean
  def retiring?(roster, id), do: roster.workers[id] == :retiring

  @spec resize(t, pos_integer) :: t
  def resize(roster, size), do: %{roster | size: size}

  @doc "The ids of workers in a state (`:ready` and so on)."
  @spec in_state(t, atom) :: [worker_id]
  def in_state(roster, state) do
    for {id, known} <- roster.workers, known == state or match?({^state, _}, known), do: id
  end

  @doc "Its supervisor is gone."
  @spec gone(t, worker_id) :: t
  def gone(roster, id) do
    %{settle(roster, id) | workers: Map.delete(roster.workers, id)}
  end

  @doc "Starts nothing before `until`; what waited for its start is dropped."
  @spec hold(t, integer) :: t
  def hold(roster, until) do
    workers = Map.reject(roster.workers, fn {_id, state} -> state == :waiting end)
    %{roster | retry_at: until, workers: workers}
  end

  @doc "How many workers may be started now to fill the gap."
  @spec missing(t, integer) :: non_neg_integer
  def missing(%{gave_up?: true}, _now), do: 0
  def missing(%{retry_at: at}, now) when is_integer(at) and now < at, do: 0

  def missing(roster, _now) do
    places = map_size(roster.workers) - length(in_state(roster, :retiring))
    max(roster.size - places, 0)
  end

  @spec ready?(t) :: boolean
  def ready?(roster), do: Enum.any?(roster.workers, &match?({_, {:ready, _}}, &1))

  @spec settled?(t) :: boolean
  def settled?(roster), do: MapSet.size(roster.unsettled) == 0

  @doc "Nothing is ready, and nothing that was started is still on its way."
  @spec dead?(t) :: boolean
  def dead?(roster), do: roster.error != nil and settled?(roster) and not ready?(roster)

  defp settle(roster, id), do: %{roster | unsettled: MapSet.delete(roster.unsettled, id)}

  defp id(roster, unique), do: "#{roster.name}_worker_#{unique}"
end
