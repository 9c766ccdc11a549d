defmodule Snakepit.GRPCWorker.Place do
  @moduledoc false
  # The places of one worker: in its pool's scheduler, and in one of its own for
  # calls that name it.

  alias Snakepit.{Defaults, Native}
  alias Snakepit.GRPCWorker.{Local, State, Taint}
  alias Snakepit.Pool.Changes
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Pool.Targets
  alias Snakepit.Worker.LifecycleManager

  # Nothing takes so long but a descendant that has kept the connection.
  @last_words_ms 500
  @look_ms 2

  @doc "The pool is told of it, and gives it calls."
  @spec join(State.t()) :: State.t()
  def join(state) do
    # Who taints it from now on asks it and waits: it looks before it answers.
    :ok = Workers.put_metadata(state.id, %{ready: true, slot: nil})
    state = Taint.look(%{state | slot: add_slot(state)}, :joins)
    :ok = Workers.put_metadata(state.id, %{slot: state.slot})
    if state.slot, do: Changes.tell()
    watch(state)
    track(state)
    tell_pool(state, {:worker_ready, state.pool, state.id, self()})
    state
  end

  defp add_slot(state) do
    with true <- state.pool != nil,
         {:ok, target} <- Targets.find(state.pool) do
      # Avoided, until it has looked whether it is to be.
      slot(state, target.handle, :avoided)
    else
      _ -> nil
    end
  catch
    # The pool's process just died; the next one will call for its workers.
    :error, :pool_closed -> nil
  end

  defp slot(state, handle, how) do
    capacity = State.capacity(state.config)
    Native.slot_add(handle, self(), state.id, state.session_id, capacity, state.channel, [], how)
  end

  @spec track(State.t()) :: :ok
  def track(%State{slot: nil}), do: :ok

  def track(state) do
    config = Map.put(state.config, :started_at, state.started_at)
    LifecycleManager.track_worker(state.pool, state.id, self(), config)
  end

  @doc "Asks for what the scheduler is to tell this process."
  @spec watch(State.t()) :: :ok
  def watch(%State{slot: nil}), do: :ok

  def watch(state) do
    most = state.config[:worker_max_requests]
    full? = state.config[:capacity_strategy] == :hybrid
    Native.slot_watch(state.slot, if(is_integer(most), do: most, else: 0), full?)
  end

  @doc "Makes a pool of this worker alone, for calls that name it."
  @spec with_direct(State.t()) :: State.t()
  def with_direct(%State{direct: nil} = state) do
    queue = Defaults.pool_max_queue_size()
    handle = Native.pool_new(:direct, queue, Defaults.affinity_cache_ttl_seconds() * 1000)
    grace = state.config[:cancel_grace_ms] || Defaults.cancel_grace_ms()
    :ok = Native.pool_set_cancel_grace(handle, grace)
    %{state | direct: handle, direct_slot: slot(state, handle, :ready)}
  end

  def with_direct(state), do: state

  @spec tell_pool(State.t(), tuple) :: :ok
  def tell_pool(%State{pool: nil}, _message), do: :ok
  def tell_pool(_state, message), do: GenServer.cast(Snakepit.Pool, message)

  @doc "How many calls it has."
  @spec load(State.t()) :: non_neg_integer
  def load(state), do: sum(state, :load)

  @doc "How many it has had."
  @spec served(State.t()) :: non_neg_integer
  def served(state), do: state.served + sum(state, :served)

  defp sum(state, key) do
    for slot <- [state.slot, state.direct_slot],
        slot != nil,
        {:ok, stats} <- [Native.slot_stats(slot)],
        reduce: 0 do
      sum -> sum + Map.fetch!(stats, key)
    end
  end

  @doc """
  For a worker whose process has ended: what it wrote before counts, so its calls
  are not answered for it until all of that has come. Then its connection ends,
  which the carrier tells as for any other, after what it read.
  """
  @spec await_last_words(State.t()) :: :ok
  def await_last_words(%State{suspect: nil} = state),
    do: await_last_words(state, System.monotonic_time(:millisecond) + @last_words_ms)

  def await_last_words(_state), do: :ok

  defp await_last_words(state, until) do
    if load(state) == 0 or System.monotonic_time(:millisecond) >= until do
      :ok
    else
      receive do
        {:snakepit_slot, :suspect, _why} -> :ok
      after
        # Its last call may be answered, and nobody hears of the connection.
        @look_ms -> await_last_words(state, until)
      end
    end
  end

  @doc "What runs there is answered with what is known."
  @spec leave(State.t(), term) :: State.t()
  def leave(state, how) do
    info = State.exit_info(state, how)
    served = served(state)
    for slot <- List.wrap(state.slot), do: :ok = Native.slot_remove(slot, info)
    for slot <- List.wrap(state.direct_slot), do: :ok = Native.slot_remove(slot, info)
    if state.slot, do: Changes.tell()
    %{state | slot: nil, direct: nil, direct_slot: nil, served: served}
  end

  @doc "The same, and its connection ends."
  @spec release(State.t(), term) :: State.t()
  def release(state, how) do
    state = leave(state, how)
    :ok = Local.withdraw(state.local)

    _ = state.local == nil && state.channel != nil && Native.channel_close(state.channel)
    %{state | channel: nil, local: nil}
  end
end
