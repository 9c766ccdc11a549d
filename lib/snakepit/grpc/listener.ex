defmodule Snakepit.GRPC.Listener do
  @moduledoc """
  The BEAM's own gRPC server, for workers and any other client.

  Where it listens is `config :snakepit, :grpc_listener`:

    * `%{mode: :internal}` (the default): a free port of this host
    * `%{mode: :external, host: "10.0.0.5", port: 50051}`: that port; `bind_host`
      (say `"0.0.0.0"`) where the address to bind is not the one to announce
    * `%{mode: :external_pool, host: "10.0.0.5", base_port: 50051, pool_size: 8}`:
      the first free one of these ports

  Each call runs in a process of its own. When the client gives up, that process
  is told to exit; a tool that wants to finish all the same traps exits.
  """
  use GenServer, shutdown: 10_000

  alias Snakepit.{Config, Defaults, Logger, Native}
  alias Snakepit.GRPC.BridgeServer

  @unavailable 14
  @internal 13
  @stop_timeout 5_000
  # Unknown: when the system was asked, nothing was in the way any more.
  @in_use [:eaddrinuse, :unknown]

  @type info :: %{
          mode: Config.grpc_listener_mode(),
          host: String.t(),
          bind_host: String.t(),
          port: :inet.port_number()
        }

  @doc """
  Starts it. Options: `:config` (as `Snakepit.Config.grpc_listener_config/0` gives
  it, which is the default), `:name`, `:max_receive` (bytes of a message).
  """
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    opts = Keyword.put_new(opts, :name, __MODULE__)
    GenServer.start_link(__MODULE__, opts, name: opts[:name])
  end

  # ---- where it is --------------------------------------------------------

  @doc "Where it listens."
  @spec listener_info() :: {:ok, info} | {:error, :not_listening}
  def listener_info do
    case :persistent_term.get(__MODULE__, nil) do
      nil -> {:error, :not_listening}
      info -> {:ok, info}
    end
  end

  @doc "The address that others are told; raises when it is not listening."
  @spec host() :: String.t()
  def host, do: info!().host

  @spec port() :: :inet.port_number()
  def port, do: info!().port

  @spec mode() :: Config.grpc_listener_mode()
  def mode, do: info!().mode

  @doc "`host:port`, what `SNAKEPIT_GRPC_ADDRESS` and `--elixir-address` take."
  @spec address() :: String.t()
  def address do
    %{host: host, port: port} = info!()
    if String.contains?(host, ":"), do: "[#{host}]:#{port}", else: "#{host}:#{port}"
  end

  defp info! do
    case listener_info() do
      {:ok, info} ->
        info

      {:error, :not_listening} ->
        raise "the gRPC listener is not running: it starts with pooling_enabled: true, " <>
                "or by Snakepit.GRPC.Listener.start_link/0"
    end
  end

  @doc "Waits until it listens."
  @spec await_ready(timeout) :: {:ok, info} | {:error, :timeout}
  def await_ready(timeout \\ Defaults.grpc_listener_ready_timeout_ms())
  def await_ready(:infinity), do: await(nil)
  def await_ready(timeout), do: await(System.monotonic_time(:millisecond) + timeout)

  defp await(deadline) do
    with {:error, :not_listening} <- listener_info() do
      if deadline != nil and System.monotonic_time(:millisecond) >= deadline do
        {:error, :timeout}
      else
        Process.sleep(Defaults.grpc_listener_port_check_interval_ms())
        await(deadline)
      end
    end
  end

  # ---- the server ---------------------------------------------------------

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)

    with {:ok, config} <- config(opts), {:ok, server, port} <- listen(config, opts) do
      info = %{mode: config.mode, host: config.host, bind_host: config.bind_host, port: port}
      if opts[:name] == __MODULE__, do: :persistent_term.put(__MODULE__, info)
      Logger.info(:grpc, "gRPC listener on #{config.bind_host}:#{port} (#{config.mode})")
      {:ok, %{name: opts[:name], server: server, info: info, calls: %{}, tasks: %{}}}
    else
      {:error, reason} ->
        Logger.error(:grpc, "the gRPC listener cannot start: #{inspect(reason)}")
        {:stop, {:grpc_listener_failed, reason}}
    end
  end

  defp config(opts) do
    case opts[:config] do
      nil -> Config.grpc_listener_config()
      config -> {:ok, config}
    end
  end

  defp listen(%{mode: :internal} = config, opts), do: bind(config.bind_host, 0, opts)

  defp listen(%{mode: :external} = config, opts),
    do: bind_again(config.bind_host, config.port, opts, Defaults.grpc_listener_reuse_attempts())

  defp listen(%{mode: :external_pool, base_port: base, pool_size: size} = config, opts) do
    Enum.reduce_while(base..(base + size - 1), nil, fn port, _ ->
      case bind(config.bind_host, port, opts) do
        {:ok, _, _} = ok ->
          {:halt, ok}

        {:error, {:listen, _, _, why}} when why in @in_use ->
          {:cont, {:error, {:no_free_port, base, size}}}

        error ->
          {:halt, error}
      end
    end)
  end

  # Who had the port before may be about to leave it.
  defp bind_again(host, port, opts, attempts) do
    case bind(host, port, opts) do
      {:error, {:listen, _, _, why}} when why in @in_use and attempts > 1 ->
        Process.sleep(Defaults.grpc_listener_reuse_retry_delay_ms())
        bind_again(host, port, opts, attempts - 1)

      result ->
        result
    end
  end

  defp bind(host, port, opts) do
    options = %{
      methods: BridgeServer.methods(),
      max_receive: Keyword.get(opts, :max_receive, :infinity)
    }

    case Native.server_start(host, port, options) do
      {:ok, server, ^port} -> {:ok, server, port}
      {:ok, server, actual} when port == 0 -> {:ok, server, actual}
      {:ok, _server, actual} -> {:error, {:grpc_listener_port_mismatch, port, actual}}
      {:error, :listen} -> {:error, {:listen, host, port, why_not(host, port)}}
      {:error, reason} -> {:error, reason}
    end
  end

  # gRPC does not say why; the system does.
  defp why_not(host, port) do
    with {:ok, address} <- resolve(String.to_charlist(host)),
         {:ok, socket} <- :gen_tcp.listen(port, ip: address) do
      :gen_tcp.close(socket)
      :unknown
    else
      {:error, reason} -> reason
    end
  end

  defp resolve(host) do
    with {:error, _} <- :inet.getaddr(host, :inet), do: :inet.getaddr(host, :inet6)
  end

  @doc false
  # Of a listener that is not the application's.
  @spec info(GenServer.server()) :: info
  def info(listener), do: GenServer.call(listener, :info)

  @impl true
  def handle_call(:info, _from, state), do: {:reply, state.info, state}

  # ---- calls --------------------------------------------------------------

  @impl true
  def handle_info({:snakepit_rpc, call, method, bytes, headers, time_left}, state) do
    context = %{headers: headers, time_left: time_left}

    case start_task(fn -> serve(call, method, bytes, context) end) do
      {:ok, pid, monitor} ->
        {:noreply,
         %{
           state
           | calls: Map.put(state.calls, call, pid),
             tasks: Map.put(state.tasks, monitor, call)
         }}

      {:error, reason} ->
        _ = Native.server_fail(call, @unavailable, "no process for it: #{inspect(reason)}")
        {:noreply, state}
    end
  end

  def handle_info({:snakepit_rpc_cancelled, call}, state) do
    with %{^call => pid} <- state.calls, do: Process.exit(pid, {:shutdown, :rpc_cancelled})
    {:noreply, state}
  end

  def handle_info({:DOWN, monitor, :process, _pid, reason}, state)
      when is_map_key(state.tasks, monitor) do
    {call, tasks} = Map.pop!(state.tasks, monitor)

    # Whoever answered first has answered: then this is refused.
    _ = Native.server_fail(call, @internal, "the call's process died: #{reason_text(reason)}")

    {:noreply, %{state | tasks: tasks, calls: Map.delete(state.calls, call)}}
  end

  def handle_info({:snakepit_server_stopped, _server}, state),
    do: {:stop, :grpc_server_stopped, state}

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    if state.name == __MODULE__, do: :persistent_term.erase(__MODULE__)
    server = state.server
    Native.server_stop(server)

    receive do
      {:snakepit_server_stopped, ^server} -> :ok
    after
      @stop_timeout -> :ok
    end
  end

  defp start_task(fun) do
    if Process.whereis(Snakepit.TaskSupervisor) do
      with {:ok, pid} <- Task.Supervisor.start_child(Snakepit.TaskSupervisor, fun),
           do: {:ok, pid, Process.monitor(pid)}
    else
      {:ok, pid} = Task.start(fun)
      {:ok, pid, Process.monitor(pid)}
    end
  end

  defp serve(call, method, bytes, context) do
    case BridgeServer.handle(method, bytes, context) do
      {:ok, reply} -> Native.server_reply(call, reply)
      {:error, status, text} -> Native.server_fail(call, status, text)
    end
  end

  defp reason_text({:shutdown, reason}), do: inspect(reason)
  defp reason_text({%{__exception__: true} = error, _stack}), do: Exception.message(error)
  defp reason_text(reason), do: inspect(reason, limit: 10, printable_limit: 200)
end
