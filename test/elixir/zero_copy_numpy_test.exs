defmodule Snakepit.ZeroCopyNumpyTest do
  # With Snakepit.Test.Pools, over each carrier.
  use ExUnit.Case, async: false
  import Snakepit.Test.Pools
  alias Snakepit.ZeroCopy.{DType, Tensor}

  test "a tensor that is an argument arrives as an array" do
    start_pools(adapter_args: ["--adapter", "snakepit_zero_copy_tools.ZeroCopyTools"])

    for {dtype, shape} <- [{"float32", {2, 3}}, {"uint8", {}}, {"int64", {0, 4}}, {"bool", {5}}] do
      n = Enum.product(Tuple.to_list(shape))
      numbers = if dtype == "bool", do: List.duplicate(true, n), else: Enum.take(1..100, n)
      {:ok, data} = DType.encode(numbers, dtype)
      tensor = %Tensor{data: data, dtype: dtype, shape: shape}

      assert {:ok, %{"type" => "ndarray", "dtype" => ^dtype, "shape" => back, "sum" => sum}} =
               Snakepit.execute("array", %{value: tensor})

      assert back == Tuple.to_list(shape)
      assert sum == if(dtype == "bool", do: 1.0 * n, else: 1.0 * Enum.sum(numbers))
    end

    data = :binary.copy(<<1.5::float-native-32>>, 100_000)
    tensor = %Tensor{data: data, dtype: "float32", shape: {100, 1000}}
    assert {:ok, %{"sum" => 150_000.0}} = Snakepit.execute("array", %{value: tensor})

    assert {:ok, %{"a" => [list]}} =
             Snakepit.execute("echo", %{value: %{a: [%{tensor | data: data}]}})

    assert is_list(list) or is_struct(list)
    assert {:error, _} = Snakepit.execute("array", %{value: %{tensor | shape: {7}}})
  end
end
