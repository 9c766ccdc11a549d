defmodule Snakepit.CrashBarrier do
  @moduledoc """
  What follows when a worker's OS process crashes.

      config :snakepit,
        crash_barrier: [enabled: true, retry: :idempotent, max_retries: 1, taint_ms: 5_000]

  A pool's own `crash_barrier:` is merged over it. When it is enabled, how the
  process really ended says whether it was a crash. The worker is then avoided
  for a time, and calls that were running on it are made again elsewhere when
  their caller has marked them as idempotent. See `guides/faults.md`.

  | Key | Default | |
  |---|---|---|
  | `enabled` | `false` | |
  | `retry` | `:idempotent` | or `:always`, `:never`; `true` is `:idempotent`, `false` `:never` |
  | `max_restarts`, `max_retries` | 1 | how often one call is made again |
  | `taint_duration_ms`, `taint_ms` | 60 000 | how long a worker is avoided |
  | `backoff_ms` | `[50, 100, 200]` | waits before a retry, the last for all further ones |
  | `mark_on` | `[:segfault, :oom, :gpu]` | what counts as a crash; also `:abort` |
  | `taint_on_exit_codes` | `[]` | exit statuses that count too; a signal n is 128 + n |
  | `taint_on_error_types` | `[]` | texts in the worker's last output that make it a `:gpu` crash |
  """

  alias Snakepit.{Defaults, Error, Telemetry}
  alias Snakepit.Worker.TaintRegistry

  @classes [:segfault, :abort, :oom, :gpu]
  @aliases %{max_retries: :max_restarts, taint_ms: :taint_duration_ms}
  @keys [
    :enabled,
    :retry,
    :max_restarts,
    :taint_duration_ms,
    :backoff_ms,
    :mark_on,
    :taint_on_exit_codes,
    :taint_on_error_types,
    :taint_device_on_cuda_fatal
  ]

  # What drivers and frameworks say when a device has failed, not what they
  # say every time that they start.
  @gpu [
    "CUDA error",
    "CUDA_ERROR_",
    "CUDA out of memory",
    "cudaError",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "device-side assert",
    "HIP error",
    "hipError",
    "NVRM: Xid",
    "GPU has fallen off the bus"
  ]

  @type config :: map
  @type info :: %{
          type: :worker_crash,
          classification: :segfault | :abort | :oom | :gpu | :exit_code,
          exit_code: non_neg_integer | nil,
          worker_id: String.t() | nil,
          device: {:cuda, non_neg_integer} | nil,
          reason: term
        }

  # ---- settings -----------------------------------------------------------

  @doc """
  The settings in force: those of the application, with a pool's `:crash_barrier`
  merged over them.

      iex> config = Snakepit.CrashBarrier.config(%{crash_barrier: [enabled: true, taint_ms: 5_000]})
      iex> {config.enabled, config.taint_duration_ms, config.max_restarts}
      {true, 5_000, 1}
  """
  @spec config(map | keyword) :: config
  def config(pool_config \\ %{}) do
    defaults()
    |> Map.merge(settings(Application.get_env(:snakepit, :crash_barrier)))
    |> Map.merge(settings(Map.new(pool_config)[:crash_barrier]))
  end

  defp defaults do
    %{
      enabled: false,
      retry: :idempotent,
      max_restarts: Defaults.crash_barrier_max_restarts(),
      taint_duration_ms: Defaults.crash_barrier_taint_duration_ms(),
      backoff_ms: Defaults.crash_barrier_backoff_ms(),
      mark_on: [:segfault, :oom, :gpu],
      taint_on_exit_codes: [],
      taint_on_error_types: [],
      taint_device_on_cuda_fatal: true
    }
  end

  defp settings(nil), do: %{}
  defp settings(enabled) when is_boolean(enabled), do: %{enabled: enabled}

  defp settings(given) do
    for {key, value} <- given, key = key(key), value != nil, into: %{}, do: setting(key, value)
  end

  defp key(key) do
    key =
      Enum.find([:retry_idempotent | Map.keys(@aliases) ++ @keys], key, &("#{&1}" == "#{key}"))

    Map.get(@aliases, key, key)
  end

  defp setting(:retry_idempotent, idempotent?),
    do: {:retry, if(idempotent?, do: :idempotent, else: :never)}

  defp setting(:retry, retry) when is_boolean(retry),
    do: setting(:retry_idempotent, retry)

  defp setting(:retry, retry), do: {:retry, known(retry, [:idempotent, :always, :never])}

  defp setting(:mark_on, classes) when is_list(classes),
    do: {:mark_on, Enum.map(classes, &known(&1, @classes))}

  defp setting(:backoff_ms, ms) when is_integer(ms), do: {:backoff_ms, [ms]}
  defp setting(key, value), do: {key, value}

  defp known(value, atoms), do: Enum.find(atoms, value, &("#{&1}" == "#{value}"))

  @doc false
  @spec keys() :: [atom]
  def keys, do: @keys ++ Map.keys(@aliases) ++ [:retry_idempotent]

  @doc false
  # What is wrong with the settings, if anything: key, value, what is allowed.
  @spec problem(map | keyword) :: {atom, term, String.t()} | nil
  def problem(pool_config) do
    given = [
      Application.get_env(:snakepit, :crash_barrier),
      Map.new(pool_config)[:crash_barrier]
    ]

    case Enum.find(given, &(not settings?(&1))) do
      nil -> pool_config |> config() |> Enum.find_value(&wrong/1)
      other -> {:crash_barrier, other, "crash_barrier is a map or keyword list"}
    end
  end

  defp settings?(given),
    do: is_nil(given) or is_boolean(given) or is_map(given) or Keyword.keyword?(given)

  defp wrong({key, value}) do
    case allowed(key, value) do
      {true, _text} -> nil
      {false, text} -> {key, value, "#{key} is #{text}"}
    end
  end

  defp allowed(key, value) when key in [:enabled, :taint_device_on_cuda_fatal],
    do: {is_boolean(value), "true or false"}

  defp allowed(:retry, value),
    do: {value in [:idempotent, :always, :never], ":idempotent, :always or :never"}

  defp allowed(key, value) when key in [:max_restarts, :taint_duration_ms],
    do: {natural?(value), "an integer of at least 0"}

  defp allowed(:backoff_ms, value), do: {list?(value, &natural?/1), "a list of milliseconds"}

  defp allowed(:mark_on, value),
    do: {list?(value, &(&1 in @classes)), "a list of some of #{inspect(@classes)}"}

  defp allowed(:taint_on_exit_codes, value),
    do: {list?(value, &natural?/1), "a list of exit statuses"}

  defp allowed(:taint_on_error_types, value),
    do: {list?(value, &(is_binary(&1) or is_atom(&1))), "a list of texts"}

  # Unknown keys are warned of with all others.
  defp allowed(_key, _value), do: {true, ""}

  defp natural?(value), do: is_integer(value) and value >= 0
  defp list?(value, fits?), do: is_list(value) and Enum.all?(value, fits?)

  @doc "Whether these settings are in use."
  @spec enabled?(map) :: boolean
  def enabled?(config), do: Map.get(config, :enabled, false) == true

  # ---- what happened ------------------------------------------------------

  @doc """
  Whether a result is that of a crash, and of which: `{:ok, info}` or `:error`.

      iex> config = Snakepit.CrashBarrier.config()
      iex> {:ok, info} = Snakepit.CrashBarrier.crash_info({:error, {:worker_exit, {:exit_status, 139}}}, config)
      iex> {info.type, info.classification, info.exit_code}
      {:worker_crash, :segfault, 139}
      iex> Snakepit.CrashBarrier.crash_info({:error, {:worker_exit, {:exit_status, 1}}}, config)
      :error
  """
  @spec crash_info(term, config) :: {:ok, info} | :error
  def crash_info({:error, {:worker_exit, why}}, config), do: classified(why, config)

  def crash_info({:error, %Error{details: %{reason: :worker_exit} = details}}, config),
    do: details |> Map.put(:exit, details[:exit_reason]) |> classified(config)

  def crash_info(_result, _config), do: :error

  @doc false
  # What of a worker's end is a crash at all, whatever the settings make of it: its
  # class, or how it ended.
  @spec crash_reason(map) :: {:ok, term} | :error
  def crash_reason(%{killed: true}), do: :error
  def crash_reason(%{exit: {:exit_status, code}}) when code in [0, 143], do: :error
  def crash_reason(%{exit: {:signal, 15}}), do: :error

  def crash_reason(%{exit: {kind, _} = exit} = why) when kind in [:exit_status, :signal] do
    config = Map.merge(config(), %{mark_on: @classes, taint_on_exit_codes: []})

    case classified(why, config) do
      {:ok, %{classification: class}} -> {:ok, class}
      :error -> {:ok, exit}
    end
  end

  def crash_reason(_why), do: :error

  # Ended by Snakepit itself, for another reason.
  defp classified(%{killed: true}, _config), do: :error

  defp classified(why, config) do
    {exit, text} = exit_and_text(why)
    code = exit_code(exit)
    found = code_class(code) ++ gpu_class(text, why, config)

    case Enum.filter(found, &(&1 in config.mark_on)) do
      [class | _] -> {:ok, info(class, code, text, why)}
      [] when found != [] and code != nil -> listed(hd(found), code, text, why, config)
      [] -> listed(:exit_code, code, text, why, config)
    end
  end

  defp listed(class, code, text, why, config) do
    if code in config.taint_on_exit_codes, do: {:ok, info(class, code, text, why)}, else: :error
  end

  defp info(class, code, text, why) do
    %{
      type: :worker_crash,
      classification: class,
      exit_code: code,
      worker_id: if(is_map(why), do: why[:worker_id]),
      device: device(text),
      reason: if(is_map(why), do: why[:exit], else: why)
    }
  end

  defp exit_and_text(%{} = why), do: {why[:exit], why[:stderr] || ""}
  defp exit_and_text(why) when is_binary(why), do: {nil, why}
  defp exit_and_text(why), do: {why, inspect(why, limit: 50, printable_limit: 4_096)}

  defp exit_code({kind, n})
       when kind in [:exit_status, :status, :grpc_server_exited] and is_integer(n),
       do: n

  defp exit_code({:signal, n}) when is_integer(n), do: 128 + n

  defp exit_code({kind, inner}) when kind in [:external_process_died, :shutdown],
    do: exit_code(inner)

  defp exit_code(_other), do: nil

  defp code_class(139), do: [:segfault]
  defp code_class(134), do: [:abort]
  defp code_class(137), do: [:oom]
  defp code_class(_code), do: []

  # The output of a process is searched for failures of a device; a reason of
  # another make for the words.
  defp gpu_class(_text, %{exit: {:exit_status, 0}}, _config), do: []

  defp gpu_class(text, why, config) do
    failed? = if is_map(why), do: String.contains?(text, @gpu), else: text =~ ~r/cuda|gpu/i
    types = Enum.map(config.taint_on_error_types, &String.downcase("#{&1}"))
    if failed? or String.contains?(String.downcase(text), types), do: [:gpu], else: []
  end

  defp device(text) do
    case Regex.run(~r/\bcuda:(\d+)/i, text) do
      [_, n] -> {:cuda, String.to_integer(n)}
      nil -> nil
    end
  end

  @doc "The public error of a crash: that of the result, with what is known in its details."
  @spec normalize_crash_error(term, info) :: term
  def normalize_crash_error({:error, %Error{} = error}, info) do
    known = Map.take(info, [:type, :classification, :exit_code, :device, :worker_id])
    {:error, %{error | details: Map.merge(known, error.details)}}
  end

  def normalize_crash_error({:error, reason}, info) do
    case Error.normalize_public_error(reason, %{}) do
      %Error{} = error -> normalize_crash_error({:error, error}, info)
      other -> {:error, other}
    end
  end

  def normalize_crash_error(result, _info), do: result

  # ---- retries ------------------------------------------------------------

  @doc """
  Whether the caller has marked a call as one that may run twice.

      iex> Snakepit.CrashBarrier.idempotent?(%{idempotent: true, path: "x"})
      true
      iex> Snakepit.CrashBarrier.idempotent?(%{"idempotent" => true})
      true
      iex> Snakepit.CrashBarrier.idempotent?(%{path: "x"})
      false
  """
  @spec idempotent?(term) :: boolean
  def idempotent?(%{idempotent: marked}), do: marked == true
  def idempotent?(%{"idempotent" => marked}), do: marked == true

  def idempotent?([{_, _} | _] = args),
    do: List.keyfind(args, :idempotent, 0) == {:idempotent, true}

  def idempotent?(_args), do: false

  @doc "Whether a call that was made again `attempt` times may be so once more."
  @spec retry_allowed?(config, boolean, non_neg_integer) :: boolean
  def retry_allowed?(config, idempotent, attempt) do
    wanted? = config.retry == :always or (config.retry == :idempotent and idempotent)
    wanted? and attempt < config.max_restarts
  end

  @doc """
  How many ms to wait before that, the first retry being `attempt` 0.

      iex> config = Snakepit.CrashBarrier.config()
      iex> Enum.map(0..3, &Snakepit.CrashBarrier.retry_backoff(config, &1))
      [50, 100, 200, 200]
  """
  @spec retry_backoff(config, non_neg_integer) :: non_neg_integer
  def retry_backoff(%{backoff_ms: []}, _attempt), do: 0

  def retry_backoff(%{backoff_ms: waits}, attempt),
    do: Enum.at(waits, attempt) || List.last(waits)

  # ---- taints -------------------------------------------------------------

  @doc "Avoids a worker from now on, and tells by `worker, crash` and `worker, tainted`."
  @spec taint_worker(atom, String.t(), info | map, config) :: :ok
  def taint_worker(pool_name, worker_id, info, config) do
    about = about(pool_name, worker_id, info)
    duration = config.taint_duration_ms
    :ok = TaintRegistry.taint_worker(worker_id, Map.put(about, :duration_ms, duration))
    Telemetry.execute([:snakepit, :worker, :crash], %{}, about)
    Telemetry.execute([:snakepit, :worker, :tainted], %{duration_ms: duration}, about)
  end

  @doc "Tells, once after a taint, that the worker runs again."
  @spec maybe_emit_restart(atom, String.t()) :: :ok
  def maybe_emit_restart(pool_name, worker_id) do
    case TaintRegistry.consume_restart(worker_id) do
      {:ok, info} ->
        about = Map.merge(about(pool_name, worker_id, %{}), Map.take(info, about_keys()))
        Telemetry.execute([:snakepit, :worker, :restarted], %{}, about)

      :error ->
        :ok
    end
  end

  @doc "Whether a worker is avoided now."
  @spec worker_tainted?(String.t()) :: boolean
  def worker_tainted?(worker_id), do: TaintRegistry.worker_tainted?(worker_id)

  defp about_keys, do: [:worker_id, :pool, :reason, :exit_code, :device]

  defp about(pool_name, worker_id, info) do
    %{
      worker_id: worker_id,
      pool: pool_name,
      reason: Map.get(info, :classification, info[:reason]),
      exit_code: info[:exit_code],
      device: info[:device]
    }
  end
end
