defmodule Snakepit.ErrorParserTest do
  use ExUnit.Case, async: true

  alias Snakepit.Error

  alias Snakepit.Error.{
    Device,
    DeviceMismatch,
    OutOfMemory,
    Parser,
    PythonException,
    Shape,
    ShapeMismatch
  }

  doctest Parser
  doctest Shape
  doctest Device
  doctest DeviceMismatch

  defp parsed(message, type \\ "RuntimeError") do
    assert {:ok, error} = Parser.parse(%{"type" => type, "message" => message})
    assert is_exception(error)
    assert is_binary(Exception.message(error))
    error
  end

  describe "out of memory" do
    test "of PyTorch, in its older and newer words" do
      old =
        "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 1; 15.78 GiB total capacity; " <>
          "13.20 GiB already allocated; 1.50 GiB free; 13.42 GiB reserved in total by PyTorch)"

      assert %OutOfMemory{device: {:cuda, 1}} = error = parsed(old)
      assert error.requested_bytes == 2 * 1024 ** 3
      assert error.available_bytes == div(3 * 1024 ** 3, 2)
      assert [_ | _] = error.suggestions
      assert Exception.message(error) =~ "2.00 GiB requested"

      new =
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of " <>
          "79.15 GiB of which 12.19 MiB is free. Including non-PyTorch memory, this process " <>
          "has 79.13 GiB memory in use."

      assert %OutOfMemory{device: {:cuda, 0}} = error = parsed(new, "OutOfMemoryError")
      assert error.requested_bytes == 20 * 1024 ** 2
      assert error.available_bytes == round(12.19 * 1024 ** 2)
    end

    test "of other devices, and without sizes" do
      assert %OutOfMemory{device: {:rocm, 0}} =
               parsed("HIP out of memory. Tried to allocate 1.00 GiB")

      assert %OutOfMemory{device: :mps, requested_bytes: bytes} =
               parsed(
                 "MPS backend out of memory (MPS allocated: 1.00 GB). Tried to allocate 256 MB"
               )

      assert bytes == 256 * 1024 ** 2

      assert %OutOfMemory{device: {:cuda, 0}, requested_bytes: 0, available_bytes: 0} =
               parsed("CUDA error: out of memory")
    end

    test "of JAX and TensorFlow" do
      text = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."

      assert %OutOfMemory{requested_bytes: 17_179_869_184} = parsed(text, "XlaRuntimeError")

      text =
        "OOM when allocating tensor with shape[64,512] and type float on " <>
          "/job:localhost/replica:0/task:0/device:GPU:2 by allocator GPU_2_bfc"

      assert %OutOfMemory{device: {:cuda, 2}} = parsed(text, "ResourceExhaustedError")
    end

    test "of the host" do
      text =
        "Unable to allocate 7.45 GiB for an array with shape (1000, 1000, 1000) and data type float64"

      assert %OutOfMemory{device: :cpu, requested_bytes: bytes} = parsed(text, "MemoryError")
      assert bytes == round(7.45 * 1024 ** 3)
      assert %OutOfMemory{device: :cpu, requested_bytes: 0} = parsed("", "MemoryError")
    end

    test "has other words too" do
      refute match?(%OutOfMemory{}, parsed("the buffer ran out of memory slots"))
      refute match?(%OutOfMemory{}, parsed("cannot allocate a name"))
    end
  end

  describe "devices" do
    test "of PyTorch" do
      text =
        "Expected all tensors to be on the same device, but found at least two devices, " <>
          "cuda:0 and cpu! (when checking argument for argument mat2 in method wrapper_CUDA_mm)"

      assert %DeviceMismatch{expected: {:cuda, 0}, got: :cpu} = error = parsed(text)
      assert error.operation == "wrapper_CUDA_mm"
      assert Exception.message(error) =~ "expected cuda:0, got cpu"
    end

    test "without an operation" do
      text = "tensors on different devices: mps and cuda:3"

      assert %DeviceMismatch{expected: :mps, got: {:cuda, 3}, operation: nil} =
               error = parsed(text)

      assert Exception.message(error) == "device mismatch: expected mps, got cuda:3"
    end

    test "that are one and the same, or only named, are no mismatch" do
      refute match?(%DeviceMismatch{}, parsed("same device cuda:0 and cuda:0"))
      refute match?(%DeviceMismatch{}, parsed("copied from cpu to cuda:0"))
    end
  end

  describe "shapes" do
    test "of NumPy" do
      text = "operands could not be broadcast together with shapes (2,3) (4,) "
      assert %ShapeMismatch{expected: [2, 3], got: [4], dimension: 1} = error = parsed(text)
      assert {error.expected_dim, error.got_dim} == {3, 4}

      text = "shapes (2,3) and (4,5) not aligned: 3 (dim 1) != 4 (dim 0)"
      assert %ShapeMismatch{expected: [2, 3], got: [4, 5]} = error = parsed(text)
      assert %{operation: "dot", dimension: 1, expected_dim: 3, got_dim: 4} = error
    end

    test "of PyTorch" do
      text = "mat1 and mat2 shapes cannot be multiplied (32x784 and 512x10)"
      assert %ShapeMismatch{operation: "matmul"} = error = parsed(text)
      assert %{expected: [32, 784], got: [512, 10]} = error
      assert %{dimension: 1, expected_dim: 784, got_dim: 512} = error

      text =
        "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1"

      assert %ShapeMismatch{expected: nil, dimension: 1} = error = parsed(text)
      assert {error.expected_dim, error.got_dim} == {3, 4}
    end

    test "of others" do
      assert %ShapeMismatch{expected: [2, 3], got: [3, 2]} =
               parsed("Incompatible shapes: [2,3] vs. [3,2] [Op:AddV2]")

      assert %ShapeMismatch{expected: [3, 224, 224], got: [3, 224, 225], dimension: 2} =
               parsed("shape mismatch: expected [3, 224, 224], got [3, 224, 225]", "ValueError")

      assert %ShapeMismatch{expected: [7, 8], got: [7, 9]} =
               error = parsed("Expected shape (7, 8) but got (7, 9)")

      # Numbers that are letters too.
      assert Exception.message(error) =~ "[7, 8]"
    end

    test "are read from text" do
      for {text, shape} <- [
            {"[3, 224, 224]", [3, 224, 224]},
            {"(10, 20)", [10, 20]},
            {"(4,)", [4]},
            {"( 4 , 5 )", [4, 5]},
            {"[-1, 3]", [-1, 3]},
            {"torch.Size([2, 3])", [2, 3]},
            {"[]", []},
            {"of shape (2,3) here", [2, 3]}
          ] do
        assert Parser.extract_shape(text) == shape, text
      end

      for nothing <- ["", "none", "[a, b]", "(1.5, 2)", "[1, 2", nil, 5, [1, 2], <<255, 0>>],
          do: assert(Parser.extract_shape(nothing) == nil, inspect(nothing))
    end
  end

  describe "other exceptions" do
    test "stay what Python raised, with its traceback" do
      for keys <- [&Function.identity/1, &String.to_atom/1] do
        map =
          Map.new(
            %{"type" => "ValueError", "message" => "bad", "traceback" => "Traceback ..."},
            fn {key, value} -> {keys.(key), value} end
          )

        assert {:ok, %Error.ValueError{} = error} = Parser.parse(map)
        assert {error.message, error.python_traceback} == {"bad", "Traceback ..."}
      end

      assert %PythonException{python_type: "MyError", python_traceback: nil} =
               parsed("mine", "MyError")
    end

    test "keep what else the worker said" do
      wire = %{
        "type" => "ModuleNotFoundError",
        "message" => "No module named 'x'",
        "bases" => ["ImportError", "Exception"],
        "context" => %{"tool_name" => "t"},
        "stacktrace" => ["a\n"]
      }

      assert {:ok, %Error.ImportError{context: %{"tool_name" => "t"}, stacktrace: ["a\n"]}} =
               Parser.parse(wire)
    end

    test "input of other kinds is refused" do
      for input <- [
            nil,
            "text",
            [],
            [type: "a", message: "b"],
            %{},
            %{"type" => "ValueError"},
            %{"message" => "m"},
            %{"type" => 1, "message" => "m"},
            %{"type" => "T", "message" => nil}
          ] do
        assert Parser.parse(input) == {:error, :invalid_input}
      end
    end
  end

  describe "gRPC errors" do
    test "carry JSON, a text with a class, or a plain text" do
      json = ~s({"type": "KeyError", "message": "'k'", "traceback": "tb"})

      for map <- [
            %{"message" => json},
            %{details: json},
            %{status: 13, message: json},
            %{details: %{"type" => "KeyError", "message" => "'k'", "traceback" => "tb"}},
            %{"type" => "KeyError", "message" => "'k'", "traceback" => "tb"}
          ] do
        assert {:ok, %Error.KeyError{message: "'k'", python_traceback: "tb"}} =
                 Parser.from_grpc_error(map)
      end

      assert {:ok, %Error.ValueError{message: "bad: worse"}} =
               Parser.from_grpc_error(%{message: "ValueError: bad: worse"})

      assert {:ok, %OutOfMemory{}} =
               Parser.from_grpc_error(%{
                 message: "torch.cuda.OutOfMemoryError: CUDA out of memory."
               })

      assert {:ok, %PythonException{message: "{not json"}} =
               Parser.from_grpc_error(%{message: "{not json"})

      assert {:ok, %PythonException{message: "[1]"}} = Parser.from_grpc_error(%{details: "[1]"})
    end

    test "without any text are refused" do
      for input <- [nil, "text", [], %{}, %{status: 13}, %{details: 5}, %{message: nil}],
          do: assert(Parser.from_grpc_error(input) == {:error, :invalid_input})
    end
  end

  describe "constructors" do
    setup do
      test = self()
      id = {__MODULE__, make_ref()}

      events = for kind <- [:shape_mismatch, :device, :oom], do: [:snakepit, :error, kind]

      handler = fn event, measurements, metadata, pid ->
        if self() == pid, do: send(pid, {event, measurements, metadata})
      end

      :ok = Snakepit.Telemetry.attach_many(id, events, handler, test)
      on_exit(fn -> Snakepit.Telemetry.detach(id) end)
    end

    test "tell of a shape once each" do
      error = Shape.shape_mismatch([3, 224], [3, 225], "conv")
      assert %{dimension: 1, expected_dim: 224, got_dim: 225, operation: "conv"} = error

      assert_received {[:snakepit, :error, :shape_mismatch], %{},
                       %{expected: [3, 224], got: [3, 225], dimension: 1, operation: "conv"}}

      assert %{dimension: nil} = Shape.shape_mismatch([1], [1], "same")
      assert_received {[:snakepit, :error, :shape_mismatch], _, %{dimension: nil}}

      assert %{expected: nil, dimension: 0} = Shape.dimension_mismatch(0, 2, 3, "add")
      assert_received {[:snakepit, :error, :shape_mismatch], _, %{dimension: 0}}

      assert %{dimension: 0, expected_dim: 4} = Shape.broadcast_error([4, 3], [2, 3], "add")
      assert_received {[:snakepit, :error, :shape_mismatch], _, %{operation: "add"}}
      refute_received {_, _, _}
    end

    test "tell of a device once each" do
      error = Device.device_mismatch({:cuda, 0}, :cpu, "matmul")
      assert %DeviceMismatch{expected: {:cuda, 0}, got: :cpu, operation: "matmul"} = error

      assert_received {[:snakepit, :error, :device], %{},
                       %{expected_device: {:cuda, 0}, actual_device: :cpu, operation: "matmul"}}

      error = Device.device_unavailable(:mps, "to")
      assert %DeviceMismatch{expected: :mps, got: nil} = error
      assert Exception.message(error) =~ "mps is not available"
      assert_received {[:snakepit, :error, :device], _, %{expected_device: :mps}}
      refute_received {_, _, _}
    end

    test "tell of memory once each" do
      error = Device.out_of_memory({:cuda, 1}, 1024, 10, "forward")
      assert %OutOfMemory{device: {:cuda, 1}, requested_bytes: 1024, available_bytes: 10} = error
      assert error.operation == "forward"
      assert Enum.all?(error.suggestions, &is_binary/1)
      assert Exception.message(error) =~ "1.00 KiB requested, 10 bytes available"

      assert_received {[:snakepit, :error, :oom], %{requested_bytes: 1024, available_bytes: 10},
                       %{device: {:cuda, 1}, operation: "forward"}}

      assert Device.out_of_memory(:cpu, 1, 0).operation == nil
      assert_received {[:snakepit, :error, :oom], _, %{device: :cpu}}
      refute_received {_, _, _}
    end
  end

  test "all of them can be raised" do
    for error <- [
          Shape.shape_mismatch([1], [2], "a"),
          Device.device_mismatch(:cpu, :mps, "a"),
          Device.out_of_memory(:cpu, 1, 0)
        ] do
      assert_raise error.__struct__, Exception.message(error), fn -> raise error end
    end

    assert Exception.message(%ShapeMismatch{}) =~ "shape mismatch"
    assert Exception.message(%DeviceMismatch{}) =~ "device mismatch"
    assert Exception.message(%OutOfMemory{device: :cpu}) =~ "out of memory"
  end

  # Texts from a worker may be anything: no input raises or takes long.
  test "nonsense is parsed as something" do
    :rand.seed(:exsss, {1, 2, 3})
    words = ["CUDA", "out of memory", "shapes (", "(2,3)", "cuda:", "cpu", "[", ",", "1", "\n"]

    words =
      words ++ ["GPU 99999999999", "Tried to allocate", "1e9 GiB", "..", <<0xFF>>, "Error: "]

    for _ <- 1..500 do
      text = Enum.map_join(1..:rand.uniform(12), " ", fn _ -> Enum.random(words) end)
      assert is_exception(parsed(text))
      assert {:ok, _} = Parser.from_grpc_error(%{message: text})
    end

    assert is_exception(parsed(String.duplicate("(1,", 20_000)))
    assert is_exception(parsed("expected shape " <> String.duplicate("[1,", 20_000)))
  end
end
