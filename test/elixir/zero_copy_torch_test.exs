defmodule Snakepit.ZeroCopyTorchTest do
  # With Snakepit.Test.Pools, on the interpreter that SNAKEPIT_TEST_TORCH_PYTHON names;
  # where it names none, test_helper.exs says that these are left out.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{ZeroCopy, ZeroCopyRef}
  alias Snakepit.ZeroCopy.Tensor

  @moduletag :torch
  @tools Path.expand("../python/adapters", __DIR__)

  setup do
    [{"PYTHONPATH", dirs}] = test_env()

    start_pools(
      python_executable: System.fetch_env!("SNAKEPIT_TEST_TORCH_PYTHON"),
      adapter_args: ["--adapter", "torch_tools:TorchTools"],
      adapter_env: [{"PYTHONPATH", "#{@tools}:#{dirs}"}],
      zero_copy: [enabled: true, threshold: 1024]
    )
  end

  defp run(tool, args) do
    assert {:ok, result} = Snakepit.execute(tool, args, timeout: 60_000)
    result
  end

  defp bytes({:binary, bytes}), do: bytes
  defp bytes(bytes) when is_binary(bytes), do: bytes

  test "tensors arrive as handles with their types and bytes" do
    for dtype <- ~w(bool int64 float16 bfloat16 float32 complex64),
        {shape, handle} <- [{[40, 60], true}, {[40, 60], false}, {[], true}, {[0, 3], true}] do
      %{"value" => ref, "bytes" => bytes} =
        run("typed", %{dtype: dtype, shape: shape, handle: handle})

      shape = List.to_tuple(shape)
      assert %ZeroCopyRef{kind: :dlpack, device: :cpu, dtype: ^dtype, shape: ^shape} = ref
      assert ZeroCopy.to_binary(ref) == {:ok, bytes(bytes)}
    end
  end

  test "a gradient and a negation that is still to be done" do
    for view <- ["gradient", "negative", "conjugate", "transposed"] do
      %{"value" => ref, "bytes" => bytes} = run("viewed", %{view: view, handle: true})
      assert ZeroCopy.to_binary(ref) == {:ok, bytes(bytes)}
    end
  end

  test "handles and tensors are tensors there, and may be written" do
    data = for n <- 1..50_000, into: <<>>, do: <<n::float-native-32>>
    doubled = for n <- 1..50_000, into: <<>>, do: <<2 * n::float-native-32>>
    {:ok, ref} = ZeroCopy.to_dlpack(data, dtype: :f32, shape: {500, 100})
    tensor = %Tensor{data: data, dtype: "float32", shape: {500, 100}}

    for {value, way} <- [{ref, "dlpack"}, {ref, "ref.numpy()"}, {tensor, "array"}] do
      assert %{"value" => back} = run("double", %{ref: value, way: way})
      assert ZeroCopy.to_binary(back) == {:ok, doubled}
    end

    assert %{"dtype" => "torch.float32", "shape" => [500, 100], "bytes" => seen} =
             run("take", %{ref: ref})

    assert bytes(seen) == data
  end
end
