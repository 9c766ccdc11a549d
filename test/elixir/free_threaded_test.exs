defmodule Snakepit.FreeThreadedTest do
  # On the interpreter that SNAKEPIT_TEST_FREE_THREADED_PYTHON names; where it names
  # none, test_helper.exs says that these are left out.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Bridge.{SessionStore, ToolRegistry}
  alias Snakepit.Pool.Registry, as: Workers

  @moduletag :capture_log
  @patience 60_000
  @threads 4

  defp start(settings) do
    start_pools([transport: :local, prefork: false] ++ settings)
  end

  defp start_threads do
    start(
      python_executable: System.fetch_env!("SNAKEPIT_TEST_FREE_THREADED_PYTHON"),
      pools: [
        %{name: :default, pool_size: 1, worker_profile: :thread, threads_per_worker: @threads}
        |> Map.merge(Map.new(Keyword.take(defaults(), [:adapter_env])))
        |> Map.merge(%{
          transport: :local,
          adapter_args: ["--adapter", "free_threaded_tools.Tools"]
        })
      ]
    )
  end

  defp free_threaded do
    [id] = Snakepit.list_workers()
    {:ok, metadata} = Workers.get_worker_metadata(id)
    metadata.free_threaded
  end

  defp at_once(count, fun) do
    1..count
    |> Enum.map(&Task.async(fn -> fun.(&1) end))
    |> Task.await_many(@patience)
  end

  defp items(command, args),
    do: for(%{"data" => item} <- Snakepit.stream(command, args), do: item)

  test "a worker's metadata say whether its threads share a lock" do
    start(python_calls: true)

    assert {:ok, has_lock} =
             Snakepit.Python.eval("getattr(__import__('sys'), '_is_gil_enabled', lambda: True)()")

    assert free_threaded() == not has_lock
  end

  describe "without a global lock" do
    @describetag :free_threaded

    # What `mix compile` does with SNAKEPIT_PYTHON.
    setup do
      python = System.fetch_env!("SNAKEPIT_TEST_FREE_THREADED_PYTHON")
      app = Application.app_dir(:snakepit)
      make = System.find_executable("gmake") || System.find_executable("make")
      arguments = ["-s", "-C", "c_src", "extension", "MIX_APP_PATH=#{app}", "PYTHON=#{python}"]
      assert {_output, 0} = System.cmd(make, arguments, stderr_to_stdout: true)
      names = app |> Path.join("ebin/_snakepit_native*.so") |> Path.wildcard()
      assert Enum.any?(names, &(Path.basename(&1) =~ ~r/\.cpython-\d+td?-/))
      :ok
    end

    test "the worker comes by shared memory, and the lock stays off" do
      start_threads()
      assert Snakepit.execute("has_lock", %{}) == {:ok, false}
      assert free_threaded()
    end

    test "threads compute at the same time" do
      start_threads()

      call = fn _ ->
        Snakepit.execute("spin_together", %{parties: @threads}, timeout: @patience)
      end

      threads = for {:ok, thread} <- at_once(@threads, call), do: thread
      assert threads |> Enum.uniq() |> length() == @threads
    end

    test "calls both ways, streams and inputs in all threads" do
      start_threads()
      session = "free-threaded-#{System.unique_integer([:positive])}"
      {:ok, _} = SessionStore.create_session(session)

      :ok =
        ToolRegistry.register_elixir_tool(session, "same", & &1["value"], %{
          exposed_to_python: true
        })

      results =
        at_once(16, fn n ->
          value = %{"n" => n, "list" => Enum.to_list(1..n), "text" => String.duplicate("ü", n)}

          for _ <- 1..25 do
            assert Snakepit.execute("echo", %{value: value}) == {:ok, value}
            assert Snakepit.execute_in_session(session, "ask", %{value: value}) == {:ok, value}
            assert Snakepit.execute("total", %{}, inputs: 1..n) == {:ok, div(n * (n + 1), 2)}
            assert items("count", %{to: n}) == Enum.to_list(0..(n - 1))
          end

          n
        end)

      assert results == Enum.to_list(1..16)
    end

    test "a thread that spins is interrupted, and the others go on" do
      start_threads()
      path = signal_path()
      spinning = Snakepit.async("spin", %{path: path}, timeout: @patience)
      await_file(path)
      assert Snakepit.execute("echo", %{value: 1}) == {:ok, 1}
      assert :ok = Snakepit.cancel(spinning)
      # The thread is free again: all are needed.
      call = fn _ ->
        Snakepit.execute("spin_together", %{parties: @threads}, timeout: @patience)
      end

      assert [_, _, _, _] = for({:ok, thread} <- at_once(@threads, call), do: thread)
    end

    test "in the process profile as well" do
      start(python_executable: System.fetch_env!("SNAKEPIT_TEST_FREE_THREADED_PYTHON"))
      assert {:ok, _pid} = Snakepit.execute("pid", %{})
      assert free_threaded()
    end
  end
end
