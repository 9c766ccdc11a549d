defmodule Snakepit.Error.ShapeMismatch do
  @moduledoc """
  Tensors whose shapes do not fit an operation. Made by `Snakepit.Error.Shape`
  and `Snakepit.Error.Parser`.

    * `:expected`, `:got` - the shapes, or nil where unknown
    * `:dimension` - the first axis that differs, counted from 0, or nil
    * `:expected_dim`, `:got_dim` - the sizes there
    * `:operation` - what was to be done, e.g. `"matmul"`
  """

  @type t :: %__MODULE__{
          message: String.t(),
          expected: [integer] | nil,
          got: [integer] | nil,
          dimension: non_neg_integer | nil,
          expected_dim: integer | nil,
          got_dim: integer | nil,
          operation: String.t() | nil
        }

  defexception [:message, :expected, :got, :dimension, :expected_dim, :got_dim, :operation]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message
  def message(error), do: describe(error)

  @doc false
  @spec describe(map) :: String.t()
  def describe(error) do
    shapes = "expected #{text(error.expected)}, got #{text(error.got)}"
    operation = if error.operation, do: " in #{error.operation}", else: ""
    "shape mismatch#{operation}: #{shapes}#{axis(error)}"
  end

  defp axis(%{dimension: nil}), do: ""

  defp axis(error) do
    " (dimension #{error.dimension}: expected #{text(error.expected_dim)}, " <>
      "got #{text(error.got_dim)})"
  end

  # Never as a charlist: [7, 8] is a shape.
  defp text(nil), do: "unknown"
  defp text(value), do: inspect(value, charlists: :as_lists)
end
