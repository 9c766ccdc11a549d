defmodule Bench.Pools do
  @moduledoc false
  # The pool that is measured: one at a time, kept as long as the same is asked for.

  alias Snakepit.Pool
  alias Snakepit.Pool.ProcessRegistry

  @patience 120_000
  @adapter "bench_tools.BenchTools"

  @spec adapter() :: String.t()
  def adapter, do: @adapter

  @doc "A pool of `workers`, all of them ready, over the carrier."
  @spec ensure(:local | :grpc, pos_integer) :: :ok
  def ensure(carrier, workers) do
    wanted = {carrier, workers}

    if Process.get(__MODULE__) != wanted do
      start(carrier, workers)
      await(workers)
      Process.put(__MODULE__, wanted)
    end

    :ok
  end

  @doc "Starts one anew and does not wait for its workers."
  # Forked as by default, unless a figure is about workers that are not.
  @spec start(:local | :grpc, pos_integer, String.t(), boolean, keyword) :: :ok
  def start(carrier, workers, adapter \\ @adapter, prefork \\ true, settings \\ []) do
    stop()
    for {key, _} <- Application.get_all_env(:snakepit), do: Application.delete_env(:snakepit, key)

    Application.put_all_env(
      snakepit: [
        pooling_enabled: true,
        transport: carrier,
        pool_size: workers,
        prefork: prefork,
        pool_max_queue_size: 50_000,
        pool_max_workers: 1_000,
        pool_config: Map.new(settings),
        adapter_args: ["--adapter", adapter],
        adapter_env: [{"PYTHONPATH", python_path()}]
      ]
    )

    case Application.ensure_all_started(:snakepit) do
      {:ok, _} -> :ok
      {:error, {_app, reason}} -> raise "the pool did not start: #{inspect(reason)}"
    end
  end

  @spec await(pos_integer) :: :ok
  def await(workers) do
    case Pool.await_init_complete(Pool, @patience) do
      :ok -> :ok
      {:error, error} -> raise "the pool did not get ready: #{Exception.message(error)}"
    end

    case ready() do
      ^workers -> :ok
      ready -> raise "#{ready} of #{workers} workers got ready"
    end
  end

  @spec ready() :: non_neg_integer
  def ready, do: length(Pool.list_workers())

  @spec stop() :: :ok
  def stop do
    Process.delete(__MODULE__)
    _ = Application.stop(:snakepit)
    :ok
  end

  @doc "Which of the carriers there are; those that are not are left out with a line."
  @spec carriers(:auto | :local | :grpc) :: [:local | :grpc]
  def carriers(:auto), do: Enum.filter([:local, :grpc], &available?/1)
  def carriers(one), do: Enum.filter([one], &available?/1)

  defp available?(carrier) do
    start(carrier, 1)
    await(1)
    {:ok, _} = Snakepit.execute("ping", %{})

    case carried_by() do
      ^carrier ->
        Process.put(__MODULE__, {carrier, 1})
        true

      other ->
        missing(carrier, "the workers of this build are connected by #{other}")
    end
  rescue
    error in RuntimeError ->
      missing(carrier, error.message |> String.split("\n") |> hd())
  end

  defp missing(carrier, why) do
    Bench.Recorder.left_out("everything over the #{carrier} carrier", why)
    stop()
    false
  end

  # Not what was asked for: whether a worker has the ring mapped.
  defp carried_by do
    [pid | _] = os_pids()

    case File.read("/proc/#{pid}/maps") do
      {:ok, maps} -> if maps =~ "/memfd:snakepit", do: :local, else: :grpc
      {:error, _} -> :grpc
    end
  end

  @spec os_pids() :: [pos_integer]
  def os_pids do
    for {_id, %{process_pid: pid}} <- ProcessRegistry.current_run_entries(), do: pid
  end

  @doc "The port of a worker, for clients that are not ours; nil when it has none."
  @spec grpc_port() :: :inet.port_number() | nil
  def grpc_port do
    with [id | _] <- Pool.list_workers(),
         {:ok, pid} <- Snakepit.Pool.Registry.get_worker_pid(id),
         {:ok, port} when is_integer(port) <- GenServer.call(pid, {:get_port}) do
      port
    else
      _ -> nil
    end
  end

  defp python_path do
    Enum.join(
      [Path.expand("python", __DIR__), Application.app_dir(:snakepit, "priv/python")],
      ":"
    )
  end
end
