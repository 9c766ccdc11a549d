defmodule Snakepit.GRPCWorker.HealthCheck do
  @moduledoc false
  # Whether a worker answers: for who asks, and from time to time.
  #
  # The periodic Ping of a gRPC worker, whose failure is told and nothing more: what
  # becomes of a worker that does not answer is its heartbeats' to say. It goes over
  # the worker's channel beside its calls, and takes no place of theirs. The link of a
  # local worker ends with it, and tells at once.

  alias Snakepit.{Defaults, Telemetry}
  alias Snakepit.GRPCWorker.{Remote, State}

  @doc "Has this process look from time to time, if the worker came by gRPC."
  @spec start(State.t()) :: State.t()
  def start(%State{local: nil} = state) do
    schedule()
    state
  end

  def start(state), do: state

  @doc "It is time. A worker that still owes the last answer is not asked again."
  @spec look(State.t()) :: State.t()
  def look(%State{phase: :ready} = state) do
    schedule()
    if owes?(state), do: state, else: ask(state)
  end

  def look(state), do: state

  defp schedule do
    interval = Defaults.grpc_worker_health_check_interval()
    _ = interval > 0 && Process.send_after(self(), :check_health, interval)
    :ok
  end

  defp owes?(%State{channel: channel, checks: checks}),
    do: Enum.any?(checks, &match?({_ref, {:periodic, ^channel}}, &1))

  defp ask(state) do
    ref = Remote.send_ping(state, Defaults.grpc_worker_health_check_timeout_ms())
    %{state | checks: Map.put(state.checks, ref, {:periodic, state.channel})}
  end

  @doc "A ping's answer: one of these, or for who asked by get_health."
  @spec answered(State.t(), reference | integer, {:ok, term} | {:error, term}) :: State.t()
  def answered(state, key, answer) do
    {asked, checks} = Map.pop(state.checks, key)

    case asked do
      {:periodic, channel} -> judge(channel, answer, state)
      from -> GenServer.reply(from, health(answer, state))
    end

    %{state | checks: checks}
  end

  defp health({:ok, _pong}, state), do: {:ok, Map.put(State.info(state), :healthy, true)}
  defp health({:error, why}, _state), do: {:error, why}

  # Of one whose connection or process has ended more is told elsewhere.
  defp judge(channel, answer, %State{phase: :ready, suspect: nil, channel: channel} = state),
    do: tell(answer, state)

  defp judge(_channel, _answer, _state), do: :ok

  defp tell({:ok, _pong}, _state), do: :ok

  defp tell({:error, reason}, state) do
    Snakepit.Logger.warning(:worker, fn ->
      "worker #{state.id} did not answer a health check: #{inspect(reason)}"
    end)

    Telemetry.execute([:snakepit, :worker, :health_check_failed], %{count: 1}, %{
      worker_id: state.id,
      pool: state.pool,
      reason: reason
    })
  end
end
