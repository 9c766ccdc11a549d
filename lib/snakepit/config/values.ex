defmodule Snakepit.Config.Values do
  @moduledoc false
  # The values of the application's own keys, one by one. Those of pools, the
  # listener, telemetry and zero copy are judged where they are read.

  alias Snakepit.Defaults

  @levels [:debug, :info, :warning, :error, :none]
  # What Elixir's Logger has besides.
  @other_levels [:all, :warn, :notice, :critical, :alert, :emergency]

  @kinds [
    cleanup_on_stop: :boolean,
    data_dir: :text,
    grpc_config: :settings,
    grpc_host: :text,
    heartbeat: :settings,
    log_categories: :categories,
    log_level: :level,
    log_python_output: :boolean,
    pool_config: :settings,
    pooling_enabled: :boolean,
    process_group_kill: :boolean,
    python: :settings,
    python_executable: :text,
    python_packages: :settings,
    python_thread_limits: :settings,
    session_config: :settings,
    session_store: :store
  ]

  @doc "What a key may be, of one that is one of a few."
  @spec allowed(atom) :: [atom]
  def allowed(:log_level), do: @levels
  def allowed(_key), do: []

  @doc "The first that is none: `{key, value, text}`, or nil."
  @spec wrong() :: {atom, term, String.t()} | nil
  def wrong do
    Enum.find_value(@kinds, fn {key, kind} ->
      value = Application.get_env(:snakepit, key)
      text = value != nil and judge(kind, value)
      if text, do: {key, value, text}
    end) || wrong_older()
  end

  # What stands under an older name goes where the newer one would.
  defp wrong_older do
    builtin = Defaults.keys()

    Enum.find_value(Defaults.older(), fn {key, older, value} ->
      text = number(Map.fetch!(builtin, key), value)
      if text, do: {name(older), value, "#{shown(older)}: #{text}"}
    end)
  end

  defp name({outer, _key}), do: outer
  defp name(key), do: key
  defp shown({outer, key}), do: "#{inspect(key)} in #{inspect(outer)}"
  defp shown(key), do: inspect(key)

  # None of them is known by an older name but numbers.
  defp number(_builtin, value) when is_integer(value) and value >= 0, do: nil
  defp number(:derived, :infinity), do: nil
  defp number(_builtin, _value), do: "it is an integer of at least 0"

  defp judge(:boolean, value), do: if(not is_boolean(value), do: "it is true or false")

  defp judge(:text, value),
    do: if(not (is_binary(value) or List.ascii_printable?(List.wrap(value))), do: "it is a text")

  defp judge(:level, level),
    do: if(level not in (@levels ++ @other_levels), do: "it is one of #{inspect(@levels)}")

  defp judge(:settings, value),
    do: if(not settings?(value), do: "it is a map or a keyword list")

  defp judge(:categories, value) do
    if not (is_list(value) or is_map(value)),
      do: "it is a list of categories, such as [:pool, :worker]"
  end

  defp judge(:store, module) when is_atom(module), do: nil
  defp judge(:store, value), do: if(settings?(value), do: store(value), else: "it is #{stores()}")

  defp judge(:count, value),
    do: if(not (is_integer(value) and value >= 0), do: "it is an integer of at least 0")

  defp judge(:bound, value) do
    if not (value == :infinity or (is_integer(value) and value >= 0)),
      do: "it is an integer of at least 0 or :infinity"
  end

  defp judge(:positive, value),
    do: if(not (is_integer(value) and value > 0), do: "it is a positive integer")

  defp judge(:share, value),
    do: if(not (is_number(value) and value >= 0), do: "it is a number of at least 0")

  @store [
    default_ttl: :count,
    max_sessions: :bound,
    cleanup_interval: :positive,
    warning_threshold: :share,
    strict_mode: :boolean
  ]

  defp store(settings) do
    Enum.find_value(@store, fn {key, kind} ->
      value = settings[key]
      text = value != nil and judge(kind, value)
      if text, do: "#{inspect(key)} in it: #{text}"
    end)
  end

  defp stores, do: "a module, a map or a keyword list"
  defp settings?(value), do: is_map(value) or Keyword.keyword?(value)
end
