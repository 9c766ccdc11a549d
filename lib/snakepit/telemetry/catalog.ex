defmodule Snakepit.Telemetry.Catalog do
  @moduledoc false
  # All events that Snakepit emits: the one place where they are written down.
  # guides/telemetry.md shows the same, and the tests compare the two and what is
  # emitted. Names are without `:snakepit`; a key in brackets, `[:key]`, is not
  # always there.

  @heartbeat [:worker_id, :worker_pid, :missed_heartbeats, :dependent]
  @beat [timestamp: :native, count: :number]
  @worker [:node, :pool_name, :worker_id, :worker_pid]
  @call [
    :operation,
    :worker_id,
    :worker_pid,
    :command,
    :adapter,
    :adapter_module,
    :pool,
    :session_id,
    :correlation_id,
    :timeout_ms,
    :span_kind,
    :rpc_system,
    :telemetry_source
  ]
  @rpc [
    :node,
    :pool_name,
    :worker_id,
    :command,
    :rpc_method,
    :session_id,
    :correlation_id,
    :timeout_ms
  ]
  @waiting [:pool, :command, :session_id, :correlation_id]
  @crash [:worker_id, :pool, :reason, :exit_code, :device]
  @handle [:kind, :device, :dtype, :shape]
  @run [:beam_run_id, :timestamp]
  @script [:run_id, :exit_mode, :stop_mode, :owned?, :status, :cleanup_result]
  @python [:node, :worker_id, :pool_name, :python_pid, :correlation_id, :timestamp_ns]
  @tool @python ++ [:tool, :session_id, [:command]]
  @raised [[:error_type], [:error_message]]

  @pool [
    {[:pool, :init_started], [total_workers: :number, count: :number], []},
    {[:pool, :initialized], [worker_count: :number, count: :number], [:pool_name]},
    {[:pool, :init_complete], [duration_ms: :ms, total_workers: :number, count: :number],
     [:pool_workers]},
    {[:pool, :worker_ready], [worker_count: :number, count: :number], [:pool_name, :worker_id]},
    {[:pool, :resized], [size: :number, previous: :number, count: :number], [:pool, :reason]},
    {[:pool, :status],
     [
       queue_depth: :number,
       total_workers: :number,
       available_workers: :number,
       busy_workers: :number,
       segments_sent: :number,
       segments_received: :number,
       segments_missing: :number
     ], [:node, :pool_name]},
    {[:pool, :saturated], [queue_size: :number, max_queue_size: :number],
     [:pool, :available_workers, :busy_workers]},
    {[:pool, :capacity_reached], [capacity: :number, load: :number],
     [:worker_pid, :profile, :worker_id, :pool]},
    {[:pool, :queue, :enqueued], [queue_depth: :number, system_time: :native], @waiting},
    {[:pool, :queue, :dequeued], [queue_time: :native], [:worker_id | @waiting]},
    {[:pool, :queue, :timeout], [queue_time: :native], @waiting},
    {[:pool, :call, :dispatched], [system_time: :native], [:pool, :worker_id, :command, :queued]},
    {[:pool, :worker, :spawn_started], [system_time: :native], @worker},
    {[:pool, :worker, :spawned], [duration: :native, system_time: :native],
     @worker ++ [:python_port, :python_pid, :mode]},
    {[:pool, :worker, :restarted], [restart_count: :number, downtime: :native],
     @worker ++ [:previous_pid, :reason]},
    {[:pool, :worker, :spawn_failed], [duration: :native], @worker ++ [:reason, :error_message]},
    {[:pool, :worker, :terminated], [lifetime: :native, total_commands: :number],
     @worker ++ [:reason, :planned]},
    {[:worker, :initialized], [initialization_time: :s], [:worker_id, :pool]},
    {[:worker, :request], [duration: :ms], [:result, :worker_id, :pool]},
    {[:request, :executed], [duration_us: :us],
     [:pool, :worker_id, :command, :success, [:streaming]]},
    {[:worker, :recycled], [count: :number, memory_mb: [:mb]],
     [
       :worker_id,
       :pool,
       :reason,
       :uptime_seconds,
       :request_count,
       [:memory_mb],
       [:memory_threshold_mb]
     ]},
    {[:worker, :health_check_failed], [count: :number], [:worker_id, :pool, :reason]},
    {[:cleanup, :start], [count: :number], @run},
    {[:cleanup, :success], [count: :number], @run},
    {[:cleanup, :timeout], [count: :number], @run},
    {[:application_cleanup, :cleanup_success], [count: :number], @run},
    {[:application_cleanup, :orphaned_processes_found], [count: :number], @run},
    {[:application_cleanup, :emergency_cleanup], [count: :number], @run}
  ]

  @spans for operation <- [:execute, :execute_session, :execute_stream],
             {what, measurements, metadata} <- [
               {:start, [system_time: :native, monotonic_time: :native], []},
               {:stop,
                [
                  duration: :native,
                  duration_ms: :ms,
                  monotonic_time: :native,
                  executions: :number,
                  errors: [:number],
                  segments_sent: [:number],
                  segments_received: [:number],
                  segments_missing: [:number],
                  segment_bytes: [:bytes]
                ], [:status, [:error], [:error_kind]]},
               {:exception, [duration: :native, monotonic_time: :native],
                [:kind, :reason, :stacktrace]}
             ],
             do: {[:grpc_worker, operation, what], measurements, @call ++ metadata}

  @rpcs [
    {[:grpc, :call, :start], [system_time: :native], @rpc},
    {[:grpc, :call, :stop], [duration: :native], @rpc ++ [:status, [:error_kind]]},
    {[:grpc, :call, :exception], [duration: :native], @rpc ++ [:kind, :reason, :stacktrace]},
    {[:grpc, :stream, :opened], [system_time: :native], @rpc},
    {[:grpc, :stream, :message], [sequence_number: :number, message_size: :bytes], @rpc},
    {[:grpc, :stream, :closed], [duration: :native, message_count: :number],
     @rpc ++ [:status, [:error_kind]]},
    {[:grpc, :connection, :established], [system_time: :native], @worker ++ [:python_port]},
    {[:grpc, :connection, :reconnected], [system_time: :native], @worker ++ [:python_port]},
    {[:grpc, :connection, :lost], [uptime: :native], @worker ++ [:python_port, :reason]}
  ]

  @grpc @spans ++ @rpcs

  @stored for what <- [:created, :accessed, :updated, :deleted, :expired],
              do:
                {[:session_store, :session, what], [system_time: :native, count: :number],
                 [:session_id]}

  @sessions [
    {[:session, :created], [system_time: :native, count: :number], [:session_id]},
    {[:session, :destroyed], [system_time: :native, count: :number], [:session_id, :reason]},
    {[:session, :affinity, :assigned], [system_time: :native],
     [:pool_name, :session_id, :worker_id]},
    {[:bridge, :session, :pruned],
     [count: :number, remaining_sessions: :number, system_time: :native],
     [:reason, :table_name, :max_sessions]},
    {[:bridge, :session, :accumulation_warning],
     [
       current_sessions: :number,
       max_sessions: :number,
       utilization: :number,
       system_time: :native
     ], [:reason, :table_name, :strict_mode]}
  ]

  @session @sessions ++ @stored

  @program [
    {[:session_store, :program, :stored], [system_time: :native, count: :number],
     [:session_id, :program_id]}
  ]

  @heartbeats [
    {[:heartbeat, :monitor_started], @beat, @heartbeat},
    {[:heartbeat, :monitor_stopped], @beat, @heartbeat ++ [:reason]},
    {[:heartbeat, :ping_sent], @beat ++ [pings: :number], @heartbeat},
    {[:heartbeat, :pong_received], @beat ++ [pongs: :number, latency_ms: :ms],
     @heartbeat ++ [:latency_ms]},
    {[:heartbeat, :heartbeat_timeout], @beat ++ [timeouts: :number, missed: :number],
     @heartbeat ++ [:missed_count]},
    {[:heartbeat, :monitor_failure], @beat ++ [failures: :number],
     @heartbeat ++ [:failure_reason]}
  ]

  @runtime [
    {[:worker, :crash], [], @crash},
    {[:worker, :tainted], [duration_ms: :ms], @crash},
    {[:worker, :restarted], [], @crash},
    {[:circuit_breaker, :opened], [failure_count: :number], [:pool, :reason]},
    {[:circuit_breaker, :half_open], [], [:pool]},
    {[:circuit_breaker, :closed], [], [:pool, :reason]},
    {[:circuit_breaker, :call, :allowed], [], [:pool, :state]},
    {[:circuit_breaker, :call, :rejected], [], [:pool, :state]},
    {[:retry, :attempt], [attempt: :number, delay_ms: :ms],
     [[:pool], [:operation], [:last_error]]},
    {[:retry, :backoff], [attempt: :number, delay_ms: :ms],
     [[:pool], [:operation], [:last_error]]},
    {[:retry, :success], [attempts: :number, total_duration: :native], [[:pool], [:operation]]},
    {[:retry, :exhausted], [attempts: :number, total_duration: :native],
     [[:pool], [:operation], [:last_error]]},
    {[:zero_copy, :export], [duration_ms: :ms, bytes: [:bytes]], @handle},
    {[:zero_copy, :import], [duration_ms: :ms, bytes: [:bytes]], @handle},
    {[:zero_copy, :fallback], [duration_ms: :ms, bytes: [:bytes]], @handle},
    {[:error, :shape_mismatch], [], [:expected, :got, :dimension, :operation]},
    {[:error, :device], [], [:expected_device, :actual_device, :operation]},
    {[:error, :python_exception], [], [:python_type, :library, :function, :error_message]},
    {[:error, :oom], [requested_bytes: :bytes, available_bytes: :bytes], [:device, :operation]},
    {[:python, :exception, :mapped], [], [:python_type, :library, :function]},
    {[:python, :exception, :unmapped], [], [:python_type, :library, :function]}
  ]

  @scripts for what <- [:start, :stop, :cleanup, :exit],
               do: {[:script, :shutdown, what], [], @script}

  # From workers. The first four are made by the worker itself, of each call, when
  # somebody listens to them; the rest by whoever calls `emit` there.
  @calls for {name, what} <- [
               {[:python, :call], :start},
               {[:python, :call], :stop},
               {[:python, :call], :exception},
               {[:python, :tool, :execution], :start},
               {[:python, :tool, :execution], :stop},
               {[:python, :tool, :execution], :exception}
             ],
             do:
               {name ++ [what], if(what == :start, do: [system_time: :ns], else: [duration: :ns]),
                if(what == :exception, do: @tool ++ @raised, else: @tool)}

  @emitted [
    {[:python, :tool, :result_size], [bytes: :bytes], @python},
    {[:python, :memory, :sampled], [rss_bytes: [:bytes], vms_bytes: [:bytes]], @python},
    {[:python, :cpu, :sampled], [cpu_percent: [:number]], @python},
    {[:python, :gc, :completed], [collected: [:number], generation: [:number]], @python},
    {[:python, :error, :occurred], [count: [:number]], @python ++ @raised},
    {[:python, :serialization, :unserializable_marker], [first_seen: :number],
     @python ++ ["type"]}
  ]

  @groups [
    pool: @pool,
    grpc: @grpc,
    session: @session,
    program: @program,
    heartbeat: @heartbeats,
    runtime: @runtime,
    script: @scripts,
    python: @calls ++ @emitted
  ]

  @entries for {group, entries} <- @groups,
               {name, measurements, metadata} <- entries,
               do: %{
                 event: [:snakepit | name],
                 group: group,
                 measurements: measurements,
                 metadata: metadata
               }

  @by_event Map.new(@entries, &{&1.event, &1})

  @type group :: :pool | :grpc | :session | :program | :heartbeat | :runtime | :script | :python
  @type unit :: :number | :native | :ns | :us | :ms | :s | :bytes | :mb
  @type entry :: %{
          event: [atom],
          group: group,
          measurements: [{atom, unit | [unit]}],
          metadata: [atom | String.t() | [atom]]
        }

  @spec entries() :: [entry]
  def entries, do: @entries

  @spec events(group) :: [[atom]]
  def events(group), do: for(%{group: ^group, event: event} <- @entries, do: event)

  @spec fetch([atom]) :: {:ok, entry} | :error
  def fetch(event), do: Map.fetch(@by_event, event)

  @doc "Those that make a call be watched: see Snakepit.Pool.CallEvents."
  @spec calls() :: [[atom]]
  def calls do
    for %{event: [:snakepit | name] = event} <- @entries, call?(name), do: event
  end

  defp call?([:request, :executed]), do: true
  defp call?([:worker, :request]), do: true
  defp call?([:pool, :call, _]), do: true
  defp call?([:pool, :queue, _]), do: true
  defp call?([:grpc_worker | _]), do: true
  defp call?([:grpc, :call, _]), do: true
  defp call?([:grpc, :stream, _]), do: true
  defp call?([:python, :call, _]), do: true
  defp call?([:python, :tool, :execution, _]), do: true
  defp call?(_name), do: false
end
