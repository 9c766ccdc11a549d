defmodule Snakepit.GRPCWorker.LogRecord do
  @moduledoc false
  # What Python's logging says, in a line of its own on stderr: a record separator
  # and a JSON object (RFC 7464); see priv/python/snakepit_bridge/log_records.py.
  # Whatever else such a line holds is text. Nothing in it does more than become
  # a message of the log.

  alias Snakepit.Native

  @separator "\x1e"
  # Of one worker; what is beyond is counted only.
  @per_second 1_000

  @type level :: :debug | :info | :warning | :error
  @type t :: %{
          level: level,
          logger: String.t(),
          message: String.t(),
          metadata: keyword
        }

  @doc "The byte before a record."
  @spec separator() :: String.t()
  def separator, do: @separator

  @doc "A line as what it holds: text, and the record after the separator."
  @spec parse(binary) :: [{:text, binary} | {:record, t}]
  def parse(line) do
    case :binary.split(line, @separator) do
      [text] -> [{:text, text}]
      [before, json] -> texts(before) ++ [record(json)]
    end
  end

  defp texts(""), do: []
  defp texts(text), do: [{:text, text}]

  defp record(json) do
    with {:ok, %{"level" => level, "logger" => logger, "message" => message} = said}
         when is_integer(level) and is_binary(logger) and is_binary(message) <-
           Native.json_decode(json) do
      {:record,
       %{level: level(level), logger: logger, message: message, metadata: metadata(said)}}
    else
      _ -> {:text, json}
    end
  end

  defp level(number) when number >= 40, do: :error
  defp level(number) when number >= 30, do: :warning
  defp level(number) when number >= 20, do: :info
  defp level(_number), do: :debug

  defp metadata(said) do
    for {key, name} <- [
          python_logger: "logger",
          file: "file",
          line: "line",
          function: "function",
          thread: "thread",
          correlation_id: "correlation_id"
        ],
        value = said[name],
        value = value(key, value),
        do: {key, value}
  end

  # As the file of a message from Elixir.
  defp value(:file, file) when is_binary(file), do: String.to_charlist(file)
  defp value(:line, line) when is_integer(line), do: line
  defp value(key, text) when key not in [:file, :line] and is_binary(text), do: text
  defp value(_key, _other), do: nil

  @doc "Output as somebody reads it."
  @spec readable(binary) :: binary
  def readable(bytes) do
    if :binary.match(bytes, @separator) == :nomatch,
      do: bytes,
      else: bytes |> String.split("\n") |> Enum.map_join("\n", &readable_line/1)
  end

  defp readable_line(line) do
    Enum.map_join(parse(line), "\n", fn
      {:text, text} -> text
      {:record, record} -> "#{name(record.level)} #{record.logger}: #{record.message}"
    end)
  end

  defp name(level), do: level |> Atom.to_string() |> String.upcase()

  # ---- floods ---------------------------------------------------------------

  @typedoc "Since when, how many since then, and how many too many of at most which level."
  @type budget :: {integer, non_neg_integer, dropped}
  @type dropped :: {non_neg_integer, level}

  @none {0, :debug}

  @spec budget() :: budget
  def budget, do: {0, 0, @none}

  @doc """
  Whether one more, of this level, is logged at `now_ms`; and what was not before,
  when that is to be told.
  """
  @spec take(budget, level, integer) :: {boolean, dropped, budget}
  def take({since, count, dropped}, level, now_ms) do
    cond do
      count == 0 or now_ms - since >= 1_000 -> {true, dropped, {now_ms, 1, @none}}
      count < @per_second -> {true, @none, {since, count + 1, dropped}}
      true -> {false, @none, {since, count, more(dropped, level)}}
    end
  end

  @levels [:debug, :info, :warning, :error]

  defp more({n, worst}, level),
    do: {n + 1, Enum.max_by([worst, level], &Enum.find_index(@levels, fn l -> l == &1 end))}

  @doc "What was not logged, of which nothing was told yet."
  @spec dropped(budget) :: dropped
  def dropped({_since, _count, dropped}), do: dropped
end
