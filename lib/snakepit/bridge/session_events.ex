defmodule Snakepit.Bridge.SessionEvents do
  @moduledoc false
  # What the world is told of sessions: all but the last in the process of the store.

  alias Snakepit.Telemetry

  @spec created(String.t()) :: :ok
  def created(id) do
    Telemetry.execute([:snakepit, :session, :created], once(), %{session_id: id})
  end

  @spec destroyed(String.t(), :deleted | :expired) :: :ok
  def destroyed(id, reason) do
    metadata = %{session_id: id, reason: reason}
    Telemetry.execute([:snakepit, :session, :destroyed], once(), metadata)
  end

  @doc "So many had expired."
  @spec pruned(pos_integer, map) :: :ok
  def pruned(count, state) do
    Telemetry.execute(
      [:snakepit, :bridge, :session, :pruned],
      %{count: count, remaining_sessions: size(state), system_time: System.system_time()},
      %{reason: :expired, table_name: table(state), max_sessions: state.max}
    )
  end

  @spec accumulating(non_neg_integer, map) :: :ok
  def accumulating(count, state) do
    Telemetry.execute(
      [:snakepit, :bridge, :session, :accumulation_warning],
      %{
        current_sessions: count,
        max_sessions: state.max,
        utilization: count / max(state.max, 1),
        system_time: System.system_time()
      },
      %{reason: :threshold, table_name: table(state), strict_mode: state.strict?}
    )
  end

  @spec stored(String.t(), term) :: :ok
  def stored(session_id, program_id) do
    Telemetry.execute(
      [:snakepit, :session_store, :program, :stored],
      once(),
      %{session_id: session_id, program_id: program_id}
    )
  end

  defp once, do: %{system_time: System.system_time(), count: 1}
  defp size(state), do: :ets.info(state.tables.sessions, :size)
  defp table(state), do: :ets.info(state.tables.sessions, :name)
end
