defmodule Snakepit.GRPC.Endpoint do
  @moduledoc """
  Serves `snakepit.bridge.BridgeService` at a port of one's own, beside the
  listener that the application starts for its workers:

      children = [{Snakepit.GRPC.Endpoint, port: 50_052}]

  Options: `:port` (0, the default, for a free one; `port/1` says which),
  `:host` (`"127.0.0.1"`), `:bind_host` (the same), `:name`, `:max_receive` (bytes
  of a message), and `:auth`, `:token` and `:tls` as for `Snakepit.GRPC.Listener`.
  """

  alias Snakepit.GRPC.{BridgeServer, Listener}

  @doc "The services that it serves."
  @spec services() :: [module]
  def services, do: [BridgeServer]

  @doc false
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts) do
    %{
      id: opts[:name] || __MODULE__,
      start: {__MODULE__, :start_link, [opts]},
      shutdown: 10_000
    }
  end

  @doc "Starts one."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    host = Keyword.get(opts, :host, "127.0.0.1")
    port = Keyword.get(opts, :port, 0)

    config = %{
      mode: if(port == 0, do: :internal, else: :external),
      host: host,
      bind_host: Keyword.get(opts, :bind_host, host),
      port: port
    }

    config = Map.merge(config, Map.new(Keyword.take(opts, [:auth, :token, :tls])))

    Listener.start_link(
      [name: Keyword.get(opts, :name, __MODULE__), config: config] ++
        Keyword.take(opts, [:max_receive])
    )
  end

  @doc "The port of one that was started."
  @spec port(GenServer.server()) :: :inet.port_number()
  def port(endpoint \\ __MODULE__), do: Listener.info(endpoint).port
end
