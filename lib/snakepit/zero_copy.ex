defmodule Snakepit.ZeroCopy do
  @moduledoc """
  Tensors and tables that are handed over without copying them through a pipe, and handles of them.

      {:ok, handle} = Snakepit.ZeroCopy.to_dlpack([[1.0, 2.0], [3.0, 4.0]], dtype: :f32)
      {:ok, sum} = Snakepit.execute("total", %{matrix: handle})

      {:ok, result} = Snakepit.execute("make_matrix", %{size: 1000})
      {:ok, tensor} = Snakepit.ZeroCopy.from_dlpack(result)
      :ok = Snakepit.ZeroCopy.close(result)

  Large binaries in arguments and results need none of this: between the BEAM and a worker on the same
  host they go by shared memory on their own. A handle adds the type and the shape, and holds the data
  once for all workers that it is given to. See the guide *Zero copy*.

  Nx and Explorer are used where they are installed, and not needed.
  """

  alias Snakepit.Pool.Targets
  alias Snakepit.{Native, Telemetry, ZeroCopyRef}
  alias Snakepit.ZeroCopy.{Config, Device, DType, Handles, Segment, Source, Tensor}

  @type export_opts :: [
          device: ZeroCopyRef.device(),
          dtype: atom | String.t() | {atom, pos_integer},
          shape: tuple | list,
          owner: :elixir | :python,
          metadata: map
        ]

  @type import_opts :: [as: :auto | :nx | :tensor | :binary | :explorer, backend: term]

  @type refused ::
          {:invalid_zero_copy_kind, term}
          | :zero_copy_handle_not_found
          | :not_available
          | Exception.t()

  @doc """
  A handle of a tensor.

  `term` is a binary with its elements in row-major order (`:dtype`, default `"uint8"`, and `:shape`
  say what they are), an `%Nx.Tensor{}` of any backend, a `Snakepit.ZeroCopy.Tensor`, or a list of
  numbers or of lists of numbers. Any other term can be taken back by `from_dlpack/2`, but cannot be
  handed to a worker.

  Types have NumPy's names, as atoms or texts, or those of Nx: `"float32"`, `:float32`, `:f32` and
  `{:f, 32}` are the same.

  With `config :snakepit, zero_copy: [enabled: true]` the data is put into shared memory, once, unless
  it lies there already (see `alloc/2`), and handing the handle over copies nothing: `copy` is false.
  Else it stays where it is, and `copy` is true; with `allow_fallback: false` that is
  `{:error, :zero_copy_unavailable}`.

  `device: :cuda` is for tensors in a GPU's memory, see `Snakepit.ZeroCopy.Device`:
  `{:error, :not_available}` where there is none.

  A size that is not that of type and shape, or a number that the type does not have, is
  `{:error, %Snakepit.Error{category: :validation}}`.

      iex> {:ok, handle} = Snakepit.ZeroCopy.to_dlpack([[1, 2, 3], [4, 5, 6]], dtype: :u8)
      iex> {handle.shape, handle.dtype, handle.bytes}
      {{2, 3}, "uint8", 6}
      iex> Snakepit.ZeroCopy.from_dlpack(handle)
      {:ok, [[1, 2, 3], [4, 5, 6]]}
  """
  @spec to_dlpack(term, export_opts) ::
          {:ok, ZeroCopyRef.t()}
          | {:error, :zero_copy_unavailable | :not_available | Exception.t()}
  def to_dlpack(term, opts \\ []), do: export(:dlpack, term, opts, &Source.tensor/2)

  @doc """
  A handle of a table.

  `term` is an Arrow IPC stream as a binary, or a data frame of Explorer; any other term can be taken
  back by `from_arrow/2` only. The rest is as with `to_dlpack/2`.
  """
  @spec to_arrow(term, export_opts) ::
          {:ok, ZeroCopyRef.t()}
          | {:error, :zero_copy_unavailable | :not_available | Exception.t()}
  def to_arrow(term, opts \\ []), do: export(:arrow, term, opts, &Source.table/2)

  @doc """
  What a handle of a tensor stands for.

  Of one that `to_dlpack/2` made that is what it was made of, also when a worker has given it back. Of one
  that Python made it is an `%Nx.Tensor{}` where Nx is installed, else a `Snakepit.ZeroCopy.Tensor`.
  `as: :nx`, `:tensor` or `:binary` asks for one of them (`:not_available`: there is no Nx); `:backend`
  is that of the Nx tensor.

  The binary points into the shared memory of the worker that made it: nothing is copied. It stays
  valid after the handle is closed and the worker has ended.
  """
  @spec from_dlpack(ZeroCopyRef.t(), import_opts) :: {:ok, term} | {:error, refused}
  def from_dlpack(ref, opts \\ []), do: import(:dlpack, ref, opts, &tensor/3)

  @doc """
  What a handle of a table stands for: what it was made of, a data frame where Explorer is installed, else
  the Arrow IPC stream as a binary; `as: :explorer` or `:binary` asks for one of them.
  """
  @spec from_arrow(ZeroCopyRef.t(), import_opts) :: {:ok, term} | {:error, refused}
  def from_arrow(ref, opts \\ []), do: import(:arrow, ref, opts, &table/3)

  @doc """
  The bytes of a handle, or of a tensor, as one binary.

      iex> {:ok, handle} = Snakepit.ZeroCopy.to_dlpack([1, 2, 3], dtype: :u8)
      iex> Snakepit.ZeroCopy.to_binary(handle)
      {:ok, <<1, 2, 3>>}
  """
  @spec to_binary(ZeroCopyRef.t() | term) :: {:ok, binary} | {:error, refused}
  def to_binary(%ZeroCopyRef{} = ref) do
    case Handles.fetch(ref) do
      {:ok, data, _token} when data != nil -> {:ok, data}
      _ -> {:error, :zero_copy_handle_not_found}
    end
  end

  def to_binary(term) do
    case Source.tensor(term, []) do
      {:ok, %{data: data}} when data != nil -> {:ok, data}
      {:ok, _local} -> Source.invalid("it has no bytes: #{inspect(term, limit: 5)}")
      error -> error
    end
  end

  @doc """
  Lets go of what a handle holds. Once is enough; what was taken from it stays valid. All copies of
  the handle are closed with it.
  """
  @spec close(ZeroCopyRef.t()) :: :ok | {:error, :zero_copy_handle_not_found}
  def close(%ZeroCopyRef{} = ref), do: Handles.close(ref)
  def close(_other), do: {:error, :zero_copy_handle_not_found}

  @doc """
  A binary of `size` bytes that is written into shared memory, so that handing it over copies nothing.

  `source` is iodata, an enumerable of iodata, or a function that gets another one to write with, which
  takes iodata any number of times. They have to yield `size` bytes. Where there is no shared memory
  it is a binary like any other.

      iex> Snakepit.ZeroCopy.alloc(6, ["abc", "def"])
      {:ok, "abcdef"}
      iex> Snakepit.ZeroCopy.alloc(6, fn write -> for n <- 1..3, do: write.(<<n::16>>) end)
      {:ok, <<0, 1, 0, 2, 0, 3>>}
  """
  @spec alloc(non_neg_integer, iodata | Enumerable.t() | ((iodata -> :ok) -> term)) ::
          {:ok, binary} | {:error, Exception.t()}
  def alloc(size, source) when is_integer(size) and size >= 0 do
    case Segment.build(size, fill(source)) do
      {:error, {:size, bytes}} ->
        Source.invalid(
          "#{size} bytes were asked for, and the source has #{bytes}#{more(bytes, size)}"
        )

      {_where, binary} ->
        {:ok, binary}
    end
  end

  defp more(bytes, size) when bytes > size, do: " or more"
  defp more(_bytes, _size), do: ""

  defp fill(fun) when is_function(fun, 1), do: fun
  defp fill(binary) when is_binary(binary), do: fn write -> write.(binary) end

  # A list of iodata is iodata.
  defp fill(list) when is_list(list), do: fn write -> write.(list) end
  defp fill(enumerable), do: fn write -> Enum.each(enumerable, write) end

  @doc "Whether large data goes to workers on this host by shared memory."
  @spec available?() :: boolean
  def available?, do: Segment.available?() and Config.threshold(Config.settings()) > 0

  @doc """
  What there is: `:available`, `:enabled`, `:threshold`, `:handles` (made here and alive), `:segments`, the
  node's shared memory, and `:pools`, that of each pool. Of shared memory:

    * `:segments`, `:bytes` - how many there are, and how large; `:idle`, `:idle_bytes` those of them that
      nobody uses, which are kept for later
    * `:lent` - uses by workers
    * `:descriptors`, `:mapped` - descriptors that are open, bytes that workers gave
    * `:sent`, `:received` - of a pool: segments that were attached to messages to workers, and from them
    * `:inline` - binaries that went in the message because there was no segment for them
    * `:max_bytes`, `:max_descriptors` - the limits
  """
  @spec info() :: %{atom => term}
  def info do
    settings = Config.settings()

    %{
      available: available?(),
      enabled: settings.enabled,
      threshold: settings.threshold,
      handles: Handles.count(),
      segments: Native.segment_info(),
      pools: Map.new(Targets.all(), &{&1.name, Native.pool_segments(&1.handle)})
    }
  end

  # ---- there --------------------------------------------------------------

  defp export(_kind, %ZeroCopyRef{} = ref, _opts, _source), do: {:ok, ref}

  defp export(kind, term, opts, source) do
    start = System.monotonic_time()

    case opts[:device] || :cpu do
      :cpu ->
        with {:ok, facts} <- source.(term, opts),
             {:ok, facts} <- placed(kind, facts) do
          made(kind, facts, opts, start)
        end

      device when device in [:cuda, :mps] ->
        with {:ok, memory} <- Device.module().export(term, device),
             do: made(kind, on_device(term, memory), opts, start)

      other ->
        Source.invalid("a device is :cpu, :cuda or :mps, not #{inspect(other)}")
    end
  end

  # The term is held: its memory is that of this process.
  defp on_device(term, memory) do
    %{
      data: nil,
      dtype: memory.dtype,
      shape: memory.shape,
      origin: {:term, term},
      bytes: memory.bytes,
      copy: false,
      metadata: Map.put(memory.metadata, "ipc_handle", {:binary, memory.handle})
    }
  end

  # Where the data is from now on, and whether handing it over copies it.
  defp placed(kind, %{data: nil} = facts) do
    if fallback?(settings = Config.settings()) or enabled?(kind, settings),
      do: {:ok, Map.merge(facts, %{copy: true, bytes: nil})},
      else: {:error, :zero_copy_unavailable}
  end

  defp placed(kind, %{data: data} = facts) do
    settings = Config.settings()
    threshold = Config.threshold(settings)
    facts = Map.put(facts, :bytes, byte_size(data))

    cond do
      threshold > 0 and Segment.shared?(data) ->
        {:ok, Map.put(facts, :copy, false)}

      enabled?(kind, settings) and threshold > 0 ->
        shared(data, facts, settings)

      fallback?(settings) ->
        {:ok, Map.put(facts, :copy, true)}

      true ->
        {:error, :zero_copy_unavailable}
    end
  end

  # What is smaller travels in the message.
  defp shared(data, facts, %{threshold: threshold}) when byte_size(data) < threshold,
    do: {:ok, Map.put(facts, :copy, true)}

  defp shared(data, facts, settings) do
    case Segment.share(data) do
      {:ok, data} -> {:ok, Map.merge(facts, %{data: data, copy: false})}
      {:error, _} -> if fallback?(settings), do: {:ok, Map.put(facts, :copy, true)}, else: none()
    end
  end

  defp none, do: {:error, :zero_copy_unavailable}

  defp enabled?(kind, settings), do: settings.enabled and Map.fetch!(settings, kind)
  defp fallback?(settings), do: settings.allow_fallback and not settings.strict

  defp made(kind, facts, opts, start) do
    owner = opts[:owner] || :elixir
    metadata = merged(opts[:metadata], facts[:metadata])

    if owner in [:elixir, :python] and (metadata == nil or is_map(metadata)) do
      device = opts[:device] || :cpu
      told = %{kind: kind, device: device, dtype: facts.dtype, shape: facts.shape}

      with {:ok, ref} <- Handles.new(facts.data, facts.origin, told) do
        tell(if(facts.copy, do: :fallback, else: :export), start, facts.bytes, told)

        {:ok,
         struct!(
           ZeroCopyRef,
           Map.merge(told, %{
             ref: ref,
             owner: owner,
             copy: facts.copy,
             bytes: facts.bytes,
             metadata: metadata
           })
         )}
      end
    else
      Source.invalid("owner is :elixir or :python, and metadata a map")
    end
  end

  defp merged(given, nil), do: given
  defp merged(given, own), do: Map.merge(given || %{}, own)

  # ---- and back -----------------------------------------------------------

  defp import(kind, %ZeroCopyRef{kind: kind} = ref, opts, build) do
    start = System.monotonic_time()

    with {:ok, data, token} <- Handles.fetch(ref),
         {:ok, value} <- build.(ref, {data, Handles.origin(token)}, opts) do
      tell(:import, start, ref.bytes, Map.take(ref, [:kind, :device, :dtype, :shape]))
      {:ok, value}
    end
  end

  defp import(_kind, %ZeroCopyRef{kind: other}, _opts, _build),
    do: {:error, {:invalid_zero_copy_kind, other}}

  defp import(_kind, _other, _opts, _build), do: {:error, :zero_copy_handle_not_found}

  defp tensor(ref, what, opts) do
    case {opts[:as] || :auto, what} do
      {:auto, {_data, {:term, term}}} -> {:ok, term}
      {_as, {nil, _origin}} -> absent(ref, opts)
      {:binary, {data, _}} -> {:ok, data}
      {:auto, {data, :bytes}} -> {:ok, data}
      {as, {data, _}} -> typed(as, ref, data, opts)
    end
  end

  # Bytes of an unknown type are bytes; of a known one they have to be as many.
  defp typed(as, ref, data, opts) do
    case Source.tensor(data, dtype: ref.dtype, shape: ref.shape) do
      {:ok, %{dtype: dtype, shape: shape}} ->
        tensor_as(as, %Tensor{data: data, dtype: dtype, shape: shape}, opts)

      {:error, _} = error ->
        error
    end
  end

  defp tensor_as(:auto, tensor, opts),
    do: if(Code.ensure_loaded?(Nx), do: nx(tensor, opts), else: {:ok, tensor})

  defp tensor_as(:tensor, tensor, _opts), do: {:ok, tensor}
  defp tensor_as(:nx, tensor, opts), do: nx(tensor, opts)
  defp tensor_as(other, _tensor, _opts), do: bad_as(other, [:auto, :nx, :tensor, :binary])

  defp nx(%Tensor{data: data, dtype: dtype, shape: shape}, opts) do
    with true <- Code.ensure_loaded?(Nx),
         {:ok, type} <- DType.nx(dtype) do
      flat = apply(Nx, :from_binary, [data, type, Keyword.take(opts, [:backend])])
      {:ok, apply(Nx, :reshape, [flat, shape])}
    else
      false -> {:error, :not_available}
      :error -> Source.invalid("Nx has no type for #{dtype}; as: :tensor gives the bytes")
    end
  end

  # No bytes: they are elsewhere, or there are none.
  defp absent(%{device: device, metadata: %{"ipc_handle" => handle}} = ref, opts)
       when device in [:cuda, :mps] do
    with {:ok, handle} <- ipc_handle(handle),
         {:ok, dtype} <- DType.name(ref.dtype),
         shape when is_tuple(shape) <- ref.shape do
      memory = %{
        dtype: dtype,
        shape: shape,
        bytes: ref.bytes || 0,
        handle: handle,
        metadata: ref.metadata
      }

      Device.module().import(memory, device, opts)
    else
      _ -> Source.invalid("the handle of memory on a device is not complete")
    end
  end

  defp absent(%{device: device}, _opts) when device in [:cuda, :mps],
    do: {:error, :not_available}

  defp absent(_ref, _opts), do: {:error, :zero_copy_handle_not_found}

  defp ipc_handle({:binary, handle}) when is_binary(handle), do: {:ok, handle}
  defp ipc_handle(handle) when is_binary(handle), do: {:ok, handle}
  defp ipc_handle(_other), do: :error

  defp table(_ref, what, opts) do
    case {opts[:as] || :auto, what} do
      {:auto, {_data, {:term, term}}} -> {:ok, term}
      {_as, {nil, _origin}} -> {:error, :zero_copy_handle_not_found}
      {:binary, {data, _}} -> {:ok, data}
      {:explorer, {data, _}} -> frame(data)
      {:auto, {data, :bytes}} -> {:ok, data}
      {:auto, {data, _}} -> if(explorer?(), do: frame(data), else: {:ok, data})
      {other, _} -> bad_as(other, [:auto, :explorer, :binary])
    end
  end

  defp explorer?, do: Code.ensure_loaded?(Explorer.DataFrame)

  defp frame(data) do
    if explorer?() do
      with {:error, reason} <- apply(Explorer.DataFrame, :load_ipc_stream, [data]),
           do: Source.invalid("Explorer cannot read the handle's bytes: #{inspect(reason)}")
    else
      {:error, :not_available}
    end
  end

  defp bad_as(other, known),
    do: Source.invalid("as: is one of #{inspect(known)}, not #{inspect(other)}")

  defp tell(what, start, bytes, metadata) do
    took = System.monotonic_time() - start
    measurements = %{duration_ms: System.convert_time_unit(took, :native, :microsecond) / 1000}
    measurements = if bytes, do: Map.put(measurements, :bytes, bytes), else: measurements
    Telemetry.execute([:snakepit, :zero_copy, what], measurements, metadata)
  end
end
