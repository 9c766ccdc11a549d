defmodule Snakepit.Error.Parser do
  @moduledoc """
  What a Python exception means: turns its type and message into a struct.

  Beyond the classes of `Snakepit.Error.PythonException` it knows the messages
  with which NumPy, PyTorch, JAX and TensorFlow report shapes that do not fit,
  devices that differ, and memory that is used up. It is opt-in: errors of
  `Snakepit.execute/3` stay the exception classes that Python raised.

      iex> {:ok, error} =
      ...>   Snakepit.Error.Parser.parse(%{
      ...>     "type" => "ValueError",
      ...>     "message" => "operands could not be broadcast together with shapes (2,3) (4,) "
      ...>   })
      iex> {error.__struct__, error.expected, error.got}
      {Snakepit.Error.ShapeMismatch, [2, 3], [4]}
  """

  alias Snakepit.Error.{Device, PythonException, Shape, ShapeMismatch}

  @doc """
  Takes a map with `type`, `message` and maybe `traceback`, under text or atom
  keys. The traceback is kept where the struct has a place for it.
  """
  @spec parse(term) :: {:ok, Exception.t()} | {:error, :invalid_input}
  def parse(%{} = map) do
    type = field(map, :type)
    message = field(map, :message)

    if is_binary(type) and is_binary(message),
      do: {:ok, recognise(type, message) || exception(map, type, message)},
      else: {:error, :invalid_input}
  end

  def parse(_other), do: {:error, :invalid_input}

  @doc """
  The same for what a gRPC error carries: a map with `details` or `message`
  whose text is a JSON object of such fields, or has the form `Type: message`.
  """
  @spec from_grpc_error(term) :: {:ok, Exception.t()} | {:error, :invalid_input}
  def from_grpc_error(%{} = map) do
    with {:error, :invalid_input} <- parse(map) do
      case {field(map, :details), field(map, :message)} do
        {%{} = details, _} -> parse(details)
        {text, _} when is_binary(text) -> from_text(text)
        {_, text} when is_binary(text) -> from_text(text)
        _ -> {:error, :invalid_input}
      end
    end
  end

  def from_grpc_error(_other), do: {:error, :invalid_input}

  defp from_text("{" <> _ = text) do
    case Snakepit.Native.json_decode(text) do
      {:ok, %{} = map} -> parse(map)
      _ -> unnamed(text)
    end
  end

  defp from_text(text) do
    case Regex.run(~r/\A([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt)): (.*)\z/s, text) do
      [_, type, message] -> parse(%{type: type, message: message})
      nil -> unnamed(text)
    end
  end

  defp unnamed(text), do: parse(%{type: "Exception", message: text})

  # A text key is what a worker sends, an atom key what Elixir code writes.
  defp field(map, key), do: Map.get(map, Atom.to_string(key)) || Map.get(map, key)

  defp exception(map, type, message) do
    [:traceback, :stacktrace, :context, :bases, :module, :frames]
    |> Enum.concat([:cause, :exceptions, :notes, :attributes])
    |> Map.new(&{Atom.to_string(&1), field(map, &1)})
    |> Map.merge(%{"type" => type, "message" => message})
    |> PythonException.from_wire()
  end

  # ---- shapes -------------------------------------------------------------

  @doc """
  A shape as Python prints it.

      iex> Snakepit.Error.Parser.extract_shape("[3, 224, 224]")
      [3, 224, 224]
      iex> Snakepit.Error.Parser.extract_shape("(10, 20)")
      [10, 20]
      iex> Snakepit.Error.Parser.extract_shape("torch.Size([5])")
      [5]
      iex> Snakepit.Error.Parser.extract_shape("()")
      []
      iex> Snakepit.Error.Parser.extract_shape("no shape")
      nil
  """
  @spec extract_shape(term) :: [integer] | nil
  def extract_shape(text) when is_binary(text) do
    case Regex.run(~r/[\[(]\s*((?:-?\d{1,18}\s*,\s*)*(?:-?\d{1,18})?)\s*,?\s*[\])]/, text) do
      [_, numbers] -> integers(numbers)
      nil -> nil
    end
  end

  def extract_shape(_other), do: nil

  defp integers(text),
    do: ~r/-?\d+/ |> Regex.scan(text) |> Enum.map(fn [n] -> String.to_integer(n) end)

  # ---- messages -----------------------------------------------------------

  defp recognise(type, message) do
    out_of_memory(type, message) || device(message) || shape(message)
  end

  @size "([\\d.]{1,24}) ?([KMGT]i?B|bytes)"

  defp out_of_memory(type, message) do
    host? = type == "MemoryError"

    if host? or type =~ "OutOfMemory" or exhausted?(message) do
      requested = bytes(message, ~r/(?:tried to allocate|allocating|allocate) #{@size}/i)
      available = bytes(message, ~r/#{@size}(?: is)? free/i)
      device = if host?, do: :cpu, else: memory_device(message)
      Device.out_of_memory(device, requested, available)
    end
  end

  defp exhausted?(message) do
    message =~
      ~r/\b(?:CUDA|HIP|MPS)[^.]*out of memory|OutOfMemoryError|OOM when allocating|RESOURCE_EXHAUSTED.*alloc/is
  end

  defp memory_device(message) do
    index =
      case Regex.run(~r/GPU[ :](\d{1,6})|(?:cuda|hip):(\d{1,6})/i, message) do
        nil -> 0
        found -> found |> List.last() |> String.to_integer()
      end

    cond do
      message =~ ~r/\bMPS\b/ -> :mps
      message =~ ~r/\bHIP\b|rocm/i -> {:rocm, index}
      true -> {:cuda, index}
    end
  end

  @factors %{
    "b" => 1,
    "k" => 1024,
    "m" => 1_048_576,
    "g" => 1_073_741_824,
    "t" => 1_099_511_627_776
  }

  defp bytes(message, pattern) do
    with [_, number, unit] <- Regex.run(pattern, message),
         {value, _rest} <- Float.parse(number) do
      round(value * Map.fetch!(@factors, unit |> String.first() |> String.downcase()))
    else
      _ -> 0
    end
  end

  defp device(message) do
    case Regex.scan(~r/\b(cpu|mps|cuda:\d{1,6}|hip:\d{1,6})\b/, message) do
      [[_, first], [_, second] | _] when first != second ->
        if message =~ ~r/same device|different devices|two devices/i,
          do: Device.device_mismatch(to_device(first), to_device(second), operation(message))

      _ ->
        nil
    end
  end

  defp to_device("cpu"), do: :cpu
  defp to_device("mps"), do: :mps
  defp to_device("cuda:" <> index), do: {:cuda, String.to_integer(index)}
  defp to_device("hip:" <> index), do: {:rocm, String.to_integer(index)}

  # "... (when checking argument for argument mat2 in method wrapper_CUDA_mm)"
  defp operation(message) do
    case Regex.run(~r/in method (\w+)/, message) do
      [_, name] -> name
      nil -> nil
    end
  end

  @shape "[\\[(][\\d,\\s-]*[\\])]"

  defp shape(message), do: two_shapes(message) || matrices(message) || one_dimension(message)

  # Each with the operation it speaks of; two shapes follow.
  defp pairs do
    [
      {~r/could not be broadcast together with shapes? (#{@shape}) (#{@shape})/, "broadcast"},
      {~r/incompatible shapes for broadcasting: .*?(#{@shape}).*?(#{@shape})/i, "broadcast"},
      {~r/shapes? (#{@shape}) and (#{@shape}) not aligned/, "dot"},
      {~r/incompatible shapes: (#{@shape}) vs\.? (#{@shape})/i, nil},
      {~r/expected (?:input )?shape:? (?:torch\.Size)?\(?(#{@shape})\)?,? (?:but )?got:? (?:torch\.Size)?\(?(#{@shape})/i,
       nil},
      {~r/shape mismatch:?.*?(#{@shape}).*?(#{@shape})/i, nil}
    ]
  end

  defp two_shapes(message) do
    Enum.find_value(pairs(), fn {pattern, operation} ->
      with [_, first, second] <- Regex.run(pattern, message),
           expected when is_list(expected) <- extract_shape(first),
           got when is_list(got) <- extract_shape(second) do
        case operation do
          "broadcast" -> Shape.broadcast_error(expected, got, operation)
          "dot" -> inner(expected, got, operation)
          _ -> Shape.shape_mismatch(expected, got, operation)
        end
      else
        _ -> nil
      end
    end)
  end

  defp matrices(message) do
    pattern =
      ~r/(?:mat1 and mat2 )?shapes cannot be multiplied \((\d{1,18})x(\d{1,18}) and (\d{1,18})x(\d{1,18})\)/

    with [_ | sizes] <- Regex.run(pattern, message) do
      [a, b, c, d] = Enum.map(sizes, &String.to_integer/1)
      inner([a, b], [c, d], "matmul")
    end
  end

  # The last dimension of the one must be the last but one of the other.
  defp inner([_ | _] = expected, [_ | _] = got, operation) do
    Shape.finish(%ShapeMismatch{
      expected: expected,
      got: got,
      dimension: length(expected) - 1,
      expected_dim: List.last(expected),
      got_dim: Enum.at(got, -2) || hd(got),
      operation: operation
    })
  end

  defp inner(expected, got, operation), do: Shape.shape_mismatch(expected, got, operation)

  defp one_dimension(message) do
    pattern =
      ~r/size of tensor a \((\d{1,18})\) must match the size of tensor b \((\d{1,18})\) at non-singleton dimension (\d{1,18})/

    with [_ | numbers] <- Regex.run(pattern, message) do
      [a, b, dimension] = Enum.map(numbers, &String.to_integer/1)
      Shape.dimension_mismatch(dimension, a, b, "broadcast")
    end
  end
end
