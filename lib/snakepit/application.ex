defmodule Snakepit.Application do
  @moduledoc """
  Starts `Snakepit.Supervisor`: sessions, tools and registries always, the
  pools when `config :snakepit, pooling_enabled: true`.

  Usually the application is started by being a dependency. `{Snakepit.Application,
  []}` among the children of a supervisor starts the same tree there, unless
  it runs already.
  """

  use Application

  alias Snakepit.{Config, Defaults, Native, ZeroCopy}

  @doc false
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec(_arg) do
    %{id: __MODULE__, start: {__MODULE__, :start_embedded, []}, type: :supervisor}
  end

  @doc false
  @spec start_embedded() :: Supervisor.on_start() | :ignore
  def start_embedded do
    if Process.whereis(Snakepit.Supervisor), do: :ignore, else: start(:normal, [])
  end

  @impl true
  def start(_type, _args) do
    pooling? = Application.get_env(:snakepit, :pooling_enabled, false) == true

    with :ok <- load_native(),
         :ok <- check(pooling?) do
      # An optional library of the user's; see the guide on values.
      :ok = Native.build_decimals(Code.ensure_loaded?(Decimal))
      Config.Keys.warn()
      :ok = ZeroCopy.Segment.configure_node()

      base = [
        Snakepit.Bridge.SessionStore,
        Snakepit.Bridge.ToolRegistry,
        Snakepit.Bridge.WorkerTools,
        Snakepit.Pool.Changes,
        Snakepit.Pool.Registry,
        Snakepit.Pool.ProcessRegistry,
        Snakepit.ETSOwner,
        Snakepit.Telemetry.GrpcStream,
        {Task.Supervisor, name: Snakepit.TaskSupervisor},
        Snakepit.Python.Refs,
        Snakepit.Pool.ApplicationCleanup
      ]

      children = if pooling?, do: base ++ [Snakepit.Pool.RuntimeSupervisor], else: base
      options = [strategy: :one_for_one, name: Snakepit.Supervisor]
      children |> Supervisor.start_link(options) |> explained()
    end
  end

  # Why it cannot be loaded only the code server knows, and has logged.
  defp load_native do
    case Code.ensure_loaded(Native) do
      {:module, Native} ->
        :ok

      {:error, reason} ->
        file = Application.app_dir(:snakepit, "ebin/snakepit_nif.so")

        explained(
          {:error,
           {:native_unavailable,
            "#{file} cannot be loaded (#{inspect(reason)}; above is why): install what it lacks, " <>
              "on a release's host gRPC's shared libraries, or build it again with mix compile --force"}}
        )
    end
  end

  # What can be known to fail is said before anything is started.
  defp check(pooling?) do
    profile = Defaults.timeout_profile()
    profiles = Map.keys(Defaults.timeout_profiles())

    cond do
      profile not in profiles ->
        refuse(:timeout_profile, {:invalid_timeout_profile, profile, profiles})

      match?({:error, _}, values = Config.Keys.check()) ->
        {:error, {:invalid_value, key, _value, _text} = reason} = values
        refuse(key, reason)

      pooling? ->
        with {:ok, _} <- named(:pools, Config.get_pool_configs()),
             {:ok, _} <- named(:grpc_listener, Config.grpc_listener_config()) do
          :ok
        end

      true ->
        :ok
    end
  end

  defp named(_key, {:ok, value}), do: {:ok, value}
  defp named(:pools, {:error, why}), do: refuse(:pools, {:invalid_pool_config, why})
  defp named(key, {:error, why}), do: refuse(key, why)

  defp refuse(key, reason) do
    Snakepit.Logger.error(:startup, Config.Explain.text(key, reason))
    {:error, reason}
  end

  # The reason itself, without the supervisors around it.
  defp explained({:error, reason}) do
    reason = innermost(reason)
    Snakepit.Logger.error(:startup, fn -> "snakepit did not start: #{show(reason)}" end)
    {:error, reason}
  end

  defp explained(result), do: result

  defp innermost({:shutdown, {:failed_to_start_child, _child, reason}}), do: innermost(reason)
  defp innermost(reason), do: reason

  defp show({_kind, message}) when is_binary(message), do: message
  defp show(reason), do: inspect(reason)
end
