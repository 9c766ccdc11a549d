defmodule Snakepit.GRPCWorker.Output do
  @moduledoc false
  # What a worker process writes: line by line into the log, and its end kept
  # for the report of the process's end.

  # What is kept.
  @kept_bytes 65_536
  # A line that is longer is logged in pieces.
  @line_bytes 8_192

  defstruct kept: [], kept_bytes: 0, lines: %{stdout: "", stderr: ""}

  @type t :: %__MODULE__{}
  @type line :: {:debug | :info | :warning | :error, :stdout | :stderr, String.t()}

  @spec new() :: t
  def new, do: %__MODULE__{}

  @doc "Takes bytes up; gives the lines that are complete with them, if `lines?`."
  @spec add(t, :stdout | :stderr, binary, boolean) :: {t, [line]}
  def add(output, stream, bytes, lines?) do
    output = keep(output, bytes)
    if lines?, do: split(output, stream, bytes), else: {output, []}
  end

  @doc "What is there without an end of line."
  @spec rest(t) :: [line]
  def rest(output) do
    for {stream, text} <- output.lines, text != "", do: line(stream, text)
  end

  @doc "All that is kept."
  @spec all(t) :: binary
  def all(output), do: last(output, @kept_bytes)

  @doc "The last `size` bytes, at most #{@kept_bytes}."
  @spec last(t, non_neg_integer) :: binary
  def last(output, size) do
    all = output.kept |> Enum.reverse() |> IO.iodata_to_binary()
    size = min(byte_size(all), min(size, @kept_bytes))
    binary_part(all, byte_size(all) - size, size)
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

  # Newest first; joined only when there is much more than is kept.
  defp keep(output, bytes) do
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

  defp split(output, stream, bytes) do
    {lines, [rest]} =
      (output.lines[stream] <> bytes) |> String.split(["\r\n", "\n"]) |> Enum.split(-1)

    {long, rest} = pieces(rest, [])
    lines = Enum.flat_map(lines, &whole/1) ++ long
    output = %{output | lines: Map.put(output.lines, stream, :binary.copy(rest))}
    {output, for(text <- lines, text != "", do: line(stream, text))}
  end

  defp whole(text) do
    {pieces, rest} = pieces(text, [])
    pieces ++ [rest]
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
