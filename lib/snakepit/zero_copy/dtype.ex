defmodule Snakepit.ZeroCopy.DType do
  @moduledoc false
  # Types of elements: their names in NumPy and Nx, their sizes, and lists of numbers as bytes.

  # {name in NumPy, bytes, type in Nx}
  @types [
    {"bool", 1, {:u, 8}},
    {"int8", 1, {:s, 8}},
    {"int16", 2, {:s, 16}},
    {"int32", 4, {:s, 32}},
    {"int64", 8, {:s, 64}},
    {"uint8", 1, {:u, 8}},
    {"uint16", 2, {:u, 16}},
    {"uint32", 4, {:u, 32}},
    {"uint64", 8, {:u, 64}},
    {"float16", 2, {:f, 16}},
    {"bfloat16", 2, {:bf, 16}},
    {"float32", 4, {:f, 32}},
    {"float64", 8, {:f, 64}},
    {"complex64", 8, {:c, 64}},
    {"complex128", 16, {:c, 128}}
  ]

  # Those that Nx has no name for, or not in all of its versions.
  @float8 ~w(e3m4 e4m3 e4m3b11fnuz e4m3fn e4m3fnuz e5m2 e5m2fnuz e8m0fnu)

  @sizes @types
         |> Map.new(fn {name, bytes, _nx} -> {name, bytes} end)
         |> Map.merge(Map.new(@float8, &{"float8_" <> &1, 1}))
  @to_nx Map.new(@types, fn {name, _bytes, nx} -> {name, nx} end)
  # A bool is no type of Nx's: of its types each has one name.
  @from_nx for {name, _bytes, nx} <- @types, name != "bool", into: %{}, do: {nx, name}
  @short Map.new(@from_nx, fn {{letter, bits}, name} -> {"#{letter}#{bits}", name} end)

  @doc "NumPy's name of a type: `:f32`, `{:f, 32}`, `:float32` and `\"float32\"` are the same."
  @spec name(term) :: {:ok, String.t()} | :error
  def name({letter, bits}), do: Map.fetch(@from_nx, {letter, bits})
  def name(name) when is_map_key(@sizes, name), do: {:ok, name}
  def name(short) when is_map_key(@short, short), do: Map.fetch(@short, short)

  def name(atom) when is_atom(atom) and atom not in [nil, true, false],
    do: atom |> Atom.to_string() |> name()

  def name(_other), do: :error

  @doc "Bytes of one element."
  @spec size(String.t()) :: pos_integer
  def size(name), do: Map.fetch!(@sizes, name)

  @spec nx(String.t()) :: {:ok, {atom, pos_integer}} | :error
  def nx(name), do: Map.fetch(@to_nx, name)

  @spec names() :: [String.t()]
  def names, do: for({name, _, _} <- @types, do: name) ++ ["float8_*"]

  @doc "The type that a list of numbers has when nobody says."
  @spec infer(list) :: {:ok, String.t()} | :error
  def infer(numbers) do
    cond do
      numbers == [] -> {:ok, "float64"}
      Enum.all?(numbers, &is_boolean/1) -> {:ok, "bool"}
      Enum.all?(numbers, &is_integer/1) -> {:ok, "int64"}
      Enum.all?(numbers, &is_number/1) -> {:ok, "float64"}
      true -> :error
    end
  end

  # Those that Elixir has numbers for.
  @numbers ~w(bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64)

  @doc "Numbers as bytes. `{:error, number}`: this one does not fit."
  @spec encode([number | boolean], String.t()) :: {:ok, binary} | {:error, term}
  def encode([number | _], dtype) when dtype not in @numbers, do: {:error, number}
  def encode([], _dtype), do: {:ok, ""}

  def encode(numbers, dtype) do
    put = writer(dtype)
    {:ok, for(number <- numbers, into: <<>>, do: put.(number))}
  catch
    {:no_fit, number} -> {:error, number}
  end

  defp writer("bool") do
    fn
      true -> <<1>>
      false -> <<0>>
      other -> throw({:no_fit, other})
    end
  end

  defp writer("int" <> bits), do: integers(String.to_integer(bits), true)
  defp writer("uint" <> bits), do: integers(String.to_integer(bits), false)

  defp writer("float" <> bits), do: floats(String.to_integer(bits))

  defp integers(bits, signed?) do
    top = Integer.pow(2, if(signed?, do: bits - 1, else: bits)) - 1
    bottom = if signed?, do: -top - 1, else: 0

    fn
      n when is_integer(n) and n in bottom..top//1 -> <<n::native-size(bits)>>
      other -> throw({:no_fit, other})
    end
  end

  # The BEAM has no infinity: what is too large for the type does not match again, or, in
  # newer versions, cannot be built.
  defp floats(bits) do
    fn n ->
      with true <- is_number(n),
           {:ok, bytes} <- float_bytes(n, bits),
           [finite] when is_float(finite) <- floats(bytes, bits) do
        bytes
      else
        _ -> throw({:no_fit, n})
      end
    end
  end

  defp float_bytes(n, bits) do
    {:ok, <<n::float-native-size(bits)>>}
  rescue
    ArgumentError -> :error
  end

  @doc "Bytes as numbers."
  @spec decode(binary, String.t()) ::
          {:ok, [number | boolean | String.t()]} | {:error, :no_numbers}
  def decode(data, "bool"), do: {:ok, for(<<b <- data>>, do: b != 0)}

  # A clause for each width: to name a variable from outside as a size in a match
  # is an error in old versions of Elixir with `^`, and a warning in new ones without.
  for bits <- [8, 16, 32, 64] do
    def decode(data, unquote("int#{bits}")),
      do: {:ok, for(<<n::signed-native-size(unquote(bits)) <- data>>, do: n)}

    def decode(data, unquote("uint#{bits}")),
      do: {:ok, for(<<n::unsigned-native-size(unquote(bits)) <- data>>, do: n)}
  end

  def decode(data, "float" <> bits) when bits in ["16", "32", "64"],
    do: {:ok, floats(data, String.to_integer(bits))}

  def decode(_data, _other), do: {:error, :no_numbers}

  # What does not match is no finite number: only NaN has a fraction.
  for bits <- [16, 32, 64] do
    defp floats(data, unquote(bits)),
      do: for(<<raw::bitstring-size(unquote(bits)) <- data>>, do: float(raw))

    defp float(<<n::float-native-size(unquote(bits))>>), do: n

    defp float(<<n::unsigned-native-size(unquote(bits))>>), do: not_finite(n, unquote(bits))
  end

  @fractions %{16 => 10, 32 => 23, 64 => 52}

  defp not_finite(n, bits) do
    cond do
      rem(n, Integer.pow(2, Map.fetch!(@fractions, bits))) != 0 -> "NaN"
      n >= Integer.pow(2, bits - 1) -> "-Infinity"
      true -> "Infinity"
    end
  end
end
