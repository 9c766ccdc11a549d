defmodule Snakepit.PythonThreadLimits do
  @moduledoc """
  How many threads the numeric libraries of a worker may start.

      config :snakepit, python_thread_limits: [openblas: 2, omp: 2]

  A limit that is not set follows the variable of the BEAM's own environment,
  and is 1 without one: with a worker per core, more threads than that only
  get in each other's way. Workers of the thread profile get as many threads as
  `threads_per_worker` says.

  `:grpc_poll_threads` is known for the sake of older configurations; gRPC has
  no setting that it could be given to.
  """

  @type t :: %{
          optional(:openblas) => pos_integer,
          optional(:omp) => pos_integer,
          optional(:mkl) => pos_integer,
          optional(:numexpr) => pos_integer,
          optional(:grpc_poll_threads) => pos_integer
        }

  @defaults %{openblas: 1, omp: 1, mkl: 1, numexpr: 1, grpc_poll_threads: 1}
  @keys Map.new(@defaults, fn {key, _} -> {Atom.to_string(key), key} end)

  @variables %{
    openblas: ["OPENBLAS_NUM_THREADS"],
    omp: ["OMP_NUM_THREADS"],
    mkl: ["MKL_NUM_THREADS"],
    numexpr: ["NUMEXPR_NUM_THREADS"]
  }

  @doc """
  The limits without any configuration.

      iex> Snakepit.PythonThreadLimits.defaults().openblas
      1
  """
  @spec defaults() :: t
  def defaults, do: @defaults

  @doc """
  The defaults with `limits` over them. Numbers may be texts; unknown keys, and
  values that are no positive numbers, are dropped.

      iex> limits = Snakepit.PythonThreadLimits.resolve(omp: "4", mkl: "many", gpu: 9)
      iex> {limits.omp, limits.mkl, Map.has_key?(limits, :gpu)}
      {4, 1, false}
  """
  @spec resolve(nil | map | keyword) :: t
  def resolve(limits), do: Map.merge(@defaults, explicit(limits))

  @doc false
  # The variables of those limits that are configured.
  @spec environment() :: %{String.t() => String.t()}
  def environment do
    limits = explicit(Application.get_env(:snakepit, :python_thread_limits))

    for {key, count} <- limits, name <- Map.get(@variables, key, []), into: %{} do
      {name, Integer.to_string(count)}
    end
  end

  defp explicit(limits) when is_map(limits) or is_list(limits) do
    for {key, value} <- limits,
        known = Map.get(@keys, to_string(key)),
        count = count(value),
        into: %{},
        do: {known, count}
  end

  defp explicit(_none), do: %{}

  defp count(value) when is_integer(value) and value > 0, do: value

  defp count(value) when is_binary(value) do
    case Integer.parse(String.trim(value)) do
      {count, ""} when count > 0 -> count
      _ -> nil
    end
  end

  defp count(_other), do: nil
end
