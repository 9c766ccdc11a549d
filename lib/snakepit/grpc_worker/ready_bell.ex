defmodule Snakepit.GRPCWorker.ReadyBell do
  @moduledoc false
  # Where workers say that they have written their ready file: a datagram socket
  # in this run's directory, which only this user can enter. A datagram holds the
  # worker's id, and its process looks at the file at once. Workers of others do
  # not know of this; for them, and if this fails, the file is looked at every now
  # and then.
  use GenServer

  alias Snakepit.Pool.Registry, as: Workers

  @variable "SNAKEPIT_READY_BELL"
  @key {__MODULE__, :path}
  # Datagrams between two looks at what else there is to do.
  @at_once 100
  @longest_id 1_024

  @doc "In the directory of this run."
  @spec start_link(Path.t()) :: GenServer.on_start()
  def start_link(run_dir), do: GenServer.start_link(__MODULE__, run_dir, name: __MODULE__)

  @doc "What a worker is told of it."
  @spec environment() :: %{optional(String.t()) => String.t()}
  def environment do
    case :persistent_term.get(@key, nil) do
      nil -> %{}
      path -> %{@variable => path}
    end
  end

  @doc "Whether a worker with this environment was told."
  @spec told?([{String.t(), String.t() | nil}]) :: boolean
  def told?(env), do: List.keymember?(env, @variable, 0)

  @impl true
  def init(run_dir) do
    _ = Process.flag(:trap_exit, true)
    path = Path.join(run_dir, "ready")
    # Of one that was here before.
    _ = File.rm(path)
    options = [:binary, active: @at_once, ifaddr: {:local, path}, recbuf: @longest_id]

    case :gen_udp.open(0, options) do
      {:ok, socket} ->
        :persistent_term.put(@key, path)
        {:ok, socket}

      {:error, why} ->
        Snakepit.Logger.debug(:startup, fn -> "no socket at #{path}: #{inspect(why)}" end)
        :ignore
    end
  end

  @impl true
  def handle_info({:udp, socket, _address, _port, worker_id}, socket) do
    with {:ok, pid} <- Workers.get_worker_pid(worker_id), do: send(pid, :ready_file_written)
    {:noreply, socket}
  end

  def handle_info({:udp_passive, socket}, socket) do
    :ok = :inet.setopts(socket, active: @at_once)
    {:noreply, socket}
  end

  def handle_info(_other, socket), do: {:noreply, socket}

  # The directory goes with its maker.
  @impl true
  def terminate(_reason, _socket), do: :persistent_term.erase(@key)
end
