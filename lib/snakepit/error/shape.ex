defmodule Snakepit.Error.Shape do
  @moduledoc """
  Makes `Snakepit.Error.ShapeMismatch` errors. Each emits
  `[:snakepit, :error, :shape_mismatch]` with `expected`, `got`, `dimension` and
  `operation` as metadata.
  """

  alias Snakepit.Error.ShapeMismatch
  alias Snakepit.Telemetry

  @type shape :: [integer]

  @doc """
  Two shapes that should be the same; finds the first dimension that differs.

      iex> error = Snakepit.Error.Shape.shape_mismatch([3, 224, 224], [3, 224, 225], "conv2d")
      iex> {error.dimension, error.expected_dim, error.got_dim}
      {2, 224, 225}

  Of different length, that is where the shorter one ends:

      iex> Snakepit.Error.Shape.shape_mismatch([2, 3], [2], "add").dimension
      1
  """
  @spec shape_mismatch(shape, shape, String.t() | nil) :: ShapeMismatch.t()
  def shape_mismatch(expected, got, operation) when is_list(expected) and is_list(got) do
    dimension = differing(expected, got, 0)

    finish(%ShapeMismatch{
      expected: expected,
      got: got,
      dimension: dimension,
      expected_dim: dimension && Enum.at(expected, dimension),
      got_dim: dimension && Enum.at(got, dimension),
      operation: operation
    })
  end

  @doc "One dimension, counted from 0, that has the wrong size; the whole shapes are not known."
  @spec dimension_mismatch(non_neg_integer, integer, integer, String.t() | nil) ::
          ShapeMismatch.t()
  def dimension_mismatch(dimension, expected_dim, got_dim, operation) do
    error = %ShapeMismatch{
      dimension: dimension,
      expected_dim: expected_dim,
      got_dim: got_dim,
      operation: operation
    }

    finish(
      error,
      "dimension #{dimension} of #{operation}: expected #{expected_dim}, got #{got_dim}"
    )
  end

  @doc """
  Two shapes that cannot be broadcast together (from the last dimension on, each
  pair must be equal or contain a 1). The dimension is counted in the longer one.

      iex> error = Snakepit.Error.Shape.broadcast_error([4, 3], [2], "add")
      iex> {error.dimension, error.expected_dim, error.got_dim}
      {1, 3, 2}
  """
  @spec broadcast_error(shape, shape, String.t() | nil) :: ShapeMismatch.t()
  def broadcast_error(shape1, shape2, operation) when is_list(shape1) and is_list(shape2) do
    rank = max(length(shape1), length(shape2))

    clash =
      [Enum.reverse(shape1), Enum.reverse(shape2)]
      |> Enum.zip()
      |> Enum.find_index(fn {a, b} -> a != b and a != 1 and b != 1 end)

    error = %ShapeMismatch{
      expected: shape1,
      got: shape2,
      dimension: clash && rank - 1 - clash,
      expected_dim: clash && Enum.at(shape1, -1 - clash),
      got_dim: clash && Enum.at(shape2, -1 - clash),
      operation: operation
    }

    shapes =
      "#{inspect(shape1, charlists: :as_lists)} and #{inspect(shape2, charlists: :as_lists)}"

    finish(error, "shapes #{shapes} cannot be broadcast together in #{operation}")
  end

  defp differing([a | as], [a | bs], n), do: differing(as, bs, n + 1)
  defp differing([], [], _n), do: nil
  defp differing(_as, _bs, n), do: n

  @doc false
  @spec finish(map, String.t() | nil) :: ShapeMismatch.t()
  def finish(error, text \\ nil) do
    metadata = Map.take(error, [:expected, :got, :dimension, :operation])
    Telemetry.execute([:snakepit, :error, :shape_mismatch], %{}, metadata)
    %{error | message: text || ShapeMismatch.describe(error)}
  end
end
