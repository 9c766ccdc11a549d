defmodule Snakepit.Bridge.SessionEvents do
  @moduledoc false
  # What the world is told of sessions, in the process of the store unless it says
  # otherwise.

  alias Snakepit.Telemetry

  @spec created(String.t()) :: :ok
  def created(id) do
    Telemetry.execute([:snakepit, :session, :created], once(), %{session_id: id})
    store(:created, id)
  end

  @spec destroyed(String.t(), :deleted | :expired) :: :ok
  def destroyed(id, reason) do
    metadata = %{session_id: id, reason: reason}
    Telemetry.execute([:snakepit, :session, :destroyed], once(), metadata)
    store(reason, id)
  end

  @spec updated(String.t()) :: :ok
  def updated(id), do: store(:updated, id)

  @doc "In the process that asked for it."
  @spec accessed(String.t()) :: :ok
  def accessed(id), do: store(:accessed, id)

  defp store(what, id) do
    event = [:snakepit, :session_store, :session, what]
    if Telemetry.attached?(event), do: Telemetry.execute(event, once(), %{session_id: id})
    :ok
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

  @doc "In the process that stored it."
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
