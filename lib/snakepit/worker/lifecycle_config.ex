defmodule Snakepit.Worker.LifecycleConfig do
  @moduledoc """
  What of a worker's configuration matters for its recycling, in one form.

      iex> config = Snakepit.Worker.LifecycleConfig.ensure(:p, %{worker_ttl: {1, :hours}})
      iex> {config.worker_ttl_seconds, config.worker_max_requests}
      {3600, :infinity}
  """

  alias Snakepit.Config

  defstruct [
    :pool_name,
    :pool_identifier,
    :adapter_module,
    :profile_module,
    :raw_worker_ttl,
    :memory_threshold_mb,
    worker_module: Snakepit.GRPCWorker,
    worker_profile: :process,
    worker_ttl_seconds: :infinity,
    worker_max_requests: :infinity,
    adapter_args: [],
    adapter_env: [],
    base_worker_config: %{}
  ]

  @type t :: %__MODULE__{
          pool_name: term,
          pool_identifier: atom | nil,
          adapter_module: module | nil,
          profile_module: module,
          worker_module: module,
          worker_profile: atom | module,
          raw_worker_ttl: term,
          worker_ttl_seconds: :infinity | non_neg_integer,
          worker_max_requests: :infinity | pos_integer,
          memory_threshold_mb: nil | pos_integer,
          adapter_args: list,
          adapter_env: list,
          base_worker_config: map
        }

  @doc """
  Makes one of a worker's configuration. `pool_name` is for a configuration that
  names none; options: `:worker_module`, `:adapter_module`.
  """
  @spec ensure(term, map | keyword | t, keyword) :: t
  def ensure(pool_name, config, opts \\ [])

  def ensure(pool_name, %__MODULE__{} = config, opts) do
    %{
      config
      | pool_name: config.pool_name || pool_name,
        worker_module: opts[:worker_module] || config.worker_module,
        adapter_module: opts[:adapter_module] || config.adapter_module
    }
  end

  def ensure(pool_name, config, opts) when is_list(config),
    do: ensure(pool_name, Map.new(config), opts)

  def ensure(pool_name, config, opts) when is_map(config) do
    ttl = Map.get(config, :worker_ttl, :infinity)

    %__MODULE__{
      pool_name: config[:pool_name] || config[:name] || pool_name,
      pool_identifier: config[:pool_identifier],
      adapter_module: opts[:adapter_module] || config[:adapter_module],
      profile_module: Config.get_profile_module(config),
      worker_module: opts[:worker_module] || config[:worker_module] || Snakepit.GRPCWorker,
      worker_profile: config[:worker_profile] || :process,
      raw_worker_ttl: ttl,
      worker_ttl_seconds: seconds(ttl),
      worker_max_requests: config[:worker_max_requests] || :infinity,
      memory_threshold_mb: config[:memory_threshold_mb],
      adapter_args: config[:adapter_args] || [],
      adapter_env: config[:adapter_env] || [],
      base_worker_config: config
    }
  end

  @doc "The configuration of a worker that replaces one of this configuration."
  @spec to_worker_config(t, String.t()) :: map
  def to_worker_config(%__MODULE__{} = config, worker_id) do
    Map.merge(config.base_worker_config, %{
      worker_id: worker_id,
      pool_name: config.pool_name,
      pool_identifier: config.pool_identifier,
      worker_module: config.worker_module,
      adapter_module: config.adapter_module,
      adapter_args: config.adapter_args,
      adapter_env: config.adapter_env,
      worker_profile: config.worker_profile,
      worker_ttl: config.raw_worker_ttl,
      worker_max_requests: config.worker_max_requests,
      memory_threshold_mb: config.memory_threshold_mb
    })
  end

  @units %{seconds: 1, minutes: 60, hours: 3600, days: 86_400}

  defp seconds({n, unit}) when is_integer(n) and n >= 0 and is_map_key(@units, unit),
    do: n * Map.fetch!(@units, unit)

  defp seconds(n) when is_integer(n) and n >= 0, do: n
  defp seconds(_none), do: :infinity
end
