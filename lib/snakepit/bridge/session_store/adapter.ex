defmodule Snakepit.Bridge.SessionStore.Adapter do
  @moduledoc """
  A module that keeps sessions in place of the table of this VM:

      config :snakepit, session_store: [adapter: MyApp.Sessions]

  `Snakepit.Bridge.SessionStore` stays what others call. It validates, fills in the
  default ttl, keeps variables and global programs, removes the tools of sessions
  that end, and asks for the expired ones every `session_cleanup_interval`. All
  else is up to the adapter, which is called in the process of whoever asks, by
  several at a time:

    * a session that was not used for its ttl is not there, swept or not. Calls of
      workers are use, too, but do not tell it:
      `Snakepit.Bridge.SessionStore.unused_ms/1` says for this node when the last was
    * `c:create_session/2` of an id that is there gives that one, and many at a time
      make one; a maximum, where there is one, is `{:error, :session_quota_exceeded}`
    * between the session that is given to the function of `c:update_session/2` and
      what it returns nobody else changes it. `{:error, reason}` from the function
      changes nothing and is the answer. It may be called more than once.
    * times in `Snakepit.Bridge.Session` are monotonic seconds of a VM: to keep them
      elsewhere add `System.time_offset(:second)`, and take it off on the way back

  With `c:start_link/1` it is started by the store, with the settings beside
  `:adapter`, and restarted together with it.
  """

  alias Snakepit.Bridge.Session

  @doc "Starts what it needs."
  @callback start_link(settings :: map) :: GenServer.on_start()

  @doc "The session that is there, used now, or a new one; `opts` always has `:ttl`."
  @callback create_session(id :: String.t(), opts :: keyword) ::
              {:ok, Session.t()} | {:error, term}

  @doc "The session, used now."
  @callback get_session(id :: String.t()) :: {:ok, Session.t()} | {:error, :not_found}

  @doc "Replaces it by what the function makes of it; used now."
  @callback update_session(
              id :: String.t(),
              (Session.t() -> Session.t() | {:error, term})
            ) :: {:ok, Session.t()} | {:error, :not_found | term}

  @callback delete_session(id :: String.t()) :: :ok
  @callback session_exists?(id :: String.t()) :: boolean
  @callback list_sessions() :: [String.t()]

  @doc "Removes the expired ones; their ids."
  @callback cleanup_expired_sessions() :: [String.t()]

  @callback get_stats() :: map

  @optional_callbacks start_link: 1

  @doc false
  # In the process of the store, which is linked to what is started.
  @spec start(module | nil, map) ::
          {:ok, nil | %{module: module, pid: pid | nil}}
          | {:error, {:session_store_adapter, term}}
  def start(nil, _settings), do: {:ok, nil}

  def start(module, settings) when is_atom(module) do
    callbacks =
      __MODULE__.behaviour_info(:callbacks) -- __MODULE__.behaviour_info(:optional_callbacks)

    with {:loaded, {:module, _}} <- {:loaded, Code.ensure_loaded(module)},
         {:missing, []} <- {:missing, Enum.reject(callbacks, &has?(module, &1))},
         {:ok, pid} <- start_own(module, settings) do
      {:ok, %{module: module, pid: pid}}
    else
      {:loaded, {:error, why}} -> wrong({:not_loadable, module, why})
      {:missing, functions} -> wrong({:not_implemented, module, functions})
      {:error, reason} -> wrong({:not_started, module, reason})
      other -> wrong({:not_started, module, other})
    end
  end

  def start(other, _settings), do: wrong({:not_a_module, other})

  defp start_own(module, settings) do
    if has?(module, {:start_link, 1}),
      do: module.start_link(Map.delete(settings, :adapter)),
      else: {:ok, nil}
  end

  defp has?(module, {name, arity}), do: function_exported?(module, name, arity)
  defp wrong(reason), do: {:error, {:session_store_adapter, reason}}
end
