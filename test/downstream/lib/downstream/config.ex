defmodule Downstream.Config do
  @moduledoc """
  Writes what snakepit has to know. Values that the user has set stay.
  """

  @adapter_args ["--adapter", "downstream_adapter.DownstreamAdapter"]

  @doc "One pool, by the older keys."
  @spec configure(keyword) :: :ok
  def configure(opts \\ []) do
    put_new(:pooling_enabled, true)
    put_new(:adapter_module, Snakepit.Adapters.GRPCPython)
    put_new(:python, managed: false)

    put_new(:pool_config, %{
      pool_size: Keyword.get(opts, :pool_size, 2),
      adapter_args: @adapter_args,
      adapter_env: adapter_env(),
      affinity: Keyword.get(opts, :affinity, :strict_queue)
    })
  end

  @doc "Several pools."
  @spec configure_pools([{atom, pos_integer}]) :: :ok
  def configure_pools(sizes) do
    put_new(:pooling_enabled, true)
    put_new(:adapter_module, Snakepit.Adapters.GRPCPython)

    put_new(
      :pools,
      for {name, size} <- sizes do
        %{
          name: name,
          pool_size: size,
          affinity: :strict_queue,
          adapter_args: @adapter_args,
          adapter_env: adapter_env()
        }
      end
    )
  end

  @doc "With the directory of snakepit itself: a PYTHONPATH of ours replaces its own."
  @spec adapter_env() :: %{String.t() => String.t()}
  def adapter_env do
    snakepit = snakepit_python()
    own = [:code.priv_dir(:downstream) |> to_string() |> Path.join("python"), snakepit]
    %{"PYTHONPATH" => Enum.join(own ++ List.wrap(System.get_env("PYTHONPATH")), ":")}
  end

  @spec snakepit_python() :: Path.t()
  def snakepit_python, do: :code.priv_dir(:snakepit) |> to_string() |> Path.join("python")

  @spec requirements() :: Path.t()
  def requirements, do: Path.join(snakepit_python(), "requirements.txt")

  defp put_new(key, value) do
    # `pooling_enabled: false` is what a fresh project has.
    if Application.get_env(:snakepit, key) in [nil, false],
      do: Application.put_env(:snakepit, key, value)

    :ok
  end
end
