defmodule Snakepit.ErrorTest do
  use ExUnit.Case, async: true

  alias Snakepit.Error
  alias Snakepit.Error.PythonException

  doctest Error

  test "constructors make what they say" do
    assert %Error{category: :worker, message: "m", details: %{}} = Error.worker_error("m")
    assert %Error{category: :timeout, details: %{a: 1}} = Error.timeout_error("m", %{a: 1})
    assert %Error{category: :pool} = Error.pool_error("m")
    assert %Error{category: :validation} = Error.validation_error("m")

    assert %Error{category: :grpc_error, grpc_status: :unavailable, message: "gone"} =
             Error.grpc_error(:unavailable, "gone")

    error = Error.python_error("ValueError", "bad", "tb", %{x: 1})
    assert error.details == %{x: 1, exception_type: "ValueError"}
    assert error.python_traceback == "tb"
  end

  test "is an exception" do
    assert_raise Error, "m", fn -> raise Error.pool_error("m") end
    assert Exception.message(Error.pool_error("m")) == "m"
  end

  test "any reason becomes public" do
    context = %{command: "c", pool: :p}

    for {reason, category} <- [
          {:timeout, :timeout},
          {:queue_timeout, :timeout},
          {:pool_saturated, :pool},
          {{:a, :tuple}, :pool},
          {{:worker_exit, 1}, :worker},
          {"text", :worker},
          {%{a: 1}, :worker}
        ] do
      assert {:error, %Error{category: ^category, details: details}} =
               Error.normalize_public_result({:error, reason}, context)

      assert %{command: "c", pool: :p} = details
      assert Map.has_key?(details, :reason)
    end

    done = Error.pool_error("as it is")
    assert Error.normalize_public_error(done, context) == done
    assert Error.normalize_public_result({:ok, 1}, context) == {:ok, 1}
  end

  describe "exceptions of Python" do
    test "have a struct each" do
      for name <- ~w(ValueError KeyError IndexError TypeError AttributeError ImportError
                     RuntimeError NotImplementedError FileNotFoundError PermissionError
                     ZeroDivisionError) do
        error = PythonException.from_wire(%{"type" => name, "message" => "m"})
        assert error.__struct__ == Module.concat(Error, name)
        assert Exception.message(error) == "m"
        assert error.python_type == name
      end
    end

    test "else are the nearest base, else the general one" do
      found = %{"type" => "ModuleNotFoundError", "message" => "m", "bases" => ["ImportError"]}
      assert %Error.ImportError{} = error = PythonException.from_wire(found)
      assert error.python_type == "ModuleNotFoundError"

      mine = %{"type" => "MyError", "message" => "m", "bases" => ["Exception"]}
      assert %PythonException{python_type: "MyError"} = error = PythonException.from_wire(mine)
      assert Exception.message(error) == "MyError: m"
    end

    test "keep traceback and context" do
      error =
        PythonException.from_wire(%{
          "type" => "KeyError",
          "message" => "'k'",
          "stacktrace" => ["a\n", "b\n"],
          "context" => %{"tool_name" => "t"}
        })

      assert error.stacktrace == ["a\n", "b\n"]
      assert error.python_traceback == "a\nb\n"
      assert error.context == %{"tool_name" => "t"}
    end

    test "stand what a worker should not send" do
      error =
        PythonException.from_wire(%{
          "type" => "X",
          "message" => 1,
          "stacktrace" => %{},
          "context" => 2,
          "bases" => [3]
        })

      assert %PythonException{message: "1", stacktrace: [], context: %{}} = error
    end
  end
end
