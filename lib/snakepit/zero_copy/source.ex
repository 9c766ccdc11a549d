defmodule Snakepit.ZeroCopy.Source do
  @moduledoc false
  # Terms as the bytes of a tensor or of an Arrow stream.

  alias Snakepit.Error
  alias Snakepit.ZeroCopy.{DType, Handles, Tensor}

  @type tensor :: %{
          data: binary | nil,
          dtype: atom | String.t() | nil,
          shape: tuple | list | nil,
          origin: Handles.origin()
        }

  # ---- tensors ------------------------------------------------------------

  @doc """
  Binaries (with dtype and shape), tensors, lists of numbers. Any other term has no bytes: it can be
  taken back, and nothing else.
  """
  @spec tensor(term, keyword) :: {:ok, tensor} | {:error, Exception.t()}
  def tensor(data, opts) when is_binary(data) do
    with {:ok, dtype} <- dtype(opts[:dtype] || "uint8"),
         {:ok, shape} <- shape(opts[:shape] || default_shape(data, dtype)),
         :ok <- fits(byte_size(data), dtype, shape) do
      {:ok, %{data: data, dtype: dtype, shape: shape, origin: :bytes}}
    end
  end

  def tensor(%Tensor{} = tensor, opts) do
    with :ok <- agrees(opts, tensor.dtype, tensor.shape),
         {:ok, dtype} <- dtype(tensor.dtype),
         {:ok, shape} <- shape(tensor.shape),
         :ok <- fits(byte_size(tensor.data), dtype, shape) do
      {:ok, %{data: tensor.data, dtype: dtype, shape: shape, origin: :tensor}}
    end
  end

  def tensor(%{__struct__: Nx.Tensor, type: type, shape: shape} = tensor, opts) do
    with {:ok, dtype} <- dtype(type), :ok <- agrees(opts, dtype, shape) do
      data = apply(Nx, :to_binary, [tensor])
      {:ok, %{data: data, dtype: dtype, shape: shape, origin: :tensor}}
    end
  end

  def tensor([_ | _] = list, opts) do
    case flat(list) do
      {:ok, numbers, sizes} -> numbers(numbers, sizes, list, opts)
      :error -> {:ok, local(list, opts)}
    end
  end

  def tensor(term, opts), do: {:ok, local(term, opts)}

  defp local(term, opts),
    do: %{data: nil, dtype: opts[:dtype], shape: opts[:shape], origin: {:term, term}}

  defp numbers(numbers, sizes, list, opts) do
    with {:ok, dtype} <- numbers_dtype(opts[:dtype], numbers),
         {:ok, shape} <- shape(opts[:shape] || List.to_tuple(sizes)),
         {:ok, data} <- encoded(numbers, dtype),
         :ok <- fits(byte_size(data), dtype, shape) do
      {:ok, %{data: data, dtype: dtype, shape: shape, origin: {:term, list}}}
    else
      :no_numbers -> {:ok, local(list, opts)}
      error -> error
    end
  end

  defp numbers_dtype(nil, numbers),
    do: with(:error <- DType.infer(numbers), do: :no_numbers)

  defp numbers_dtype(given, _numbers), do: dtype(given)

  defp encoded(numbers, dtype) do
    with {:error, number} <- DType.encode(numbers, dtype),
         do: invalid("#{inspect(number)} is no #{dtype}")
  end

  # The leaves of nested lists that are all of one length, level by level.
  defp flat(list), do: if(List.improper?(list), do: :error, else: flat(list, [length(list)]))

  defp flat([first | _] = level, sizes) when is_list(first) do
    size = not List.improper?(first) && length(first)

    if Enum.all?(level, &(is_list(&1) and not List.improper?(&1) and length(&1) == size)),
      do: level |> Enum.concat() |> flat([size | sizes]),
      else: :error
  end

  defp flat(level, sizes) do
    if Enum.all?(level, &(is_number(&1) or is_boolean(&1))),
      do: {:ok, level, Enum.reverse(sizes)},
      else: :error
  end

  defp dtype(given) do
    with :error <- DType.name(given) do
      invalid(
        "dtype is one of #{Enum.join(DType.names(), ", ")}, also in the short form of Nx such as " <>
          ":f32, not #{inspect(given)}"
      )
    end
  end

  defp shape(shape) when is_list(shape), do: shape |> List.to_tuple() |> shape()

  defp shape(shape) when is_tuple(shape) do
    if shape |> Tuple.to_list() |> Enum.all?(&(is_integer(&1) and &1 >= 0)),
      do: {:ok, shape},
      else: bad_shape(shape)
  end

  defp shape(other), do: bad_shape(other)

  defp bad_shape(shape),
    do: invalid("a shape is a tuple or list of sizes of at least 0, not #{inspect(shape)}")

  defp default_shape(data, dtype), do: {div(byte_size(data), DType.size(dtype))}

  defp fits(bytes, dtype, shape) do
    wanted = Enum.product(Tuple.to_list(shape)) * DType.size(dtype)

    if bytes == wanted,
      do: :ok,
      else: invalid("a #{dtype} of shape #{inspect(shape)} has #{wanted} bytes, not #{bytes}")
  end

  # A tensor says itself what it is.
  defp agrees(opts, dtype, shape) do
    given_dtype = opts[:dtype] && DType.name(opts[:dtype])
    given_shape = opts[:shape]

    cond do
      given_dtype not in [nil, {:ok, dtype}] ->
        invalid("dtype #{inspect(opts[:dtype])} is given for a tensor of #{dtype}")

      given_shape not in [nil, shape, Tuple.to_list(shape)] ->
        invalid("shape #{inspect(given_shape)} is given for a tensor of #{inspect(shape)}")

      true ->
        :ok
    end
  end

  # ---- tables -------------------------------------------------------------

  @doc "Arrow IPC streams and data frames of Explorer. Any other term as above."
  @spec table(term, keyword) :: {:ok, tensor} | {:error, Exception.t()}
  def table(<<"ARROW1", _::binary>>, _opts),
    do: invalid("that is an Arrow IPC file; a handle has the form of a stream")

  def table(data, opts) when is_binary(data) do
    if stream?(data),
      do: {:ok, %{data: data, dtype: opts[:dtype], shape: opts[:shape], origin: :bytes}},
      else: invalid("a binary of a handle of kind :arrow is an Arrow IPC stream")
  end

  def table(%{__struct__: Explorer.DataFrame} = frame, opts) do
    case apply(Explorer.DataFrame, :dump_ipc_stream, [frame]) do
      {:ok, data} ->
        {:ok, %{data: data, dtype: opts[:dtype], shape: opts[:shape], origin: :tensor}}

      {:error, reason} ->
        invalid("the data frame cannot be written as an Arrow IPC stream: #{inspect(reason)}")
    end
  end

  def table(term, opts), do: {:ok, local(term, opts)}

  # A message begins with a marker and the length of its head, which is padded.
  defp stream?(<<0xFFFFFFFF::32, size::little-32, rest::binary>>),
    do: rem(size, 8) == 0 and size <= byte_size(rest)

  defp stream?(_other), do: false

  @spec invalid(String.t()) :: {:error, Exception.t()}
  def invalid(message), do: {:error, Error.validation_error(message)}
end
