defmodule Snakepit.GRPCWorker.Ending do
  @moduledoc false
  # How a worker ends: its OS process, and what is said of it.

  alias Snakepit.GRPCWorker.State
  alias Snakepit.Spawner

  @doc "The reason for which this process stops when the OS process has ended."
  @spec reason(State.t(), term) :: term
  # Its place is taken.
  def reason(%State{retiring: %{reason: why}}, _how), do: {:shutdown, {:retired, why}}
  def reason(_state, {:status, 0}), do: {:grpc_server_exited_unexpectedly, 0}
  def reason(_state, {:status, status}), do: {:grpc_server_exited, status}
  def reason(_state, other), do: {:external_process_died, other}

  @doc "How it ends for its callers when this process stops for that reason."
  @spec how(term) :: term
  def how({:shutdown, {:retired, why}}), do: {:retired, why}
  def how(reason), do: if(planned?(reason), do: :stopped, else: {:crashed, reason})

  @spec planned?(term) :: boolean
  def planned?(:normal), do: true
  def planned?(:shutdown), do: true
  def planned?({:shutdown, _}), do: true
  def planned?(_), do: false

  @doc "Ends the OS process, and waits for it."
  @spec stop_process(State.t(), non_neg_integer) :: :ok | :late
  def stop_process(state, grace) do
    ref = Process.monitor(Spawner)
    :ok = Spawner.stop(Spawner, state.os_id, grace)
    result = await_exit(state, ref, System.monotonic_time(:millisecond) + grace + 1_000)
    true = Process.demonitor(ref, [:flush])
    result
  end

  defp await_exit(%State{os_id: os_id} = state, ref, until) do
    receive do
      {:snakepit_os, ^os_id, {:exit, _how, _usage}} ->
        State.output_ended(state)

      # Its port has closed then, and the program kills them all.
      {:DOWN, ^ref, :process, _spawner, _reason} ->
        State.output_ended(state)

      {:snakepit_os, ^os_id, {:output, stream, bytes}} ->
        :ok = Spawner.ack(Spawner, os_id, byte_size(bytes))
        await_exit(State.output(state, stream, bytes), ref, until)
    after
      max(until - System.monotonic_time(:millisecond), 0) ->
        Snakepit.Logger.error(:worker, "OS process #{state.os_pid} did not end in time")
        :late
    end
  end
end
