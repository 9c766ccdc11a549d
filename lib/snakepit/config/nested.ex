defmodule Snakepit.Config.Nested do
  @moduledoc false
  # The keys within settings that are maps or keyword lists: those that mean nothing.

  alias Snakepit.Config
  alias Snakepit.Config.Explain
  alias Snakepit.CrashBarrier

  @listener [:mode, :host, :bind_host, :port, :base_port, :pool_size, :auth, :token, :tls]
  @session_store [
    :adapter,
    :name,
    :table_name,
    :default_ttl,
    :max_sessions,
    :cleanup_interval,
    :warning_threshold,
    :strict_mode,
    :tool_registry
  ]
  @categories [
    :lifecycle,
    :pool,
    :grpc,
    :bridge,
    :worker,
    :startup,
    :shutdown,
    :telemetry,
    :general
  ]

  @by_text [:heartbeat, :crash_barrier, :grpc_listener, :python_thread_limits]

  # Beside those of a pool.
  @pool_config [:startup_timeout]

  @doc "A line for each key in a setting of the application's; `pool` are those of a pool."
  @spec unknown([atom]) :: [String.t()]
  def unknown(pool) do
    for {key, known} <- global(pool),
        value = Application.get_env(:snakepit, key),
        line <- lines("config :snakepit", key, value, known),
        do: line
  end

  @doc "The same of one pool; `where` says of which."
  @spec unknown_in(map | keyword, String.t()) :: [String.t()]
  def unknown_in(pool, where) do
    lines(where, :heartbeat, pool[:heartbeat], Config.heartbeat_keys()) ++
      lines(where, :crash_barrier, pool[:crash_barrier], CrashBarrier.keys())
  end

  defp global(pool) do
    [
      heartbeat: Config.heartbeat_keys(),
      crash_barrier: CrashBarrier.keys(),
      grpc_listener: @listener,
      log_categories: @categories,
      pool_config: pool ++ @pool_config,
      session_config: [:ttl, :cleanup_interval],
      session_store: session_store(),
      grpc_config: [:base_port, :port_range, :connect_timeout, :request_timeout],
      python_thread_limits: Map.keys(Snakepit.PythonThreadLimits.defaults())
    ]
  end

  # What else there is for a module of the user's is for that to know.
  defp session_store do
    case Application.get_env(:snakepit, :session_store) do
      %{adapter: module} when module != nil ->
        :any

      [_ | _] = list ->
        if Keyword.keyword?(list) and list[:adapter], do: :any, else: @session_store

      _ ->
        @session_store
    end
  end

  defp lines(_where, _setting, _value, :any), do: []

  defp lines(where, setting, value, known) do
    for key <- keys(value), not known?(setting, key, known) do
      "#{where}: #{setting}: #{inspect(key)} is not known and has no effect." <>
        Explain.hint(key, known)
    end
  end

  # Some settings are read by text as well.
  defp known?(setting, key, known) when is_binary(key) and setting in @by_text,
    do: key in Enum.map(known, &Atom.to_string/1)

  defp known?(_setting, key, known), do: key in known

  # A list may be of keys alone: `log_categories: [:pool]`.
  defp keys(%{} = map), do: Enum.filter(Map.keys(map), &name?/1)

  defp keys(list) when is_list(list) do
    if List.improper?(list),
      do: [],
      else: list |> Enum.map(&with({k, _} <- &1, do: k)) |> Enum.filter(&name?/1)
  end

  defp keys(_other), do: []

  defp name?(key), do: is_atom(key) or is_binary(key)
end
