defmodule Snakepit.ZeroCopy.Segment do
  @moduledoc false
  # Shared memory of the native part, where it has any.

  alias Snakepit.Native
  alias Snakepit.ZeroCopy.Config

  # Writing more than this at once would hold a scheduler for too long.
  @piece 16 * 1024 * 1024

  @doc "Whether this system has it."
  @spec available?() :: boolean
  def available?, do: :os.type() == {:unix, :linux}

  @doc """
  A binary of `size` bytes, in shared memory where there is some, that `fill` writes:
  it gets a function that takes iodata, any number of times.
  """
  @spec build(non_neg_integer, ((iodata -> :ok) -> term)) ::
          {:shared | :plain, binary} | {:error, {:size, non_neg_integer}}
  def build(0, fill), do: plain(0, fill)

  def build(size, fill) do
    case alloc(size) do
      {:ok, segment} -> shared(segment, size, fill)
      {:error, _} -> plain(size, fill)
    end
  end

  @doc "The binary's bytes in shared memory, copied unless they are there already."
  @spec share(binary) :: {:ok, binary} | {:error, term}
  def share(binary) do
    if shared?(binary) do
      {:ok, binary}
    else
      with {:ok, segment} <- alloc(byte_size(binary)) do
        0 = pieces(binary, 0, &write(segment, &1, &2))
        {:ok, Native.segment_binary(segment)}
      end
    end
  end

  @doc "Whether the binary's bytes lie in shared memory."
  @spec shared?(binary) :: boolean
  def shared?(binary), do: match?({:ok, _id, _offset}, Native.binary_segment(binary))

  defp alloc(0), do: {:error, :unavailable}

  defp alloc(size), do: Native.segment_alloc(nil, size)

  # ---- filling ------------------------------------------------------------

  # How far it is written stands in the process, for the function may be called from anywhere in it.
  defp shared(segment, size, fill) do
    at = :counters.new(1, [])

    put = fn iodata ->
      length = IO.iodata_length(iodata)
      from = :counters.get(at, 1)
      :ok = :counters.add(at, 1, length)

      if from + length > size,
        do: throw({__MODULE__, :too_much}),
        else: written(segment, from, iodata, length)
    end

    filled(fill, put, at, size, fn -> {:shared, Native.segment_binary(segment)} end)
  end

  defp written(segment, from, iodata, length) when length <= @piece,
    do: write(segment, from, iodata)

  defp written(segment, from, iodata, _length) do
    _ = iodata |> IO.iodata_to_binary() |> pieces(from, &write(segment, &1, &2))
    :ok
  end

  # 0, so that a caller can see that nothing is left.
  defp pieces(binary, at, write) do
    case binary do
      <<piece::binary-size(@piece), rest::binary>> when rest != "" ->
        :ok = write.(at, piece)
        pieces(rest, at + @piece, write)

      last ->
        :ok = write.(at, last)
        0
    end
  end

  defp write(segment, at, iodata), do: Native.segment_write(segment, at, iodata)

  defp plain(size, fill) do
    at = :counters.new(1, [])
    key = {__MODULE__, make_ref()}

    put = fn iodata ->
      piece = IO.iodata_to_binary(iodata)
      :ok = :counters.add(at, 1, byte_size(piece))
      if :counters.get(at, 1) > size, do: throw({__MODULE__, :too_much})
      Process.put(key, [Process.get(key, []), piece])
      :ok
    end

    try do
      filled(fill, put, at, size, fn ->
        {:plain, IO.iodata_to_binary(Process.get(key, []))}
      end)
    after
      Process.delete(key)
    end
  end

  defp filled(fill, put, at, size, result) do
    _ = fill.(put)

    case :counters.get(at, 1) do
      ^size -> result.()
      other -> {:error, {:size, other}}
    end
  catch
    :throw, {__MODULE__, :too_much} -> {:error, {:size, :counters.get(at, 1)}}
  end

  # ---- limits and figures -------------------------------------------------

  @doc "The node's limits, at start."
  @spec configure_node() :: :ok
  def configure_node do
    {bytes, descriptors} = Config.of_node()
    Native.segments_set_limit(bytes, descriptors)
  end

  @doc "A new pool's settings."
  @spec configure_pool(reference, map) :: :ok
  def configure_pool(handle, config),
    do: Native.pool_set_segments(handle, Config.of_pool(config))
end
