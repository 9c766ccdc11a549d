defmodule Snakepit.GRPC.Listener do
  @moduledoc """
  The BEAM's own gRPC server, for workers and any other client.

  Where it listens is `config :snakepit, :grpc_listener`:

    * `%{mode: :internal}` (the default): a free port of this host
    * `%{mode: :external, host: "10.0.0.5", port: 50051}`: that port; `bind_host`
      (say `"0.0.0.0"`) where the address to bind is not the one to announce
    * `%{mode: :external_pool, host: "10.0.0.5", base_port: 50051, pool_size: 8}`:
      the first free one of these ports

  Further keys, of each mode:

    * `auth: :token` (the default): calls have to show a token, see `token/0`;
      `:none` lets everyone in
    * `token: "..."`: that one, of 16 bytes or more, in place of one of this run's
      own
    * `tls: [cert: "cert.pem", key: "key.pem", ca: "ca.pem", verify: :verify_peer]`:
      with TLS; with `:ca`, clients have to have a certificate that it vouches for,
      unless `verify: :verify_none`. Workers of this VM then have a port of their
      own, at loopback and without TLS.

  See the guide on gRPC.

  Each call runs in a process of its own. When the client gives up, that process
  is told to exit; a tool that wants to finish all the same traps exits.
  """
  use GenServer, shutdown: 10_000

  alias Snakepit.{Config, Defaults, Logger, Native}
  alias Snakepit.GRPC.{Auth, Peer, Served, TLS, Token}
  alias Snakepit.Pool.Registry, as: Workers

  @resource_exhausted 8
  @unavailable 14
  @internal 13
  # Calls of health and reflection at a time: anyone may make them, and some last.
  @max_open 1_000
  @loopback "127.0.0.1"
  @stop_timeout 5_000
  # Between lines on connections that are refused.
  @full_log_ms 60_000
  @limits [grpc_max_connections: 1_000, grpc_num_acceptors: 20, grpc_socket_backlog: 512]
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

  @doc """
  The token that its clients have to show, as the metadata `authorization: Bearer
  <token>`; nil with `auth: :none`. Workers have it in `SNAKEPIT_GRPC_TOKEN`, and
  `Snakepit.GRPC.Client` shows it to a listener of its own VM by itself.
  """
  @spec token() :: String.t() | nil
  def token do
    _ = info!()
    :persistent_term.get({__MODULE__, :clients}).token
  end

  @doc false
  # Where workers of this VM reach it, and the token for that. Nil when it is not
  # running.
  @spec for_workers() :: %{address: String.t(), token: String.t() | nil} | nil
  def for_workers do
    case :persistent_term.get({__MODULE__, :clients}, nil) do
      nil -> nil
      %{inner: nil, token: token} -> %{address: address(), token: token}
      %{inner: port, token: token} -> %{address: "#{@loopback}:#{port}", token: token}
    end
  end

  @doc false
  # The token for a listener, or a worker, of this VM at that port of this host.
  @spec token_at(:inet.port_number()) :: String.t() | nil
  def token_at(port) do
    case :persistent_term.get({__MODULE__, :at, port}, nil) do
      {pid, token} -> if Process.alive?(pid), do: token
      nil -> if Workers.at?(port), do: with(%{token: token} <- for_workers(), do: token)
    end
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

    with {:ok, config} <- config(opts),
         {:ok, tls} <- tls(config[:tls]),
         {:ok, server, port} <- listen(config, Keyword.put(opts, :tls, tls)),
         {:ok, inner} <- listen_inside(tls, opts) do
      warn_of_limits(tls)
      info = %{mode: config.mode, host: config.host, bind_host: config.bind_host, port: port}
      token = if config[:auth] != :none, do: config[:token] || Token.run()
      ports = [port | for({_server, port} <- List.wrap(inner), do: port)]
      publish(opts[:name], info, token, inner, ports)
      Logger.info(:grpc, "gRPC listener on #{config.bind_host}:#{port} (#{config.mode})")

      {:ok,
       %{
         name: opts[:name],
         servers: [server | for({server, _port} <- List.wrap(inner), do: server)],
         info: info,
         ports: ports,
         check: Auth.new(token, local(config, port, inner)),
         calls: %{},
         tasks: %{},
         open: 0,
         full_logged: nil
       }}
    else
      {:error, reason} ->
        Logger.error(:grpc, "the gRPC listener cannot start: #{inspect(reason)}")
        {:stop, {:grpc_listener_failed, reason}}
    end
  end

  defp publish(name, info, token, inner, ports) do
    for port <- ports, do: :persistent_term.put({__MODULE__, :at, port}, {self(), token})

    if name == __MODULE__ do
      port = inner && elem(inner, 1)
      :persistent_term.put({__MODULE__, :clients}, %{token: token, inner: port})
      :persistent_term.put(__MODULE__, info)
    end
  end

  defp withdraw(state) do
    for port <- state.ports, do: :persistent_term.erase({__MODULE__, :at, port})

    if state.name == __MODULE__ do
      :persistent_term.erase(__MODULE__)
      :persistent_term.erase({__MODULE__, :clients})
    end
  end

  # Connections to these may be of a worker's process.
  defp local(config, port, inner) do
    outer = if config.mode == :internal, do: addresses(config.bind_host, port), else: []
    outer ++ for {_server, port} <- List.wrap(inner), do: {{127, 0, 0, 1}, port}
  end

  defp addresses(host, port) do
    host = String.to_charlist(host)

    for family <- [:inet, :inet6],
        {:ok, address} <- [:inet.getaddr(host, family)],
        Peer.loopback?(address),
        do: {address, port}
  end

  defp tls(nil), do: {:ok, nil}

  defp tls(options) do
    with {:error, text} <- TLS.load(options, :server),
         do: {:error, {:invalid_grpc_listener_config, {:tls, text}}}
  end

  # Workers know nothing of certificates.
  defp listen_inside(nil, _opts), do: {:ok, nil}

  defp listen_inside(_tls, opts) do
    with {:ok, server, port} <- bind(@loopback, 0, opts), do: {:ok, {server, port}}
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
    options =
      Map.merge(limits(), %{
        methods: Served.methods(),
        max_receive: Keyword.get(opts, :max_receive, :infinity)
      })

    tls = if opts[:tls], do: %{tls: opts[:tls]}, else: %{}

    case Native.server_start(host, port, Map.merge(options, tls)) do
      {:ok, server, ^port} -> {:ok, server, port}
      {:ok, server, actual} when port == 0 -> {:ok, server, actual}
      {:ok, _server, actual} -> {:error, {:grpc_listener_port_mismatch, port, actual}}
      {:error, :listen} -> {:error, {:listen, host, port, why_not(host, port)}}
      {:error, reason} -> {:error, reason}
    end
  end

  # More threads than schedulers take no more connections.
  defp limits do
    %{
      max_connections: number(Defaults.grpc_max_connections()),
      acceptors: min(number(Defaults.grpc_num_acceptors()), System.schedulers_online()),
      backlog: number(Defaults.grpc_socket_backlog())
    }
  end

  # What a C program can count with.
  defp number(count) when is_integer(count), do: count |> max(1) |> min(0x7FFFFFFF)
  defp number(:infinity), do: :infinity

  # With TLS the library listens, and has no such settings.
  defp warn_of_limits(nil), do: :ok

  defp warn_of_limits(_tls) do
    without =
      for {key, default} <- @limits, Application.get_env(:snakepit, key, default) != default do
        "#{key}"
      end

    if without != [] do
      Logger.warning(:grpc, fn ->
        "a gRPC listener with TLS knows no #{Enum.join(without, ", ")}: the setting holds for " <>
          "its inner port at #{@loopback} only; limit connections in front of it"
      end)
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
    context = %{headers: headers, time_left: time_left, call: call}
    open? = String.starts_with?(method, "/grpc.")

    if open? and state.open >= @max_open do
      _ = Native.server_fail(call, @resource_exhausted, "there are #{@max_open} calls like it")
      {:noreply, state}
    else
      check = state.check
      task = start_task(fn -> serve(method, bytes, context, check) end)
      {:noreply, started(task, call, open?, state)}
    end
  end

  def handle_info({:snakepit_rpc_cancelled, call}, state) do
    with %{^call => {pid, _}} <- state.calls, do: Process.exit(pid, {:shutdown, :rpc_cancelled})
    {:noreply, state}
  end

  def handle_info({:DOWN, monitor, :process, _pid, reason}, state)
      when is_map_key(state.tasks, monitor) do
    {call, tasks} = Map.pop!(state.tasks, monitor)

    # Whoever answered first has answered: then this is refused.
    _ = Native.server_fail(call, @internal, "the call's process died: #{reason_text(reason)}")

    {{_pid, open?}, calls} = Map.pop!(state.calls, call)
    {:noreply, %{state | tasks: tasks, calls: calls, open: state.open - count(open?)}}
  end

  def handle_info({:snakepit_server_full, _server}, state) do
    now = System.monotonic_time(:millisecond)

    if state.full_logged == nil or now - state.full_logged >= @full_log_ms do
      Logger.warning(:grpc, fn ->
        "the gRPC listener on #{state.info.bind_host}:#{state.info.port} has " <>
          "#{Defaults.grpc_max_connections()} connections and refuses more: close those that " <>
          "are not used, or raise config :snakepit, grpc_max_connections"
      end)

      {:noreply, %{state | full_logged: now}}
    else
      {:noreply, state}
    end
  end

  def handle_info({:snakepit_server_stopped, _server}, state),
    do: {:stop, :grpc_server_stopped, state}

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    withdraw(state)
    Enum.each(state.servers, &Native.server_stop/1)

    for server <- state.servers do
      receive do
        {:snakepit_server_stopped, ^server} -> :ok
      after
        @stop_timeout -> :ok
      end
    end
  end

  defp started({:ok, pid, monitor}, call, open?, state) do
    %{
      state
      | calls: Map.put(state.calls, call, {pid, open?}),
        tasks: Map.put(state.tasks, monitor, call),
        open: state.open + count(open?)
    }
  end

  defp started({:error, reason}, call, _open?, state) do
    _ = Native.server_fail(call, @unavailable, "no process for it: #{inspect(reason)}")
    state
  end

  defp count(true), do: 1
  defp count(false), do: 0

  defp start_task(fun) do
    if Process.whereis(Snakepit.TaskSupervisor) do
      with {:ok, pid} <- Task.Supervisor.start_child(Snakepit.TaskSupervisor, fun),
           do: {:ok, pid, Process.monitor(pid)}
    else
      {:ok, pid} = Task.start(fun)
      {:ok, pid, Process.monitor(pid)}
    end
  end

  defp serve(method, bytes, %{call: call} = context, check) do
    with :ok <- check.(method, context.headers, call),
         {:ok, reply} <- Served.handle(method, bytes, context) do
      Native.server_reply(call, reply)
    else
      :done -> Native.server_finish(call)
      {:error, status, text} -> Native.server_fail(call, status, text)
    end
  end

  defp reason_text({:shutdown, reason}), do: inspect(reason)
  defp reason_text({%{__exception__: true} = error, _stack}), do: Exception.message(error)
  defp reason_text(reason), do: inspect(reason, limit: 10, printable_limit: 200)
end
