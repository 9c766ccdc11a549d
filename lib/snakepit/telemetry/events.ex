defmodule Snakepit.Telemetry.Events do
  @moduledoc """
  What the events have in them that programs for machine learning look at: exceptions,
  retries, circuit breakers.

      iex> [:snakepit, :retry, :attempt] |> Snakepit.Telemetry.Events.event_schema() |> Map.get(:measurements)
      %{attempt: :integer, delay_ms: :integer}
  """

  alias Snakepit.Telemetry.Catalog

  @type event :: [atom]
  @type measurement_type :: :integer | :float | :monotonic_time | :system_time
  @type metadata_type :: :string | :atom | :integer | :map | :list | :any
  @type schema :: %{
          measurements: %{atom => measurement_type},
          metadata: %{atom => metadata_type}
        }

  @doc "Circuit breakers, exceptions and retries."
  @spec all_ml_events() :: [event]
  def all_ml_events, do: circuit_breaker_events() ++ exception_events() ++ retry_events()

  @doc "Circuit breakers that open and close."
  @spec circuit_breaker_events() :: [event]
  def circuit_breaker_events, do: beginning_with([:snakepit, :circuit_breaker])

  @doc "Exceptions of Python, and what was recognised in them."
  @spec exception_events() :: [event]
  def exception_events,
    do:
      beginning_with([:snakepit, :error]) ++
        for([:snakepit, :python, :exception, _] = event <- Catalog.events(:runtime), do: event)

  @doc "Calls that are made again."
  @spec retry_events() :: [event]
  def retry_events, do: beginning_with([:snakepit, :retry])

  defp beginning_with(prefix),
    do: Enum.filter(Catalog.events(:runtime), &List.starts_with?(&1, prefix))

  @doc "The types of an event's measurements and metadata, of any event; nil when there is none."
  @spec event_schema(event) :: schema | nil
  def event_schema(event) do
    case Catalog.fetch(event) do
      {:ok, entry} ->
        %{
          measurements: Map.new(entry.measurements, fn {key, unit} -> {key, type(key, unit)} end),
          metadata: for(key <- List.flatten(entry.metadata), into: %{}, do: {key, kind(key)})
        }

      :error ->
        nil
    end
  end

  defp type(key, [unit]), do: type(key, unit)
  defp type(:system_time, _unit), do: :system_time
  defp type(:monotonic_time, _unit), do: :monotonic_time
  defp type(:utilization, _unit), do: :float
  defp type(key, _unit) when key in [:cpu_percent, :memory_mb, :initialization_time], do: :float
  defp type(:duration_ms, _unit), do: :float
  defp type(_key, _unit), do: :integer

  @atoms [:pool, :pool_name, :node, :reason, :kind, :profile, :adapter, :adapter_module] ++
           [:operation, :status, :state, :span_kind, :rpc_system, :telemetry_source]
  @integers [:python_pid, :os_pid, :exit_code, :timestamp_ns, :request_count, :uptime_seconds] ++
              [:available_workers, :busy_workers, :missed_heartbeats, :missed_count, :python_port]
  @texts [:worker_id, :command, :session_id, :correlation_id, :python_type, :tool, :rpc_method] ++
           [:error_type, :error_message, :beam_run_id, :run_id, :library, :function]

  defp kind(key) when key in @atoms, do: :atom
  defp kind(key) when key in @integers, do: :integer
  defp kind(key) when key in @texts, do: :string
  defp kind(:stacktrace), do: :list
  defp kind(:pool_workers), do: :map
  defp kind(_key), do: :any
end
