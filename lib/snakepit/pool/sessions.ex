defmodule Snakepit.Pool.Sessions do
  @moduledoc false
  # What the schedulers of all pools know of a session: which worker it has, and
  # when it was used last. The store of sessions asks here, so that no call has to
  # tell it.

  alias Snakepit.Bridge.SessionStore
  alias Snakepit.{Native, Pool}
  alias Snakepit.Pool.Registry, as: Workers
  alias Snakepit.Pool.Targets

  @patience_ms 1_000
  # For so many a scheduler's lock is held no longer than calls can wait.
  @at_once 256

  @doc "Milliseconds since a call of the session ended, 0 while there is one; nil: never known."
  @spec unused_ms(String.t()) :: non_neg_integer | nil
  def unused_ms(session_id),
    do: Targets.all() |> Enum.map(&unused_ms(&1.handle, session_id)) |> Enum.min(fn -> nil end)

  @doc "The same of many; those that no scheduler knows are left out."
  @spec unused([String.t()]) :: %{String.t() => non_neg_integer}
  def unused(session_ids) do
    for %{handle: handle} <- Targets.all(),
        some <- Enum.chunk_every(session_ids, @at_once),
        {id, ms} when ms != nil <- Enum.zip(some, Native.sessions_unused(handle, some)),
        reduce: %{} do
      known -> Map.update(known, id, ms, &min(&1, ms))
    end
  end

  defp unused_ms(handle, session_id) do
    case Native.session_unused(handle, session_id) do
      {:ok, ms} -> ms
      {:error, :not_found} -> nil
    end
  end

  @doc """
  For a session that has had calls: true once what was said of them before is with
  the store. Not to be asked by those who say and store it.
  """
  @spec noted?(String.t()) :: boolean
  def noted?(session_id) do
    self() not in [Process.whereis(Pool), Process.whereis(SessionStore)] and
      unused_ms(session_id) != nil and GenServer.call(Pool, :settled, @patience_ms) == :ok
  catch
    # It is stopping, or has too much to do.
    :exit, _ -> false
  end

  @doc "Its next call goes to any worker."
  @spec forget(String.t()) :: :ok
  def forget(session_id) do
    Enum.each(Targets.all(), &Native.session_forget(&1.handle, session_id))
  end

  @doc "Its next call goes to that worker, if there is one."
  @spec assign(String.t(), String.t()) :: :ok
  def assign(session_id, worker_id) do
    with {:ok, %{slot: slot, pool_name: pool}} when slot != nil <-
           Workers.get_worker_metadata(worker_id),
         {:ok, %{handle: handle}} <- Targets.find(pool),
         :ok <- Native.session_assign(handle, session_id, slot) do
      :ok
    else
      _no_such_worker -> :ok
    end
  end
end
