defmodule Snakepit.ZeroCopyLibrariesTest do
  # With modules that stand for Nx and Explorer, in a VM of their own: here they would
  # change what other tests see.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools, only: [signal_path: 0]

  alias Snakepit.Test.OtherVM

  @modules """
  defmodule Nx.Tensor do
    defstruct [:data, :type, :shape, :names, :on]
  end

  defmodule Nx.Pointer do
    defstruct [:address, :kind, :data_size, :handle]
  end

  defmodule Nx do
    def from_binary(data, type, opts) do
      {_, bits} = type
      size = div(bit_size(data), bits)
      struct(Nx.Tensor, data: data, type: type, shape: {size}, on: opts[:backend])
    end

    def reshape(tensor, shape), do: Map.put(tensor, :shape, shape)
    def to_binary(%{data: data}) when is_binary(data), do: data
    def default_backend, do: :the_default

    def to_pointer(%{on: {:gpu, id}}, mode: :ipc),
      do: struct(Nx.Pointer, kind: :ipc, handle: <<id::512>>, data_size: 8)

    def to_pointer(_tensor, _opts), do: raise ArgumentError, "no pointers"

    def from_pointer(backend, %{kind: :ipc} = pointer, type, shape, []),
      do: {:mapped, backend, pointer.handle, pointer.data_size, type, shape}
  end

  defmodule Explorer.DataFrame do
    defstruct [:stream]
    def dump_ipc_stream(%{stream: nil}), do: {:error, :empty}
    def dump_ipc_stream(%{stream: stream}), do: {:ok, stream}
    def load_ipc_stream(stream), do: {:ok, struct(__MODULE__, stream: stream)}
  end

  alias Snakepit.{Encoder, Native, ZeroCopy}

  through = fn ref ->
    {:ok, bytes} = Native.cbor_encode(Encoder.plain(ref))
    {:ok, back} = Native.cbor_decode(bytes)
    :ok = ZeroCopy.close(ref)
    back
  end
  _ = through
  """

  defp say(code) do
    dir = Path.dirname(signal_path())
    vm = OtherVM.start(dir, @modules <> code)
    said = OtherVM.hear(vm)
    OtherVM.kill_and_wait(vm)
    said
  end

  test "tensors of Nx go there and come back" do
    assert say("""
           tensor = Nx.from_binary(<<1.0::float-native-32, 2.0::float-native-32>>, {:f, 32}, [])
           {:ok, ref} = ZeroCopy.to_dlpack(Nx.reshape(tensor, {2, 1}))
           here = ZeroCopy.from_dlpack(ref)
           back = through.(ref)
           plain = Encoder.plain(tensor)
           say.(%{
             ref: {back.dtype, back.shape, back.bytes},
             here: here |> elem(1) |> Map.take([:data, :shape]) ==
               %{data: tensor.data, shape: {2, 1}},
             back: Map.from_struct(elem(ZeroCopy.from_dlpack(back, backend: :mine), 1)),
             tensor: ZeroCopy.from_dlpack(back, as: :tensor) |> elem(1) |> Map.get(:shape),
             plain: {plain["dtype"], plain["shape"], plain["metadata"], plain["data"]},
             wrong: match?({:error, %{category: :validation}}, ZeroCopy.to_dlpack(tensor, dtype: :s8)),
             other: match?({:error, %{category: :validation}},
               ZeroCopy.to_dlpack(struct(tensor, type: {:u, 4}))),
             binary: ZeroCopy.to_binary(tensor) == {:ok, tensor.data}
           })
           """) == %{
             ref: {"float32", {2, 1}, 8},
             here: true,
             back: %{
               data: <<1.0::float-native-32, 2.0::float-native-32>>,
               type: {:f, 32},
               shape: {2, 1},
               names: nil,
               on: :mine
             },
             tensor: {2, 1},
             plain:
               {"float32", [2], %{"as" => "numpy"},
                {:binary, <<1.0::float-native-32, 2.0::float-native-32>>}},
             wrong: true,
             other: true,
             binary: true
           }
  end

  test "tensors of a GPU go by the pointer of their backend" do
    assert say("""
           gpu = struct(Nx.Tensor, type: {:f, 32}, shape: {2}, on: {:gpu, 7})
           {:ok, ref} = ZeroCopy.to_dlpack(gpu, device: :cuda)
           own = ZeroCopy.from_dlpack(ref) == {:ok, gpu}
           back = through.(ref)
           inside = put_in(back.metadata["offset"], 256)
           say.(%{
             own: own,
             back: ZeroCopy.from_dlpack(back),
             mine: ZeroCopy.from_dlpack(back, backend: :mine) |> elem(1) |> elem(1),
             inside: ZeroCopy.from_dlpack(inside),
             float8: ZeroCopy.from_dlpack(%{back | dtype: "float8_e4m3"}),
             host: ZeroCopy.to_dlpack(struct(gpu, on: nil), device: :cuda),
             mps: ZeroCopy.to_dlpack(gpu, device: :mps)
           })
           """) == %{
             own: true,
             back: {:ok, {:mapped, :the_default, <<7::512>>, 8, {:f, 32}, {2}}},
             mine: :mine,
             # A pointer of Nx's is to the beginning of an allocation.
             inside: {:error, :not_available},
             float8: {:error, :not_available},
             host: {:error, :not_available},
             mps: {:error, :not_available}
           }
  end

  test "data frames of Explorer are Arrow streams on the way" do
    assert say("""
           stream = <<0xFFFFFFFF::32, 8::little-32, 0::64>>
           frame = struct(Explorer.DataFrame, stream: stream)
           {:ok, ref} = ZeroCopy.to_arrow(frame)
           back = through.(ref)
           empty = struct(Explorer.DataFrame, stream: nil)
           say.(%{
             kind: {back.kind, back.bytes},
             auto: ZeroCopy.from_arrow(back) == {:ok, frame},
             asked: ZeroCopy.from_arrow(back, as: :explorer) == {:ok, frame},
             binary: ZeroCopy.from_arrow(back, as: :binary) == {:ok, stream},
             refused: match?({:error, %{category: :validation}}, ZeroCopy.to_arrow(empty))
           })
           """) == %{kind: {:arrow, 16}, auto: true, asked: true, binary: true, refused: true}
  end

  test "without them what needs them is not available" do
    alias Snakepit.{Native, ZeroCopy}
    {:ok, ref} = ZeroCopy.to_dlpack(<<1, 2>>)
    {:ok, bytes} = Native.cbor_encode(Snakepit.Encoder.plain(ref))
    {:ok, back} = Native.cbor_decode(bytes)

    assert ZeroCopy.from_dlpack(back, as: :nx) == {:error, :not_available}

    {:ok, table} = ZeroCopy.to_arrow(<<0xFFFFFFFF::32, 0::32>>)

    assert ZeroCopy.from_arrow(table, as: :explorer) == {:error, :not_available}
  end
end
