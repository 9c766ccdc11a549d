defmodule Snakepit.ZeroCopyTest do
  # Without workers; zero_copy_calls_test.exs has those.
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv
  import Snakepit.Test.Pools, only: [eventually: 1]

  alias Snakepit.Config.{Explain, Keys}
  alias Snakepit.{Config, Encoder, Error, Native, Telemetry, ZeroCopy, ZeroCopyRef}
  alias Snakepit.Test.GPU
  alias Snakepit.ZeroCopy.Config, as: Settings
  alias Snakepit.ZeroCopy.{DType, Segment, Tensor}

  doctest ZeroCopy
  doctest Tensor

  @patience 60_000

  # An Arrow IPC stream without any batch: a schema of no fields is not needed here.
  @stream <<0xFFFFFFFF::32, 8::little-32, 0::64, 0xFFFFFFFF::32, 0::32>>

  setup do
    put_env(zero_copy: nil)
  end

  defp refused({:error, %Error{category: :validation, message: message}}), do: message

  describe "tensors" do
    test "of binaries have the type and shape that are given, bytes without" do
      assert {:ok, %ZeroCopyRef{} = ref} = ZeroCopy.to_dlpack(<<1, 2, 3>>)

      assert %{kind: :dlpack, device: :cpu, dtype: "uint8", shape: {3}, owner: :elixir} = ref
      assert %{bytes: 3, copy: true, metadata: nil} = ref
      assert is_reference(ref.ref)
      assert ZeroCopy.from_dlpack(ref) == {:ok, <<1, 2, 3>>}

      for {dtype, name} <- [{:f32, "float32"}, {"float32", "float32"}, {{:s, 32}, "int32"}] do
        assert {:ok, ref} =
                 ZeroCopy.to_dlpack(<<0::192>>, dtype: dtype, shape: [2, 3], metadata: %{a: 1})

        assert %{dtype: ^name, shape: {2, 3}, metadata: %{a: 1}} = ref
      end

      assert {:ok, %{shape: {}}} = ZeroCopy.to_dlpack(<<0::64>>, dtype: :s64, shape: {})
      assert {:ok, %{shape: {0, 4}, bytes: 0}} = ZeroCopy.to_dlpack(<<>>, shape: {0, 4})
      assert {:ok, %{shape: {2}}} = ZeroCopy.to_dlpack(<<0::256>>, dtype: :c128)
    end

    test "of another size than type and shape say are refused" do
      assert refused(ZeroCopy.to_dlpack(<<0::64>>, dtype: :f32, shape: {3})) =~
               "has 12 bytes, not 8"

      assert refused(ZeroCopy.to_dlpack(<<1, 2, 3>>, dtype: :f32)) =~ "has 0 bytes, not 3"
      assert refused(ZeroCopy.to_dlpack(<<1>>, dtype: :f31)) =~ "dtype is one of"
      assert refused(ZeroCopy.to_dlpack(<<1>>, dtype: {:u, 4})) =~ "dtype is one of"
      assert refused(ZeroCopy.to_dlpack(<<1>>, shape: {-1, -1})) =~ "sizes of at least 0"
      assert refused(ZeroCopy.to_dlpack(<<1>>, shape: {1.0})) =~ "sizes of at least 0"
      assert refused(ZeroCopy.to_dlpack(<<1>>, shape: 1)) =~ "sizes of at least 0"
      huge = {Integer.pow(2, 40), Integer.pow(2, 40)}
      assert refused(ZeroCopy.to_dlpack(<<1>>, shape: huge)) =~ "not 1"
      assert refused(ZeroCopy.to_dlpack(<<1>>, owner: :nobody)) =~ "owner is"
      assert refused(ZeroCopy.to_dlpack(<<1>>, metadata: :none)) =~ "metadata a map"
      assert refused(ZeroCopy.to_dlpack(<<1>>, device: :tpu)) =~ "a device is"
    end

    test "of lists of numbers come back as they were" do
      for {list, dtype, shape} <- [
            {[1, 2, 3], "int64", {3}},
            {[1, 2.5], "float64", {2}},
            {[[true, false], [false, true]], "bool", {2, 2}},
            {[[[1.5]], [[2.5]]], "float64", {2, 1, 1}},
            {[[], []], "float64", {2, 0}}
          ] do
        assert {:ok, %{dtype: ^dtype, shape: ^shape} = ref} = ZeroCopy.to_dlpack(list)
        assert ZeroCopy.from_dlpack(ref) == {:ok, list}
        assert {:ok, tensor} = ZeroCopy.from_dlpack(ref, as: :tensor)
        assert Tensor.to_list(tensor) == {:ok, list}
      end

      assert {:ok, ref} = ZeroCopy.to_dlpack([1, 2], dtype: :bf16) |> refused_or_ok()
      assert ref =~ "is no bfloat16"
      assert refused(ZeroCopy.to_dlpack([256], dtype: :u8)) =~ "256 is no uint8"
      assert refused(ZeroCopy.to_dlpack([-1], dtype: :u8)) =~ "-1 is no uint8"
      assert refused(ZeroCopy.to_dlpack([1.0], dtype: :s8)) =~ "1.0 is no int8"
      assert refused(ZeroCopy.to_dlpack([1.0e300], dtype: :f32)) =~ "is no float32"
      assert refused(ZeroCopy.to_dlpack([1, 2], shape: {3})) =~ "has 24 bytes, not 16"
    end

    defp refused_or_ok(answer), do: {:ok, refused(answer)}

    test "have every number of their type" do
      for {dtype, numbers} <- [
            {"int8", [-128, 127]},
            {"int64", [-0x8000000000000000, 0x7FFFFFFFFFFFFFFF]},
            {"uint64", [0, 0xFFFFFFFFFFFFFFFF]},
            {"float16", [-0.5, 65504.0]},
            {"float32", [1.5, -0.0]},
            {"bool", [true, false]}
          ] do
        assert {:ok, data} = DType.encode(numbers, dtype)
        assert DType.decode(data, dtype) == {:ok, numbers}
      end

      for {dtype, bits, nan, infinity} <- [
            {"float16", 16, 0x7E00, 0x7C00},
            {"float32", 32, 0x7FC00000, 0x7F800000},
            {"float64", 64, 0x7FF8000000000000, 0x7FF0000000000000}
          ] do
        top = Integer.pow(2, bits - 1)
        data = for n <- [nan, infinity, top + infinity], into: <<>>, do: <<n::native-size(bits)>>
        assert DType.decode(data, dtype) == {:ok, ["NaN", "Infinity", "-Infinity"]}
      end

      assert DType.decode(<<0, 0>>, "bfloat16") == {:error, :no_numbers}
    end

    test "of other terms can be taken back, and not be handed over" do
      for term <- [%{a: 1}, :b, nil, ["x"], [[1], [2, 3]], [1 | 2], [[1] | 2], {1, 2}] do
        assert {:ok, %{bytes: nil, copy: true} = ref} = ZeroCopy.to_dlpack(term)
        assert ZeroCopy.from_dlpack(ref) == {:ok, term}
        assert ZeroCopy.to_binary(ref) == {:error, :zero_copy_handle_not_found}
        assert ZeroCopy.from_dlpack(ref, as: :binary) == {:error, :zero_copy_handle_not_found}
        assert Encoder.plain(ref) == ref
      end
    end

    test "can be asked for in several forms" do
      {:ok, ref} = ZeroCopy.to_dlpack([[1, 2], [3, 4]], dtype: :u8)
      assert ZeroCopy.from_dlpack(ref, as: :binary) == {:ok, <<1, 2, 3, 4>>}

      assert ZeroCopy.from_dlpack(ref, as: :tensor) ==
               {:ok, %Tensor{data: <<1, 2, 3, 4>>, dtype: "uint8", shape: {2, 2}}}

      assert refused(ZeroCopy.from_dlpack(ref, as: :picture)) =~ "as: is one of"
      assert ZeroCopy.to_binary(ref) == {:ok, <<1, 2, 3, 4>>}
      tensor = %Tensor{data: <<1, 2>>, dtype: "uint8", shape: {2}}
      assert ZeroCopy.to_binary(tensor) == {:ok, <<1, 2>>}
      assert {:ok, %{shape: {2}, dtype: "uint8"}} = ZeroCopy.to_dlpack(tensor)
      assert refused(ZeroCopy.to_dlpack(tensor, dtype: :f32)) =~ "is given for a tensor"
      assert refused(ZeroCopy.to_dlpack(tensor, shape: {1, 2})) =~ "is given for a tensor"
      assert refused(ZeroCopy.to_dlpack(%{tensor | shape: {3}})) =~ "has 3 bytes, not 2"
      assert refused(ZeroCopy.to_binary(:nothing)) =~ "has no bytes"
    end
  end

  describe "tables" do
    test "are Arrow IPC streams" do
      assert {:ok, %{kind: :arrow, bytes: 24} = ref} = ZeroCopy.to_arrow(@stream)
      assert ZeroCopy.from_arrow(ref, as: :binary) == {:ok, @stream}
      assert ZeroCopy.from_arrow(ref) == {:ok, @stream}
      assert {:ok, ref} = ZeroCopy.to_arrow(%{a: [1]})
      assert ZeroCopy.from_arrow(ref) == {:ok, %{a: [1]}}
      assert refused(ZeroCopy.to_arrow("ARROW1\0\0" <> @stream)) =~ "IPC file"
      assert refused(ZeroCopy.to_arrow(<<1, 2, 3>>)) =~ "is an Arrow IPC stream"
      assert refused(ZeroCopy.to_arrow(<<0xFFFFFFFF::32, 800::little-32>>)) =~ "IPC stream"
      assert refused(ZeroCopy.from_arrow(ref(@stream), as: :sheet)) =~ "as: is one of"
    end

    defp ref(stream) do
      {:ok, ref} = ZeroCopy.to_arrow(stream)
      ref
    end
  end

  describe "handles" do
    test "of the other kind, forged ones and closed ones are errors" do
      {:ok, tensor} = ZeroCopy.to_dlpack(<<1>>)
      {:ok, table} = ZeroCopy.to_arrow(@stream)
      assert ZeroCopy.from_arrow(tensor) == {:error, {:invalid_zero_copy_kind, :dlpack}}
      assert ZeroCopy.from_dlpack(table) == {:error, {:invalid_zero_copy_kind, :arrow}}

      for forged <- [make_ref(), :atomics.new(1, []), "text", nil, self()] do
        forged = %{tensor | ref: forged}
        assert ZeroCopy.from_dlpack(forged) == {:error, :zero_copy_handle_not_found}
        assert ZeroCopy.to_binary(forged) == {:error, :zero_copy_handle_not_found}
        assert ZeroCopy.close(forged) == {:error, :zero_copy_handle_not_found}
        assert Encoder.plain(forged) == forged
      end

      assert ZeroCopy.from_dlpack(:handle) == {:error, :zero_copy_handle_not_found}
      assert ZeroCopy.close(:handle) == {:error, :zero_copy_handle_not_found}
      assert ZeroCopy.close(tensor) == :ok
      assert ZeroCopy.close(tensor) == :ok
      assert ZeroCopy.from_dlpack(tensor) == {:error, :zero_copy_handle_not_found}
      assert Encoder.plain(%{a: [tensor]}) == %{a: [tensor]}
    end

    test "made of a handle are that handle" do
      {:ok, ref} = ZeroCopy.to_dlpack(<<1>>)
      assert ZeroCopy.to_dlpack(ref) == {:ok, ref}
    end

    # Of one maker: handles of other tests go when it suits the garbage collector.
    defp count(maker) do
      table = Snakepit.ETSOwner.ensure_table(:snakepit_zero_copy_handles)
      length(:ets.match(table, {:"$1", maker, :_, :_}))
    end

    test "are kept as long as somebody has one" do
      test = self()
      before = count(test)
      {:ok, ref} = ZeroCopy.to_dlpack(<<1, 2>>)
      assert count(test) == before + 1
      assert ZeroCopy.info().handles >= 1

      {maker, monitor} =
        spawn_monitor(fn ->
          {:ok, passed} = ZeroCopy.to_dlpack([7], dtype: :u8)
          send(test, {:passed, passed})
          {:ok, _lost} = ZeroCopy.to_dlpack(%{lost: true})
        end)

      assert_receive {:DOWN, ^monitor, :process, ^maker, :normal}, @patience
      assert_received {:passed, passed}
      eventually(fn -> count(maker) == 1 end)
      assert ZeroCopy.from_dlpack(passed) == {:ok, [7]}
      assert ZeroCopy.close(ref) == :ok
      assert ZeroCopy.close(passed) == :ok
      assert count(maker) == 0
      assert count(test) <= before
    end

    test "are freed when a process that has them is killed" do
      test = self()

      {pid, monitor} =
        spawn_monitor(fn ->
          refs = for n <- 1..100, do: elem(ZeroCopy.to_dlpack(<<n>>), 1)
          send(test, :made)
          receive do: (:never -> refs)
        end)

      assert_receive :made, @patience
      assert count(pid) == 100
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, @patience
      eventually(fn -> count(pid) == 0 end)
    end

    test "are small, whatever they stand for" do
      {:ok, ref} = ZeroCopy.to_dlpack(:binary.copy(<<1>>, 1_000_000))
      :erlang.garbage_collect()
      assert :erlang.external_size(ref) < 1000
      assert {:ok, <<1, 1, _::binary>>} = ZeroCopy.to_binary(ref)
    end
  end

  describe "on the wire" do
    defp wire(ref) do
      {:ok, bytes} = native(ref, &Native.cbor_encode/1)
      {:ok, value} = Native.cbor_decode(bytes)
      {:ok, text} = native(ref, &Native.json_encode/1)
      {:ok, same} = Native.json_decode(text)
      {value, same}
    end

    # What the native part does by itself is what Elixir makes of it.
    defp native(ref, encode) do
      {:ok, plain} = encode.(Encoder.plain(ref))

      with {:error, {:encode_struct, []}} <- encode.(ref) do
        assert ref.device != :cpu
        {:ok, plain}
      else
        {:ok, ^plain} -> {:ok, plain}
      end
    end

    test "a handle is a map with its bytes, and a handle again on the other side" do
      {:ok, ref} =
        ZeroCopy.to_dlpack([1.5, 2.5], dtype: :f32, metadata: %{"unit" => "m"}, owner: :python)

      for back <- Tuple.to_list(wire(ref)) do
        assert %ZeroCopyRef{kind: :dlpack, device: :cpu, dtype: "float32", shape: {2}} = back
        assert %{owner: :python, copy: true, bytes: 8, metadata: %{"unit" => "m"}} = back
        assert {:ok, <<1.5::float-native-32, 2.5::float-native-32>>} = ZeroCopy.to_binary(back)
        # It is known by its token.
        assert ZeroCopy.from_dlpack(back) == {:ok, [1.5, 2.5]}
      end

      {back, _} = wire(ref)
      assert ZeroCopy.close(ref) == :ok
      assert {:ok, %Tensor{dtype: "float32", shape: {2}}} = ZeroCopy.from_dlpack(back)
      assert ZeroCopy.close(back) == :ok
      assert ZeroCopy.from_dlpack(back) == {:error, :zero_copy_handle_not_found}
    end

    test "bytes that are text stay bytes, and nothing is left of an empty tensor's" do
      {:ok, ref} = ZeroCopy.to_dlpack("abc")
      assert Encoder.plain(ref)["data"] == {:binary, "abc"}
      {:ok, ref} = ZeroCopy.to_dlpack(<<>>, dtype: :f64)
      {back, _} = wire(ref)
      assert ZeroCopy.to_binary(back) == {:ok, <<>>}
    end

    test "what is in the metadata is encoded like anything else" do
      metadata = %{at: ~D[2024-01-02], span: 1..3, deep: [%{a: {1, 2}}]}
      {:ok, ref} = ZeroCopy.to_dlpack(<<1>>, metadata: metadata)
      assert {:error, {:encode_struct, ["metadata", :span]}} = Native.cbor_encode(ref)
      {:ok, bytes} = Native.cbor_encode(Encoder.plain(ref))
      {:ok, back} = Native.cbor_decode(bytes)

      assert back.metadata == %{
               "at" => ~D[2024-01-02],
               "span" => [1, 2, 3],
               "deep" => [%{"a" => {1, 2}}]
             }
    end

    test "a handle that is closed or forged is refused where it stands" do
      {:ok, ref} = ZeroCopy.to_dlpack(<<1>>)
      {:ok, local} = ZeroCopy.to_dlpack(:term)
      :ok = ZeroCopy.close(ref)

      for ref <- [ref, %{ref | ref: make_ref()}, %{ref | ref: nil}, local],
          encode <- [&Native.cbor_encode/1, &Native.json_encode/1] do
        assert encode.(%{a: [1, ref]}) == {:error, {:encode_struct, [:a, 1]}}
      end
    end

    test "what only looks like a handle is a map" do
      key = "__snakepit_zero_copy__"

      for map <- [
            %{key => false, "kind" => "dlpack"},
            %{key => true, "kind" => "quux"},
            %{key => true},
            %{key => 1, "kind" => "arrow"},
            %{"a" => key},
            [key],
            key
          ] do
        {:ok, bytes} = Native.cbor_encode(map)
        assert Native.cbor_decode(bytes) == {:ok, map}
        {:ok, text} = Native.json_encode(map)
        assert Native.json_decode(text) == {:ok, map}
      end
    end

    test "fields that make no sense are nil, and make no atoms" do
      map = %{
        "__snakepit_zero_copy__" => true,
        "kind" => "dlpack",
        "device" => "abacus",
        "dtype" => 7,
        "shape" => List.duplicate(1, 65),
        "owner" => "perl_of_this_test",
        "copy" => "yes",
        "bytes" => -1,
        "metadata" => [],
        "data" => [1, 2],
        "ref" => %{}
      }

      {:ok, bytes} = Native.cbor_encode(map)
      assert {:ok, %ZeroCopyRef{kind: :dlpack} = ref} = Native.cbor_decode(bytes)

      for field <- [:device, :dtype, :shape, :owner, :copy, :bytes, :metadata],
          do: assert(Map.fetch!(ref, field) == nil)

      assert ZeroCopy.from_dlpack(ref) == {:error, :zero_copy_handle_not_found}
      assert_raise ArgumentError, fn -> String.to_existing_atom("perl_of_this_" <> "test") end
    end

    test "a size that is not that of type and shape is an error when it is used" do
      for {dtype, shape} <- [
            {"float32", [3]},
            {"float32", [-1]},
            {"quux", [1]},
            {"uint8", ["a"]},
            {"uint8", [Integer.pow(2, 63), 4]}
          ] do
        map = %{
          "__snakepit_zero_copy__" => true,
          "kind" => "dlpack",
          "dtype" => dtype,
          "shape" => shape,
          "data" => {:binary, <<1, 2, 3, 4>>}
        }

        {:ok, bytes} = Native.cbor_encode(map)
        {:ok, ref} = Native.cbor_decode(bytes)
        assert is_binary(refused(ZeroCopy.from_dlpack(ref)))
        assert ZeroCopy.to_binary(ref) == {:ok, <<1, 2, 3, 4>>}
      end
    end
  end

  describe "settings" do
    test "without a fallback, what is not in shared memory is unavailable" do
      put_env(zero_copy: [allow_fallback: false])
      assert ZeroCopy.to_dlpack(<<1>>) == {:error, :zero_copy_unavailable}
      assert ZeroCopy.to_arrow(@stream) == {:error, :zero_copy_unavailable}
      assert ZeroCopy.to_dlpack(%{}) == {:error, :zero_copy_unavailable}
      put_env(zero_copy: %{"strict" => true})
      assert ZeroCopy.to_dlpack(<<1>>) == {:error, :zero_copy_unavailable}
      put_env(zero_copy: [enabled: true, dlpack: true, arrow: false, strict: true])
      assert {:ok, %{copy: true}} = ZeroCopy.to_dlpack(<<1>>)
      assert ZeroCopy.to_arrow(@stream) == {:error, :zero_copy_unavailable}
    end

    test "enabled, large data lies in shared memory where there is some" do
      put_env(zero_copy: [enabled: true, threshold: 4096])
      {:ok, small} = ZeroCopy.to_dlpack(:binary.copy(<<1>>, 4095))
      {:ok, large} = ZeroCopy.to_dlpack(:binary.copy(<<1>>, 4096))
      assert small.copy
      assert large.copy == not ZeroCopy.available?()
      assert ZeroCopy.to_binary(large) == {:ok, :binary.copy(<<1>>, 4096)}
    end
  end

  describe "shared memory" do
    # Where there is none, all is copied.
    defp copied?, do: not ZeroCopy.available?()

    test "is where alloc puts a binary, and stays when it is handed on" do
      {:ok, data} = ZeroCopy.alloc(100_000, :binary.copy("ab", 50_000))
      assert data == :binary.copy("ab", 50_000)
      assert Segment.shared?(data) == ZeroCopy.available?()
      assert {:ok, %{copy: copy} = ref} = ZeroCopy.to_dlpack(data)
      assert copy == copied?()
      assert {:ok, ^data} = ZeroCopy.from_dlpack(ref)
      part = binary_part(data, 10, 70_000)
      assert {:ok, %{copy: copy}} = ZeroCopy.to_dlpack(part)
      assert copy == copied?()
      put_env(zero_copy: [threshold: :infinity])
      assert {:ok, %{copy: true}} = ZeroCopy.to_dlpack(data)
      refute ZeroCopy.available?()
    end

    test "that cannot be had is a fallback, or an error where none is allowed" do
      before = ZeroCopy.info().segments
      put_env(zero_copy: [enabled: true, node_max_bytes: 0])
      :ok = Segment.configure_node()

      on_exit(fn ->
        Application.delete_env(:snakepit, :zero_copy)
        Segment.configure_node()
      end)

      data = :binary.copy(<<1>>, 1_000_000)
      assert {:ok, %{copy: true}} = ZeroCopy.to_dlpack(data)
      assert {:ok, ^data} = ZeroCopy.alloc(1_000_000, data)
      put_env(zero_copy: [enabled: true, node_max_bytes: 0, strict: true])
      assert ZeroCopy.to_dlpack(data) == {:error, :zero_copy_unavailable}
      assert ZeroCopy.info().segments[:bytes] == before[:bytes]
    end
  end

  describe "configuration" do
    test "that makes no sense is refused, with what is allowed" do
      for {value, text} <- [
            {[threshold: 0], "threshold is a positive number of bytes, or :infinity"},
            {[threshold: "1"], "threshold is a positive number"},
            {%{enabled: 1}, "enabled is true or false"},
            {%{"max_bytes" => -1}, "max_bytes is a number of bytes of at least 0"},
            {[idle_bytes: :infinity], "idle_bytes is a number of bytes"},
            {[node_max_bytes: 1.5], "node_max_bytes is a number of bytes"},
            {[descriptors: -1], "descriptors is an integer of at least 0"},
            {[device: NoSuch.Module], "device is a module"},
            {:yes, "is a map or a keyword list"},
            {[:enabled], "is a map or a keyword list"}
          ] do
        put_env(zero_copy: value)
        assert {:error, {:invalid_value, :zero_copy, _, _} = reason} = Keys.check()
        assert Explain.text(:zero_copy, reason) =~ text
        put_env(zero_copy: nil)
      end

      for value <- [[], %{}, [threshold: :infinity, max_bytes: 0, idle_bytes: 0], %{strict: true}] do
        put_env(zero_copy: value)
        assert Keys.check() == :ok
      end
    end

    test "of a pool is judged with it, and has no key of the node's" do
      pool = &Config.validate_pool_config(%{name: :a, zero_copy: &1})
      assert {:ok, %{zero_copy: [threshold: 5]}} = pool.(threshold: 5)
      assert {:error, {:invalid_pool_option, :threshold, 0, _}} = pool.(threshold: 0)
      assert {:error, {:invalid_pool_option, :descriptors, 5, text}} = pool.(%{descriptors: 5})
      assert text =~ "of the whole node"
      assert {:error, {:invalid_pool_option, :zero_copy, true, _}} = pool.(true)
    end

    test "with keys that are not known is told, with what was probably meant" do
      put_env(
        zero_copy: [treshold: 5],
        pools: [%{name: :a, zero_copy: %{"enable" => true, quux: 1}}]
      )

      assert [node | in_pool] = Keys.unknown()
      assert node =~ "config :snakepit: zero_copy: :treshold is not known"
      assert node =~ "Did you mean :threshold?"
      assert Enum.all?(in_pool, &(&1 =~ "pool :a: zero_copy:"))
      assert Enum.any?(in_pool, &(&1 =~ "Did you mean :enabled?"))
      assert length(in_pool) == 2
    end

    test "of a pool is over the node's, and that over the built-in" do
      put_env(zero_copy: [threshold: 7, idle_bytes: 8, idle_ms: 10])
      own = %{zero_copy: %{threshold: :infinity, max_bytes: 9}}

      assert Settings.of_pool(own) ==
               %{threshold: :infinity, max_bytes: 9, idle_bytes: 8, idle_ms: 10}

      assert Settings.environment(own)["SNAKEPIT_ZERO_COPY_THRESHOLD"] == "0"
      assert %{threshold: 7, max_bytes: max} = Settings.of_pool(%{})
      assert max > 0
      put_env(zero_copy: [node_max_bytes: 10, descriptors: 11])
      assert Settings.of_node() == {10, 11}
      put_env(zero_copy: nil)
      assert %{threshold: 65_536, idle_bytes: 67_108_864, idle_ms: 5_000} = Settings.of_pool(%{})

      assert {bytes, descriptors} = Settings.of_node()
      assert bytes > 0 and descriptors > 0
    end
  end

  describe "alloc" do
    test "takes iodata, enumerables and functions" do
      assert ZeroCopy.alloc(0, "") == {:ok, ""}
      assert ZeroCopy.alloc(3, "abc") == {:ok, "abc"}
      assert ZeroCopy.alloc(3, [?a, ["b" | "c"]]) == {:ok, "abc"}
      assert ZeroCopy.alloc(6, Stream.map(1..3, &<<&1::16>>)) == {:ok, <<1::16, 2::16, 3::16>>}
      assert ZeroCopy.alloc(2, fn write -> write.("a") && write.(["b"]) end) == {:ok, "ab"}
    end

    test "refuses a source of another size" do
      assert refused(ZeroCopy.alloc(3, "ab")) =~ "3 bytes were asked for, and the source has 2"
      assert refused(ZeroCopy.alloc(3, "abcd")) =~ "has 4 or more"
      assert refused(ZeroCopy.alloc(3, Stream.repeatedly(fn -> "ab" end))) =~ "has 4 or more"
      assert_raise RuntimeError, fn -> ZeroCopy.alloc(3, fn _write -> raise "no" end) end
      assert_raise FunctionClauseError, fn -> ZeroCopy.alloc(-1, "") end
    end

    test "of many pieces is the pieces one after another" do
      piece = :binary.copy("0123456789abcdef", 65_536)
      assert {:ok, binary} = ZeroCopy.alloc(20 * 1_048_576, List.duplicate(piece, 20))
      assert binary == :binary.copy(piece, 20)
    end
  end

  describe "a GPU's memory" do
    test "is passed by the handle of its driver" do
      put_env(zero_copy: [device: GPU])
      {:ok, ref} = ZeroCopy.to_dlpack({:on_gpu, 5}, device: :cuda, metadata: %{"a" => 1})
      assert %{device: :cuda, dtype: "float32", shape: {2, 2}, bytes: 16, copy: false} = ref
      assert ZeroCopy.from_dlpack(ref) == {:ok, {:on_gpu, 5}}
      assert ZeroCopy.to_binary(ref) == {:error, :zero_copy_handle_not_found}

      {back, same} = wire(ref)
      assert back.metadata["a"] == 1 and back.metadata["ipc_handle"] == <<5::512>>
      assert ZeroCopy.from_dlpack(back) == {:ok, {:on_gpu, 5}}
      assert ZeroCopy.close(ref) == :ok

      for back <- [back, same] do
        assert ZeroCopy.from_dlpack(back, x: :y) ==
                 {:ok, {:mapped, 5, "float32", {2, 2}, 3, :y}}
      end

      broken = %{back | shape: nil}
      assert refused(ZeroCopy.from_dlpack(broken)) =~ "not complete"
    end

    test "is not available without one" do
      put_env(zero_copy: [device: GPU])
      assert ZeroCopy.to_dlpack(<<1>>, device: :cuda) == {:error, :not_available}
      put_env(zero_copy: nil)
      assert ZeroCopy.to_dlpack(<<1>>, device: :cuda) == {:error, :not_available}
      assert ZeroCopy.to_dlpack(<<1>>, device: :mps) == {:error, :not_available}

      map = %{
        "__snakepit_zero_copy__" => true,
        "kind" => "dlpack",
        "device" => "cuda",
        "dtype" => "float32",
        "shape" => [1],
        "metadata" => %{"ipc_handle" => {:binary, <<0::512>>}}
      }

      for map <- [map, Map.delete(map, "metadata")] do
        {:ok, bytes} = Native.cbor_encode(map)
        {:ok, ref} = Native.cbor_decode(bytes)
        assert ZeroCopy.from_dlpack(ref) == {:error, :not_available}
      end
    end
  end

  test "events tell which way it went" do
    test = self()
    events = for what <- [:export, :import, :fallback], do: [:snakepit, :zero_copy, what]

    :ok =
      Telemetry.attach_many(
        "zero copy",
        events,
        fn event, measurements, metadata, _ -> send(test, {event, measurements, metadata}) end,
        nil
      )

    on_exit(fn -> Telemetry.detach("zero copy") end)
    {:ok, ref} = ZeroCopy.to_dlpack(<<1, 2>>)
    assert_received {[:snakepit, :zero_copy, :fallback], %{duration_ms: ms, bytes: 2}, metadata}
    assert is_float(ms)
    assert metadata == %{kind: :dlpack, device: :cpu, dtype: "uint8", shape: {2}}
    {:ok, _} = ZeroCopy.from_dlpack(ref)
    assert_received {[:snakepit, :zero_copy, :import], %{bytes: 2}, ^metadata}
    put_env(zero_copy: [device: GPU])
    {:ok, _} = ZeroCopy.to_dlpack({:on_gpu, 1}, device: :cuda)
    assert_received {[:snakepit, :zero_copy, :export], %{bytes: 16}, %{device: :cuda}}
  end
end
