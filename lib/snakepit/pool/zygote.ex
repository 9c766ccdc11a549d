defmodule Snakepit.Pool.Zygote do
  @moduledoc false
  # Owns one zygote: an OS process that has imported what workers need, and that
  # the spawner forks for them. Snakepit.Pool.Zygotes is told what becomes of it:
  #
  #   {:zygote_ready, self(), os_id}
  #
  # and by the reason of its exit: {:shutdown, {:unfit, why}} when it had better
  # not be forked, {:shutdown, {:failed, failure}} when it did not get ready.
  use GenServer, restart: :temporary

  alias Snakepit.{Defaults, Spawner}
  alias Snakepit.GRPCWorker.Output
  alias Snakepit.GRPCWorker.State, as: Worker

  @type failure :: %{message: String.t(), cause: term, output: binary}

  @doc "`name` is for the log; `spec` a function, so that no crash report shows what is in it."
  @spec start_link(String.t(), (() -> Spawner.spec())) :: GenServer.on_start()
  def start_link(name, spec), do: GenServer.start_link(__MODULE__, {name, spec, self()})

  @impl true
  def init({name, spec, owner}) do
    _ = Process.flag(:trap_exit, true)
    log = %Worker{id: "zygote of #{name}"}

    {:ok, %{name: name, spec: spec, owner: owner, os_id: nil, ready?: false, log: log},
     {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    case Spawner.spawn_zygote(state.spec.()) do
      {:ok, os_id, os_pid} ->
        _ = Process.send_after(self(), :late, Defaults.grpc_server_ready_timeout())
        {:noreply, %{state | os_id: os_id, log: %{state.log | os_pid: os_pid}}}

      # Whatever it is: the worker finds it, too, and says it better.
      {:error, %{message: message}} ->
        {:stop, {:shutdown, {:unfit, message}}, state}
    end
  end

  @impl true
  def handle_info({:snakepit_os, id, {:zygote, :ready}}, %{os_id: id} = state) do
    send(state.owner, {:zygote_ready, self(), id})
    {:noreply, %{state | ready?: true}}
  end

  def handle_info({:snakepit_os, id, {:zygote, {:unfit, why}}}, %{os_id: id} = state),
    do: {:stop, {:shutdown, {:unfit, why}}, state}

  def handle_info({:snakepit_os, id, {:output, stream, bytes}}, %{os_id: id} = state) do
    :ok = Spawner.ack(Spawner, id, byte_size(bytes))
    {:noreply, %{state | log: Worker.output(state.log, stream, bytes)}}
  end

  def handle_info({:snakepit_os, id, {:exit, how, usage}}, %{os_id: id} = state) do
    state = %{state | os_id: nil, log: %{state.log | usage: usage}}
    :ok = Worker.output_ended(state.log)

    if state.ready? do
      {:stop, {:shutdown, {:ended, how}}, state}
    else
      text = Worker.exit_text(how) <> Worker.cause_text(state.log, how)
      message = "#{state.name} #{text} before it was ready"
      {:stop, failed(state, message, Worker.exit_cause(how)), state}
    end
  end

  def handle_info(:late, %{ready?: false} = state) do
    message =
      "#{state.name} did not get ready within " <>
        "#{Defaults.grpc_server_ready_timeout()} ms. " <>
        "If it only needs longer, raise config :snakepit, grpc_server_ready_timeout"

    {:stop, failed(state, message, :timeout), state}
  end

  def handle_info({:EXIT, owner, _reason}, %{owner: owner} = state),
    do: {:stop, :shutdown, state}

  def handle_info(_other, state), do: {:noreply, state}

  # It has nothing to finish.
  @impl true
  def terminate(_reason, state), do: state.os_id && Spawner.stop(Spawner, state.os_id, 0)

  defp failed(state, message, cause) do
    {:shutdown,
     {:failed, %{message: message, cause: cause, output: Output.all(state.log.output)}}}
  end
end
