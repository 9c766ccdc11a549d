defmodule Snakepit.ZeroCopyPythonTest do
  # With Snakepit.Test.Pools: arrays and tables that Python makes.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.{ZeroCopy, ZeroCopyRef}
  alias Snakepit.ZeroCopy.Tensor

  defp start(settings \\ []) do
    args = ["--adapter", "snakepit_array_tools.ArrayTools"]
    start_pools([adapter_args: args] ++ settings)
  end

  defp run(tool, args) do
    assert {:ok, result} = Snakepit.execute(tool, args)
    result
  end

  test "an array of zero_copy.empty arrives as a handle, and goes back as one or as an array" do
    start()

    for {shape, dtype} <- [
          {[100, 1000], "float32"},
          {[3, 4], "int16"},
          {[], "float64"},
          {[0, 4], "uint8"}
        ] do
      items = Enum.product(shape)
      sum = items * (items - 1) / 2
      ref = run("filled", %{shape: shape, dtype: dtype})
      shape = List.to_tuple(shape)
      assert %ZeroCopyRef{kind: :dlpack, device: :cpu, dtype: ^dtype, shape: ^shape} = ref
      assert %ZeroCopyRef{owner: :python, copy: false} = ref
      assert {:ok, %Tensor{dtype: ^dtype, shape: ^shape} = tensor} = ZeroCopy.from_dlpack(ref)
      assert run("total", %{value: ref}) == ["ZeroCopyRef", sum]
      assert run("total", %{value: tensor}) == ["ndarray", sum]
      assert ZeroCopy.close(ref) == :ok
      assert run("total", %{value: tensor}) == ["ndarray", sum]
    end
  end

  test "other arrays are lists, and handles from the threshold on where that is enabled" do
    start()
    assert run("zeros", %{size: 200}) == List.duplicate(0, 200)
    start(zero_copy: [enabled: true, threshold: 100])
    assert run("zeros", %{size: 99}) == List.duplicate(0, 99)
    assert %ZeroCopyRef{shape: {100}, dtype: "int8"} = run("zeros", %{size: 100})
  end

  test "a table is an Arrow stream in Elixir and a table again in Python" do
    start()

    for rows <- [0, 10, 50_000] do
      ref = run("table", %{rows: rows})
      assert %ZeroCopyRef{kind: :arrow, shape: {^rows, 1}} = ref
      assert {:ok, stream} = ZeroCopy.from_arrow(ref, as: :binary)
      assert {:ok, made_here} = ZeroCopy.to_arrow(stream)
      sum = div(rows * (rows - 1), 2)
      assert run("column", %{table: ref}) == sum
      assert run("column", %{table: made_here}) == sum
    end
  end

  test "arrays come as chunks" do
    start()
    test = self()
    assert :ok = Snakepit.execute_stream("frames", %{count: 4}, &send(test, {:chunk, &1}))

    for number <- 0..3 do
      assert_received {:chunk, %{"frame" => %ZeroCopyRef{shape: {100, 1000}} = frame}}
      assert {:ok, data} = ZeroCopy.to_binary(frame)
      assert data == :binary.copy(<<number>>, 100_000)
    end
  end

  test "Snakepit.Python fetches an array that stayed in its worker" do
    start(python_calls: true)
    {:ok, array} = Snakepit.Python.call("numpy.arange", [5])
    {:ok, ref} = Snakepit.Python.call("snakepit_bridge.zero_copy.to_dlpack", [array])
    assert %ZeroCopyRef{shape: {5}, dtype: "int64"} = ref
    assert {:ok, data} = ZeroCopy.to_binary(ref)
    assert for(<<n::native-64 <- data>>, do: n) == [0, 1, 2, 3, 4]
  end

  test "the type and shape of a tensor that is an argument are checked in Python" do
    start()
    {:ok, ref} = ZeroCopy.to_dlpack(<<0::64>>, dtype: :f32)
    assert run("total", %{value: ref}) == ["ZeroCopyRef", 0.0]
    wrong = %{ref | shape: {3}}
    assert {:error, error} = Snakepit.execute("total", %{value: wrong})
    assert error.message =~ "bytes"
  end
end
