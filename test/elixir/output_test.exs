defmodule Snakepit.GRPCWorker.OutputTest do
  use ExUnit.Case, async: true

  alias Snakepit.GRPCWorker.Output

  defp add(output, chunks, stream \\ :stdout) do
    Enum.reduce(chunks, {output, []}, fn bytes, {output, done} ->
      {output, lines} = Output.add(output, stream, bytes, true)
      {output, done ++ lines}
    end)
  end

  defp lines(chunks) do
    {output, lines} = add(Output.new(), chunks)
    for {_level, _stream, text} <- lines ++ Output.rest(output), do: text
  end

  test "lines are put together from pieces, and cut apart" do
    assert lines(["a", "b\nc", "\n\nd\r\ne"]) == ["ab", "c", "d", "e"]
    assert lines([]) == []
    assert lines(["\n", "\n"]) == []
  end

  test "the two streams do not mix" do
    {output, []} = add(Output.new(), ["out"], :stdout)
    {output, lines} = add(output, ["err\n"], :stderr)
    assert lines == [{:info, :stderr, "err"}]
    assert Output.rest(output) == [{:info, :stdout, "out"}]
  end

  test "a line without an end is given out in pieces and takes bounded room" do
    text = String.duplicate("x", 100_000)
    chunks = for <<piece::binary-size(1000) <- text>>, do: piece
    {output, lines} = add(Output.new(), chunks)
    assert Enum.all?(lines, fn {_, _, line} -> byte_size(line) == 8192 end)
    assert byte_size(output.lines.stdout) <= 8192
    assert Enum.join(lines(chunks)) == text
    assert Enum.join(lines([text])) == text
    assert Enum.join(lines([text <> "\n"])) == text
  end

  test "the level is the one that the line names" do
    for {line, level} <- [
          {"2026-01-01 10:00:00,123 [MainThread] shop WARNING [-] low", :warning},
          {"ERROR:root:broken", :error},
          {"[CRITICAL] over", :error},
          {"12:00 DEBUG details", :debug},
          {"INFO: fine", :info},
          {"no error here", :info},
          {"TERRORS are not errors", :info},
          {String.duplicate("word ", 30) <> "ERROR far behind", :info}
        ] do
      {_output, [{found, :stdout, ^line}]} = add(Output.new(), [line <> "\n"])
      assert found == level
    end
  end

  test "the last bytes are kept, no matter how many came" do
    {output, _} =
      add(Output.new(), for(n <- 1..2000, do: "line #{n} #{String.duplicate("y", 90)}\n"))

    assert byte_size(Output.last(output, 1_000_000)) == 65_536
    assert String.ends_with?(Output.last(output, 200), "line 2000 #{String.duplicate("y", 90)}\n")
    assert byte_size(Output.last(output, 200)) == 200
    assert Output.last(Output.new(), 10) == ""
    assert output.kept_bytes <= 2 * 65_536
  end

  test "bytes that are no text become text" do
    assert lines(["a\xFFb\n"]) == ["a?b"]
    assert Output.printable("ü\xFE\xFF") == "ü??"
  end
end
