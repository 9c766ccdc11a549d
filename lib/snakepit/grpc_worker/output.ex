defmodule Snakepit.GRPCWorker.Output do
  @moduledoc false
  # What a worker process writes: line by line into the log, and its end kept
  # for the report of the process's end.

  alias Snakepit.GRPCWorker.LogRecord

  # What is kept.
  @kept_bytes 65_536
  # A line that is longer is logged in pieces.
  @line_bytes 8_192
  # What begins a record may be as long as records get.
  @record_bytes 65_536

  defstruct kept: [], kept_bytes: 0, lines: %{stdout: "", stderr: ""}

  @type t :: %__MODULE__{}
  @type line ::
          {:debug | :info | :warning | :error, :stdout | :stderr, String.t()}
          | {:record, LogRecord.t()}

  @spec new() :: t
  def new, do: %__MODULE__{}

  @doc """
  Takes bytes up; gives the records of Python's logging that are complete with
  them, and other lines if `lines?`.
  """
  @spec add(t, :stdout | :stderr, binary, boolean) :: {t, [line]}
  def add(output, stream, bytes, lines?) do
    output = keep(output, bytes)

    if lines? or stream == :stderr,
      do: split(output, stream, bytes, lines?),
      else: {output, []}
  end

  @doc "What is there without an end of line."
  @spec rest(t, boolean) :: [line]
  def rest(output, lines? \\ true),
    do: Enum.flat_map(output.lines, fn {stream, text} -> lines(stream, text, lines?) end)

  @doc "All that is kept."
  @spec all(t) :: binary
  def all(output) do
    all = output.kept |> Enum.reverse() |> IO.iodata_to_binary()
    last_bytes(all, @kept_bytes)
  end

  @doc "The last `size` bytes, at most #{@kept_bytes}, with records as text."
  @spec last(t, non_neg_integer) :: binary
  def last(output, size), do: output |> all() |> LogRecord.readable() |> last_bytes(size)

  defp last_bytes(bytes, size) do
    size = min(byte_size(bytes), min(size, @kept_bytes))
    binary_part(bytes, byte_size(bytes) - size, size)
  end

  @doc "Whatever a process writes, a log and an error hold text."
  @spec printable(binary) :: String.t()
  def printable(bytes) do
    if String.valid?(bytes) do
      bytes
    else
      bytes
      |> String.chunk(:valid)
      |> Enum.map_join(&if String.valid?(&1), do: &1, else: String.duplicate("?", byte_size(&1)))
    end
  end

  @doc "Only keeps bytes."
  @spec keep(t, binary) :: t
  # Newest first; joined only when there is much more than is kept.
  def keep(output, bytes) do
    kept = [bytes | output.kept]
    size = output.kept_bytes + byte_size(bytes)

    if size > 2 * @kept_bytes do
      all = kept |> Enum.reverse() |> IO.iodata_to_binary()
      rest = :binary.copy(binary_part(all, size - @kept_bytes, @kept_bytes))
      %{output | kept: [rest], kept_bytes: @kept_bytes}
    else
      %{output | kept: kept, kept_bytes: size}
    end
  end

  defp split(output, stream, bytes, lines?) do
    {lines, [rest]} =
      (output.lines[stream] <> bytes) |> String.split(["\r\n", "\n"]) |> Enum.split(-1)

    {long, rest} = if record?(stream, rest), do: {[], rest}, else: pieces(rest, [])
    output = %{output | lines: Map.put(output.lines, stream, :binary.copy(rest))}
    {output, Enum.flat_map(lines ++ long, &lines(stream, &1, lines?))}
  end

  defp record?(:stderr, text) do
    byte_size(text) <= @record_bytes and
      :binary.match(text, LogRecord.separator()) != :nomatch
  end

  defp record?(:stdout, _text), do: false

  defp lines(:stdout, text, lines?), do: if(lines?, do: plain(:stdout, text), else: [])

  defp lines(:stderr, text, lines?) do
    Enum.flat_map(LogRecord.parse(text), fn
      {:record, record} -> [{:record, record}]
      {:text, text} -> if lines?, do: plain(:stderr, text), else: []
    end)
  end

  defp plain(stream, text) do
    {pieces, rest} = pieces(text, [])
    for piece <- pieces ++ [rest], piece != "", do: line(stream, piece)
  end

  defp pieces(<<piece::binary-size(@line_bytes), rest::binary>>, done) when rest != "",
    do: pieces(rest, [piece | done])

  defp pieces(rest, done), do: {Enum.reverse(done), rest}

  defp line(stream, bytes) do
    text = printable(bytes)
    {level(text), stream, text}
  end

  @levels %{
    "CRITICAL" => :error,
    "ERROR" => :error,
    "WARNING" => :warning,
    "INFO" => :info,
    "DEBUG" => :debug
  }

  # As Python's logging writes it, somewhere near the start.
  defp level(text) do
    case Regex.run(~r/\A.{0,60}?\b(CRITICAL|ERROR|WARNING|INFO|DEBUG)\b/, text) do
      [_, word] -> Map.fetch!(@levels, word)
      nil -> :info
    end
  end
end
