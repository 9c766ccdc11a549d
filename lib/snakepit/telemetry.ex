defmodule Snakepit.Telemetry do
  @moduledoc """
  Events of pools, workers and sessions, and handlers for them.

  The functions are those of the package `telemetry`. Where that is installed
  they call it, so that handlers attached with `:telemetry.attach/4` get the
  events; where not, Snakepit's own dispatcher does the same.

      :ok =
        Snakepit.Telemetry.attach(
          "log-recycling",
          [:snakepit, :worker, :recycled],
          fn _event, _measurements, %{worker_id: id, reason: reason}, _config ->
            IO.puts("\#{id} was replaced: \#{reason}")
          end,
          nil
        )

  Events (all begin with `:snakepit`), measurements, metadata:

  | Event | Measurements | Metadata |
  |---|---|---|
  | `pool, init_started` | `total_workers`, `count` | |
  | `pool, init_complete` | `duration_ms`, `total_workers`, `count` | `pool_workers` |
  | `pool, worker_ready` | `worker_count`, `count` | `pool_name`, `worker_id` |
  | `pool, resized` | `size`, `previous`, `count` | `pool`, `reason` (`:queueing`, `:idle`, `:manual`) |
  | `pool, saturated` | `queue_size`, `max_queue_size` | `pool`, `available_workers`, `busy_workers` |
  | `pool, capacity_reached` | `capacity`, `load` | `worker_pid`, `profile`, `worker_id`, `pool` |
  | `pool, worker, spawned` | `duration`, `system_time` | `node`, `pool_name`, `worker_id`, `worker_pid`, `python_port`, `python_pid`, `mode` |
  | `pool, worker, terminated` | `lifetime`, `total_commands` | `node`, `pool_name`, `worker_id`, `worker_pid`, `reason`, `planned` |
  | `worker, recycled` | `count`, and `memory_mb` | `worker_id`, `pool`, `reason`, `uptime_seconds`, `request_count`, and `memory_mb`, `memory_threshold_mb` |
  | `worker, health_check_failed` | `count` | `worker_id`, `pool`, `reason` |
  | `worker, crash`, `tainted`, `restarted` | `duration_ms` when tainted | `worker_id`, `pool`, `reason`, `exit_code`, `device` |
  | `circuit_breaker, opened`, `half_open`, `closed` | `failure_count` when opened | `pool`, `reason` |
  | `retry, attempt`, `success`, `exhausted` | `attempt`, `delay_ms`, or `attempts`, `total_duration` | `pool`, `operation`, `last_error` |
  | `heartbeat, monitor_started`, `monitor_stopped` | `timestamp`, `count` | `worker_id`, `worker_pid`, `missed_heartbeats`, `dependent`, `reason` when stopped |
  | `heartbeat, ping_sent` | `timestamp`, `count`, `pings` | the same |
  | `heartbeat, pong_received` | `timestamp`, `count`, `pongs`, `latency_ms` | the same, `latency_ms` |
  | `heartbeat, heartbeat_timeout` | `timestamp`, `count`, `timeouts`, `missed` | the same, `missed_count` |
  | `heartbeat, monitor_failure` | `timestamp`, `count`, `failures` | the same, `failure_reason` |
  """

  alias Snakepit.Telemetry.Dispatcher

  @type event_name :: [atom, ...]
  @type handler_id :: term
  @type handler_function :: (event_name, map, map, term -> any)

  @doc """
  Calls the handlers of an event, in this process.

  Without a handler this costs about as much as reading a map.
  """
  @spec execute(event_name, map, map) :: :ok
  def execute(event, measurements, metadata \\ %{})
      when is_list(event) and is_map(measurements) and is_map(metadata) do
    case :persistent_term.get(Dispatcher, nil) do
      %{^event => _} -> Dispatcher.execute(event, measurements, metadata)
      table when is_map(table) -> :ok
      nil -> first(event, measurements, metadata)
      telemetry -> telemetry.execute(event, measurements, metadata)
    end
  end

  # Which of the two it is has to be found out.
  defp first(event, measurements, metadata) do
    case Dispatcher.backend() do
      nil -> Dispatcher.execute(event, measurements, metadata)
      telemetry -> telemetry.execute(event, measurements, metadata)
    end
  end

  @doc "Whether anybody listens to an event: for those that cost something to make."
  @spec attached?(event_name) :: boolean
  def attached?(event) do
    case Dispatcher.backend() do
      nil -> Dispatcher.handlers(event) != []
      telemetry -> telemetry.list_handlers(event) != []
    end
  end

  @doc """
  Attaches a handler to an event. A handler that raises is detached.

      iex> Snakepit.Telemetry.attach("doc", [:doc, :event], fn _, _, _, _ -> :ok end, nil)
      :ok
      iex> Snakepit.Telemetry.attach("doc", [:doc, :event], fn _, _, _, _ -> :ok end, nil)
      {:error, :already_exists}
      iex> Snakepit.Telemetry.detach("doc")
      :ok
  """
  @spec attach(handler_id, event_name, handler_function, term) :: :ok | {:error, :already_exists}
  def attach(id, event, function, config), do: attach_many(id, [event], function, config)

  @doc "Attaches one handler to several events."
  @spec attach_many(handler_id, [event_name], handler_function, term) ::
          :ok | {:error, :already_exists}
  def attach_many(id, events, function, config)
      when is_list(events) and is_function(function, 4) do
    case Dispatcher.backend() do
      nil -> Dispatcher.attach_many(id, events, function, config)
      telemetry -> telemetry.attach_many(id, events, function, config)
    end
  end

  @doc "Removes a handler from all its events."
  @spec detach(handler_id) :: :ok | {:error, :not_found}
  def detach(id) do
    case Dispatcher.backend() do
      nil -> Dispatcher.detach(id)
      telemetry -> telemetry.detach(id)
    end
  end

  @doc "The handlers of the events that begin with `prefix`, `[]` for all."
  @spec list_handlers([atom]) :: [
          %{
            id: handler_id,
            event_name: event_name,
            function: handler_function,
            config: term
          }
        ]
  def list_handlers(prefix) when is_list(prefix) do
    case Dispatcher.backend() do
      nil -> Dispatcher.list_handlers(prefix)
      telemetry -> telemetry.list_handlers(prefix)
    end
  end
end
