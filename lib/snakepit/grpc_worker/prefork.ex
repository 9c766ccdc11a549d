defmodule Snakepit.GRPCWorker.Prefork do
  @moduledoc false
  # Whether a worker is forked from a zygote, and what tells it from the others
  # of that zygote.

  alias Snakepit.Pool.Zygotes
  alias Snakepit.Spawner
  alias Snakepit.Spawner.Settings

  # What each worker has of its own; all else is the zygote's, too.
  @own ~w(SNAKEPIT_WORKER_ID SNAKEPIT_READY_FILE SNAKEPIT_LOCAL_SOCKET SNAKEPIT_LOCAL_TOKEN)
  @scripts ~w(grpc_server.py grpc_server_threaded.py)

  @doc "Asks for a zygote: see `Snakepit.Pool.Zygotes.ask/3`. `:cold` when there is none to ask for."
  @spec ask(atom | pid, map, Spawner.spec(), Spawner.id() | nil) :: {:ok, reference} | :cold
  def ask(claim, config, spec, except \\ nil) do
    prefork = Map.get(config, :prefork, true)

    if prefork != false and ours?(spec) and Process.whereis(Zygotes) != nil,
      do: {:ok, ask_for(claim, config, zygote(spec, config, prefork), except)},
      else: :cold
  end

  defp ask_for(claim, config, zygote, except) do
    case Settings.of_start_only(config) do
      [] ->
        Zygotes.ask(claim, zygote, except)

      keys ->
        why = "#{Enum.join(keys, ", ")} can be set only for a process that is started by itself"
        Zygotes.refuse(claim, zygote, why)
    end
  end

  @doc "Starts a worker as a copy of a zygote."
  @spec fork(Spawner.id(), Spawner.spec()) ::
          {:ok, Spawner.id(), pos_integer} | {:error, Spawner.failure()}
  def fork(zygote, spec) do
    {own, _common} = split(spec.env)
    Spawner.fork(zygote, %{spec | env: own})
  end

  @doc "Programs of others do not know what a zygote is, nor whom to tell that they are ready."
  @spec ours?(Spawner.spec()) :: boolean
  def ours?(%{args: [script | _]}) when is_binary(script) do
    Path.basename(script) in @scripts and
      Path.dirname(script) == Path.expand(Application.app_dir(:snakepit, "priv/python"))
  end

  def ours?(_spec), do: false

  defp zygote(spec, config, prefork) do
    {_own, common} = split(spec.env)
    carrier = if config[:transport] == :grpc, do: "grpc", else: "local"
    preload = if is_list(prefork), do: Enum.join(prefork[:preload] || [], ","), else: ""

    env = [{"SNAKEPIT_ZYGOTE", carrier}, {"SNAKEPIT_PRELOAD", preload} | common]

    # What limits a worker is not for the zygote, which serves several pools.
    spec |> Map.take([:program, :args, :cd, :grace_ms]) |> Map.put(:env, Enum.sort(env))
  end

  defp split(env), do: Enum.split_with(env, fn {name, _value} -> name in @own end)
end
