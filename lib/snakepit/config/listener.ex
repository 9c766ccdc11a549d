defmodule Snakepit.Config.Listener do
  @moduledoc false
  # `:grpc_listener`, and the older `:grpc_port` and `:grpc_host`.

  alias Snakepit.{Config, Defaults}

  @spec config() :: {:ok, Config.grpc_listener_config()} | {:error, term}
  def config do
    case Application.get_env(:snakepit, :grpc_listener) do
      nil ->
        older_listener()

      config when is_map(config) ->
        listener(config)

      config ->
        if Keyword.keyword?(config), do: listener(Map.new(config)), else: listener_error(config)
    end
  end

  defp older_listener do
    port = Application.get_env(:snakepit, :grpc_port)
    host = Application.get_env(:snakepit, :grpc_host)

    if port in [nil, 0] and host == nil do
      listener(%{})
    else
      listener(%{
        mode: if(port == 0, do: :internal, else: :external),
        host: host || Defaults.grpc_internal_host(),
        port: port || Defaults.grpc_port()
      })
    end
  end

  defp listener(config) do
    with {:ok, address} <- address(config), {:ok, access} <- access(config) do
      {:ok, Map.merge(address, access)}
    end
  end

  # Only what is given: the shape without it is documented.
  defp access(config) do
    given =
      for key <- [:auth, :token, :tls],
          (value = Map.get(config, key, Map.get(config, Atom.to_string(key)))) != nil,
          into: %{},
          do: {key, value}

    cond do
      auth(given[:auth]) == :error -> listener_error(:invalid_auth)
      not token?(given[:token]) -> listener_error(:invalid_token)
      true -> {:ok, Map.merge(given, auth(given[:auth]))}
    end
  end

  defp auth(nil), do: %{}
  defp auth(auth) when auth in [:token, "token"], do: %{auth: :token}
  defp auth(auth) when auth in [:none, "none"], do: %{auth: :none}
  defp auth(_other), do: :error

  # It goes into a header, and shorter ones can be guessed.
  defp token?(nil), do: true
  defp token?(token), do: is_binary(token) and token =~ ~r/\A[\x21-\x7e]{16,2048}\z/

  defp address(config) do
    get = fn key -> Map.get(config, key, Map.get(config, Atom.to_string(key))) end
    host = get.(:host)

    case mode(get.(:mode)) do
      :internal ->
        host = host || Defaults.grpc_internal_host()
        listening(:internal, host, get.(:bind_host), nil, nil, nil)

      :external ->
        with :ok <- text(host, :missing_host), :ok <- port(get.(:port), :missing_port) do
          listening(:external, host, get.(:bind_host), get.(:port), nil, nil)
        end

      :external_pool ->
        size = get.(:pool_size) || Defaults.grpc_port_pool_size()

        with :ok <- text(host, :missing_host),
             :ok <- port(get.(:base_port), :missing_base_port),
             :ok <- size(size, get.(:base_port)) do
          listening(:external_pool, host, get.(:bind_host), nil, get.(:base_port), size)
        end

      :error ->
        listener_error(:invalid_mode)
    end
  end

  defp mode(nil), do: :internal
  defp mode(mode) when mode in [:internal, "internal"], do: :internal
  defp mode(mode) when mode in [:external, "external"], do: :external

  defp mode(mode) when mode in [:external_pool, "external_pool", "external-pool"],
    do: :external_pool

  defp mode(_), do: :error

  defp listening(mode, host, bind_host, port, base_port, size) do
    {:ok,
     %{
       mode: mode,
       host: host,
       bind_host: bind_host || host,
       port: port,
       base_port: base_port,
       pool_size: size
     }}
  end

  defp text(value, _why) when is_binary(value) and value != "", do: :ok
  defp text(_, why), do: listener_error(why)

  defp port(value, _why) when value in 1..65_535, do: :ok
  defp port(_, why), do: listener_error(why)

  defp size(size, base) when is_integer(size) and size > 0 and base + size - 1 <= 65_535, do: :ok
  defp size(_, _), do: listener_error(:invalid_pool_size)

  defp listener_error(why), do: {:error, {:invalid_grpc_listener_config, why}}
end
