defmodule Snakepit.PythonThreadLimitsTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv

  alias Snakepit.{Config, PythonThreadLimits}
  alias Snakepit.GRPCWorker.Launch

  doctest PythonThreadLimits

  test "nothing is the defaults" do
    for nothing <- [nil, %{}, []],
        do: assert(PythonThreadLimits.resolve(nothing) == PythonThreadLimits.defaults())

    assert PythonThreadLimits.defaults() |> Map.values() |> Enum.uniq() == [1]
  end

  test "maps and keyword lists, texts and numbers, with either kind of key" do
    for limits <- [%{openblas: 3}, [openblas: 3], %{openblas: "3"}, %{"openblas" => " 3 "}] do
      assert PythonThreadLimits.resolve(limits) ==
               %{PythonThreadLimits.defaults() | openblas: 3}
    end
  end

  test "what makes no sense is dropped" do
    for value <- [0, -1, 1.5, "x", "3x", "", nil, :many],
        do: assert(PythonThreadLimits.resolve(omp: value) == PythonThreadLimits.defaults())

    assert PythonThreadLimits.resolve(gpu: 3) == PythonThreadLimits.defaults()
    assert PythonThreadLimits.resolve("openblas=3") == PythonThreadLimits.defaults()
  end

  test "workers get what is configured, else the variable of the BEAM, else 1" do
    put_env(python_executable: "/bin/sh", python_thread_limits: [omp: 3, grpc_poll_threads: 2])
    put_system_env(%{"OMP_NUM_THREADS" => "5", "MKL_NUM_THREADS" => "7"})
    put_system_env(%{"OPENBLAS_NUM_THREADS" => nil})

    env = environment(%{name: :p})
    assert env["OMP_NUM_THREADS"] == "3"
    assert env["MKL_NUM_THREADS"] == "7"
    assert env["OPENBLAS_NUM_THREADS"] == "1"

    # A pool's own environment, and its threads, are nearer than both.
    assert environment(%{name: :p, adapter_env: %{"OMP_NUM_THREADS" => "9"}})["OMP_NUM_THREADS"] ==
             "9"

    threads = %{name: :p, worker_profile: :thread, threads_per_worker: 4}
    assert environment(threads)["OMP_NUM_THREADS"] == "4"
  end

  defp environment(config) do
    config = Config.normalize_pool_config(config)
    {:ok, spec, _} = Launch.build("w", config.adapter_module, config)
    Map.new(spec.env)
  end
end
