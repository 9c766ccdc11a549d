defmodule Snakepit.Logger do
  @moduledoc """
  What Snakepit logs, and how much of it.

  By default only errors are logged. `config :snakepit, log_level:` takes
  `:debug`, `:info`, `:warning`, `:error` and `:none`; `log_categories:` is a
  list of the categories to log (all when it is not set). One process can have
  its own level with `set_process_level/1` or `with_level/2`.

  Each message goes to Elixir's `Logger` with the metadata `:category`, and
  without what looks like a secret; see `redact/1`.
  """

  require Logger

  @type level :: :debug | :info | :warning | :error | :none
  @type category ::
          :lifecycle
          | :pool
          | :grpc
          | :bridge
          | :worker
          | :startup
          | :shutdown
          | :telemetry
          | :general

  @ranks %{debug: 0, info: 1, warning: 2, error: 3, none: 4}
  @key {__MODULE__, :level}

  for level <- [:debug, :info, :warning, :error] do
    @doc "Logs `message` (text, or a function that gives it) in the category `:general`."
    @spec unquote(level)(String.t() | (() -> String.t())) :: :ok
    def unquote(level)(message), do: log(unquote(level), :general, message, [])

    @doc "Logs `message` in a category."
    @spec unquote(level)(category, String.t() | (() -> String.t())) :: :ok
    def unquote(level)(category, message), do: log(unquote(level), category, message, [])

    @doc "The same with metadata for `Logger`."
    @spec unquote(level)(category, String.t() | (() -> String.t()), keyword) :: :ok
    def unquote(level)(category, message, metadata),
      do: log(unquote(level), category, message, metadata)
  end

  @doc "Whether this process logs at `level`, of `category` if one is given."
  @spec should_log?(level, category | nil) :: boolean
  def should_log?(level, category \\ nil) do
    rank(level) < @ranks.none and rank(level) >= rank(get_process_level()) and
      category_on?(category)
  end

  @doc "Sets the level of the calling process."
  @spec set_process_level(level) :: :ok
  def set_process_level(level) when is_map_key(@ranks, level) do
    Process.put(@key, level)
    :ok
  end

  @doc "The level in force: this process's own, else that of `Logger` for it, else the configured one."
  @spec get_process_level() :: level
  def get_process_level do
    case Process.get(@key) || Logger.get_process_level(self()) do
      nil -> known(Application.get_env(:snakepit, :log_level, :error))
      level -> known(level)
    end
  end

  @doc "Removes the level of the calling process."
  @spec clear_process_level() :: :ok
  def clear_process_level do
    Process.delete(@key)
    :ok
  end

  @doc "Runs `fun` with a level of its own, and puts the former one back whatever happens."
  @spec with_level(level, (() -> result)) :: result when result: var
  def with_level(level, fun) when is_map_key(@ranks, level) and is_function(fun, 0) do
    former = Process.put(@key, level)

    try do
      fun.()
    after
      if former, do: Process.put(@key, former), else: Process.delete(@key)
    end
  end

  @hidden "[redacted]"
  @doc """
  `term` without what looks like a secret: in texts, tokens after `Bearer`, keys
  like `sk-...`, quoted values of `api_key`, `token`, `secret` and `password`,
  and passwords in URLs; in maps and lists of pairs, texts under such names.

      iex> Snakepit.Logger.redact(~s(failed: token="abc", Authorization: Bearer eyJhbGciOi))
      ~s(failed: token="[redacted]", Authorization: Bearer [redacted])
      iex> Snakepit.Logger.redact([{"OPENAI_API_KEY", "abc"}, {"LANG", "C"}])
      [{"OPENAI_API_KEY", "[redacted]"}, {"LANG", "C"}]
  """
  @spec redact(term) :: term
  def redact(text) when is_binary(text) do
    Enum.reduce(secrets(), text, fn {pattern, shown}, text ->
      Regex.replace(pattern, text, shown)
    end)
  end

  def redact(%_{} = struct), do: struct
  def redact(map) when is_map(map), do: Map.new(map, &redact/1)
  def redact([head | tail]), do: [redact(head) | redact(tail)]

  def redact({name, value}) when is_binary(name) or is_atom(name) do
    secret? = (is_binary(value) or is_list(value)) and secret?(to_string(name))
    {name, if(secret?, do: @hidden, else: redact(value))}
  end

  def redact(other), do: other

  defp secret?(name) do
    name =~
      ~r/(?:api|access|private|secret)[_-]?key|token|secret|passw(?:or)?d|passphrase|credential|authorization/i
  end

  # Each with what stands in its place. Not in an attribute: a compiled
  # pattern cannot be kept in one since OTP 28.
  defp secrets do
    [
      {~r/\b(bearer|basic)\s+[\w.~+\/=-]{6,}/i, "\\1 #{@hidden}"},
      {~r/\bsk-[\w-]{10,}/, @hidden},
      {~r/((?:api_?key|token|secret|passw(?:or)?d)["']?\s*(?:=>|[:=])\s*)(["'])(?:\\.|(?!\2).)*\2/i,
       "\\1\\2#{@hidden}\\2"},
      {~r/(:\/\/[^\s:\/@]*:)[^\s\/@]+@/, "\\1#{@hidden}@"}
    ]
  end

  defp log(level, category, message, metadata) do
    if should_log?(level, category) do
      text = if is_function(message, 0), do: message.(), else: message
      Logger.log(level, redact(text), [{:category, category} | redact(metadata)])
    end

    :ok
  end

  defp category_on?(nil), do: true

  defp category_on?(category) do
    case Application.get_env(:snakepit, :log_categories) do
      nil -> true
      list when list in [[], %{}] -> true
      list when is_list(list) -> category in list or {category, true} in list
      %{} = map -> Map.get(map, category, false) == true
      _ -> true
    end
  end

  defp rank(level), do: Map.get(@ranks, level, @ranks.error)

  # Logger has levels between ours and calls warnings by two names.
  defp known(level) when is_map_key(@ranks, level), do: level
  defp known(:all), do: :debug
  defp known(:warn), do: :warning
  defp known(:notice), do: :warning
  defp known(_), do: :error
end
