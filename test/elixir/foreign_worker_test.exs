defmodule Snakepit.ForeignWorkerTest do
  # Workers that are programs of the user's: one that knows the protocol alone,
  # and a command handler. What each of their answers becomes.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.Error.PythonException

  @patience 60_000

  for {module, file} <- [Foreign: "foreign_worker.py", Words: "words_program.py"] do
    defmodule Module.concat(__MODULE__, module) do
      @behaviour Snakepit.Adapter
      @file_name file
      @impl true
      def executable_path do
        {:ok, path, _} = Snakepit.PythonRuntime.resolve_executable()
        path
      end

      @impl true
      def script_path, do: Path.expand("support/python/#{@file_name}", __DIR__)
      @impl true
      def script_args, do: []
      @impl true
      def uses_grpc?, do: true
    end
  end

  defp start(adapter) do
    start_pools(adapter_module: adapter, adapter_args: nil, transport: :grpc, prefork: false)
  end

  defp run(tool, args \\ %{}), do: Snakepit.execute(tool, args, timeout: @patience)

  defp stream(tool) do
    test = self()
    Snakepit.execute_stream(tool, %{}, &send(test, {:chunk, &1}), timeout: @patience)
  end

  describe "a worker that knows only the protocol" do
    setup do: start(__MODULE__.Foreign)

    test "values under any URL" do
      assert {:ok, 5} = run("any:5")
      assert {:ok, [1, nil]} = run("any:[1, null]")
      assert {:ok, "text"} = run("packed:text")
      assert {:ok, ""} = run("packed:")
      assert {:ok, "not json"} = run("any:not json")
      assert {:ok, nil} = run("nothing")
      assert {:ok, {:binary, "bytes"}} = run("binary:bytes")
    end

    test "each status" do
      assert {:error, %Error{category: :timeout, details: %{reason: :timeout}}} = run("status:4")

      for {status, name} <- [
            {2, :unknown},
            {3, :invalid_argument},
            {5, :not_found},
            {7, :permission_denied},
            {8, :resource_exhausted},
            {12, :unimplemented},
            {13, :internal},
            {14, :unavailable},
            {16, :unauthenticated}
          ] do
        assert {:error, %Error{category: :grpc_error} = error} = run("status:#{status}")
        assert error.details.reason == name
        assert error.grpc_status == name
        assert error.message =~ "status #{status}"
      end
    end

    test "each form of a failure" do
      assert {:error, %Error.KeyError{message: "k"} = error} = run("failure:structured")
      assert %{python_traceback: "T", stacktrace: ["T"], python_type: "KeyError"} = error
      assert {:error, %Error.KeyError{python_traceback: nil, frames: []}} = run("failure:bare")

      for kind <- ~w(no_type number cut text empty) do
        assert {:error, %Error{category: :worker}} = run("failure:#{kind}")
      end

      assert {:error, %Error{message: "it did not work"}} = run("failure:text")
    end

    test "a report that is not as it should be" do
      assert {:error, %PythonException{python_type: "OddError", message: "m"} = error} =
               run("failure:odd")

      assert %{bases: [], cause: nil, notes: [], attributes: %{}, stacktrace: []} = error
      assert error.context == %{}
      assert [%{line: 0, file: _, function: _, code: nil}] = error.frames
      assert {:error, %{__exception__: true}} = run("failure:deep")
    end

    test "streams" do
      assert {:error, %Error.KeyError{message: "k"}} = stream("failure:structured")
      assert_received {:chunk, %{"n" => 1}}

      for kind <- ~w(no_type cut text),
          do: assert({:error, %Error{category: :grpc_error}} = stream("failure:#{kind}"))

      assert {:error, %Error{category: :timeout}} = stream("status:4")
      assert {:error, %Error{grpc_status: :not_found}} = stream("status:5")
      # One that has no last chunk is over, too.
      assert :ok = stream("ends")

      for {data, chunk} <- [
            {"[1]", %{"data" => [1]}},
            {"not json", %{"raw_data_base64" => Base.encode64("not json")}},
            {"", %{}}
          ] do
        chunk = Map.put(chunk, "is_final", true)
        assert :ok = stream("data:#{data}")
        assert_received {:chunk, ^chunk}
      end
    end
  end

  test "a command handler as a program" do
    start(__MODULE__.Words)
    assert {:ok, %{"result" => "SNAKE"}} = run("uppercase", %{text: "snake"})

    assert {:ok, %{"word_count" => 3, "char_count" => 5, "unique_words" => 2}} =
             run("word_count", %{text: "a b a"})

    assert {:error, %Error.AttributeError{message: text}} = run("upercase")
    assert text =~ "did you mean 'uppercase'"
  end
end
