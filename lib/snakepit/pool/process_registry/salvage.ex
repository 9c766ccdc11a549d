defmodule Snakepit.Pool.ProcessRegistry.Salvage do
  @moduledoc false
  # Reads the objects of a DETS file that was not closed, as its repair would,
  # but without a word on the console and without changing the file.
  #
  # A file consists of a head, and of pieces that hold the objects of one slot
  # each: the size of all of it, a mark that tells a piece in use from a free
  # one, and for each object its size and the term. A piece that is not whole was
  # being written; what was written before it is there.

  @head_bytes 8
  @cookie 0x0ABCDEF
  @in_use 0x12345678
  # Nobody else makes it longer.
  @most 64 * 1024 * 1024

  @doc "All objects, in no order; of one that was just replaced perhaps both."
  @spec read(Path.t()) :: {:ok, [tuple]} | {:error, term}
  def read(path) do
    with {:ok, %File.Stat{type: :regular, size: size}} when size <= @most <- File.lstat(path),
         {:ok, <<_::32, @cookie::32, bytes::binary>>} <- File.read(path) do
      {:ok, bytes |> pieces() |> Enum.flat_map(& &1)}
    else
      {:error, why} -> {:error, why}
      _ -> {:error, :not_a_dets_file}
    end
  end

  defp pieces(bytes) do
    marks = :binary.matches(bytes, <<@in_use::32>>)

    # A mark may be part of what an object says.
    {pieces, _end} =
      Enum.reduce(marks, {[], 0}, fn {mark, _}, {pieces, from} ->
        at = mark - 4

        with true <- at >= from,
             {_, <<size::32, @in_use::32, rest::binary>>} <- :erlang.split_binary(bytes, at),
             len = size - @head_bytes,
             true <- len in 1..byte_size(rest)//1,
             {:ok, objects} <- objects(binary_part(rest, 0, len), []) do
          {[objects | pieces], at + size}
        else
          _ -> {pieces, from}
        end
      end)

    pieces
  end

  defp objects("", all), do: {:ok, all}

  defp objects(<<size::32, rest::binary>>, all) when size > 4 do
    len = size - 4

    with true <- len <= byte_size(rest),
         {term, rest} = :erlang.split_binary(rest, len),
         {:ok, object} when is_tuple(object) <- term(term) do
      objects(rest, [object | all])
    else
      _ -> :error
    end
  end

  defp objects(_bytes, _all), do: :error

  # As trusted as a file that DETS opens: it lies in our own directory, and names
  # nodes and states whose atoms this VM may not have yet.
  defp term(bytes) do
    {:ok, :erlang.binary_to_term(bytes)}
  rescue
    ArgumentError -> :error
  end
end
