defmodule Snakepit.Bridge.SessionStore.Rows do
  @moduledoc false
  # The table of sessions, which every process reads and the server alone writes.
  #
  # A row is {id, session, clock}: `clock` is an atomic with the time of the last
  # use in monotonic milliseconds. Readers move it on, and only the server sets it
  # to @over, before the row goes: so who was given a session had it before its
  # end, and what was used in time is not swept away. {:variable, id, name} and
  # {:program, id} rows lie in a table beside.

  alias Snakepit.Bridge.{Session, SessionStore}
  alias Snakepit.Pool.Sessions

  @over -0x4000000000000000

  @type clock :: :atomics.atomics_ref()
  @type row :: {id :: String.t(), Session.t(), clock}
  @type tables :: %{
          adapter: module | nil,
          ttl: non_neg_integer,
          max: pos_integer | :infinity,
          due: :atomics.atomics_ref(),
          sessions: :ets.table(),
          extras: :ets.table()
        }

  # `due` of the tables is a moment before which no session expires. Whoever uses one
  # only moves its end on, so that may be early, never late.
  @never 0x7FFFFFFFFFFFFFFF

  @doc "The tables belong to the server and are found without asking it."
  @spec tables(GenServer.server()) :: tables
  def tables(SessionStore) do
    case :persistent_term.get({SessionStore, SessionStore}, nil) do
      nil -> exit({:noproc, {SessionStore, :tables, [SessionStore]}})
      tables -> tables
    end
  end

  def tables(server), do: GenServer.call(server, :tables)

  @spec publish(tables) :: :ok
  def publish(tables), do: :persistent_term.put({SessionStore, SessionStore}, tables)

  @spec withdraw() :: boolean
  def withdraw, do: :persistent_term.erase({SessionStore, SessionStore})

  @doc "The session, used now."
  @spec touch(:ets.table(), String.t()) :: {:ok, Session.t()} | {:error, :not_found}
  def touch(table, id) do
    now = now_ms()

    with {_id, _session, _clock} = row <- live(table, id, now),
         {:ok, session} <- touch_row(row, now) do
      {:ok, session}
    else
      _ -> {:error, :not_found}
    end
  end

  @doc """
  Whether it was in time: another reader may have moved the clock meanwhile, or the
  server have ended the session.
  """
  @spec touch_row(row, integer) :: {:ok, Session.t()} | :over
  def touch_row({_id, session, clock}, now) do
    if touch_clock(clock, :atomics.get(clock, 1), session, now),
      do: {:ok, with_time(session, now)},
      else: :over
  end

  defp touch_clock(clock, seen, session, now) do
    cond do
      over?(session, clock, seen, now) ->
        false

      seen >= now ->
        true

      true ->
        case :atomics.compare_exchange(clock, 1, seen, now) do
          :ok -> true
          changed -> touch_clock(clock, changed, session, now)
        end
    end
  end

  @doc "The row of a session that has not expired."
  @spec live(:ets.table(), String.t(), integer) :: row | nil
  def live(table, id, now) do
    with [row] <- :ets.lookup(table, id), false <- expired?(row, now) do
      row
    else
      _ -> nil
    end
  rescue
    ArgumentError -> gone(id)
  end

  # The server and its tables have gone since they were found.
  @spec gone(String.t()) :: no_return
  defp gone(id), do: exit({:noproc, {SessionStore, :lookup, [id]}})

  @doc "The ids of all that have not expired."
  @spec ids(:ets.table()) :: [String.t()]
  def ids(table) do
    now = now_ms()
    for row <- :ets.tab2list(table), not expired?(row, now), do: elem(row, 0)
  end

  @doc "Whether there may be a place for one that is new."
  @spec room?(tables) :: boolean
  def room?(tables), do: not full?(tables) or now_ms() >= :atomics.get(tables.due, 1)

  @spec full?(tables) :: boolean
  def full?(%{max: :infinity}), do: false
  def full?(%{max: max, sessions: table}), do: :ets.info(table, :size) >= max

  @doc "Whether there is a row of it, expired or not."
  @spec member?(tables, String.t()) :: boolean
  def member?(%{sessions: table}, id) do
    :ets.member(table, id)
  rescue
    ArgumentError -> gone(id)
  end

  @spec alive?(tables, String.t()) :: boolean
  def alive?(%{adapter: nil, sessions: table}, id), do: live(table, id, now_ms()) != nil
  def alive?(%{adapter: adapter}, id), do: adapter.session_exists?(id)

  defp expired?({_id, session, clock}, now),
    do: over?(session, clock, :atomics.get(clock, 1), now)

  defp over?(_session, _clock, @over, _now), do: true

  defp over?(session, clock, used, now) do
    ttl = session.ttl * 1000
    now - used >= ttl and not called?(session.id, clock, used, now, ttl)
  end

  # Calls in the session do not tell the store: it asks once it would expire.
  defp called?(id, clock, used, now, ttl) do
    case Sessions.unused_ms(id) do
      ms when is_integer(ms) and ms < ttl ->
        _ = :atomics.compare_exchange(clock, 1, used, now - ms)
        true

      _ ->
        false
    end
  end

  # ---- the server's --------------------------------------------------------

  @doc "When it expires, unless it is used before; calls of workers move that later, too."
  @spec expires_at(row) :: integer
  def expires_at({_id, session, clock}), do: :atomics.get(clock, 1) + session.ttl * 1000

  @doc "Of tables without a row."
  @spec never_due() :: :atomics.atomics_ref()
  def never_due do
    due = :atomics.new(1, signed: true)
    :atomics.put(due, 1, @never)
    due
  end

  @doc """
  The ids of those that have expired, which no reader can use any more; of the others
  it notes when the first could. The schedulers are asked in one go.
  """
  @spec expired(tables) :: [String.t()]
  def expired(%{sessions: table} = tables) do
    now = now_ms()

    {silent, due} =
      :ets.foldl(
        fn row, {silent, due} ->
          at = expires_at(row)
          if at <= now, do: {[row | silent], due}, else: {silent, min(at, due)}
        end,
        {[], @never},
        table
      )

    called = Sessions.unused(for {id, _session, _clock} <- silent, do: id)

    {ended, due} =
      Enum.reduce(silent, {[], due}, fn {id, _session, _clock} = row, {ended, due} ->
        if over?(row, now, Map.get(called, id)),
          do: {[id | ended], due},
          else: {ended, min(expires_at(row), due)}
      end)

    :atomics.put(tables.due, 1, due)
    ended
  end

  # Not when a call or a reader was in time.
  defp over?({_id, session, clock}, now, unused) do
    used = :atomics.get(clock, 1)

    cond do
      used == @over ->
        true

      now - used < session.ttl * 1000 ->
        false

      is_integer(unused) and unused < session.ttl * 1000 ->
        _ = :atomics.compare_exchange(clock, 1, used, now - unused)
        false

      true ->
        :atomics.compare_exchange(clock, 1, used, @over) == :ok
    end
  end

  @doc "Whether it has expired: then no reader can use it any more."
  @spec ended?(row, integer) :: boolean
  def ended?({_id, session, clock}, now) do
    seen = :atomics.get(clock, 1)
    over?(session, clock, seen, now) and :atomics.compare_exchange(clock, 1, seen, @over) == :ok
  end

  @doc "Nobody can use it from here on."
  @spec finish(row) :: :ok
  def finish({_id, _session, clock}), do: :atomics.put(clock, 1, @over)

  @spec clock() :: clock
  def clock do
    clock = :atomics.new(1, signed: true)
    :atomics.put(clock, 1, now_ms())
    clock
  end

  @doc "Writes it, used now."
  @spec put(tables, Session.t(), clock) :: Session.t()
  def put(%{sessions: table, due: due}, session, clock) do
    now = now_ms()
    # A reader may be ahead.
    :atomics.put(clock, 1, max(now, :atomics.get(clock, 1)))
    session = with_time(session, now)
    row = {session.id, session, clock}
    :ets.insert(table, row)
    :atomics.put(due, 1, min(:atomics.get(due, 1), expires_at(row)))
    session
  end

  @spec with_time(Session.t(), integer) :: Session.t()
  def with_time(session, ms), do: %{session | last_accessed: Integer.floor_div(ms, 1000)}

  @spec now_ms() :: integer
  def now_ms, do: System.monotonic_time(:millisecond)
end
