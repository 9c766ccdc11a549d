defmodule Downstream.Errors do
  @moduledoc """
  What went wrong, in this library's own terms.
  """

  defmodule PythonError do
    @moduledoc false
    defexception [:type, :message, :traceback, :context]

    @type t :: %__MODULE__{
            type: String.t(),
            message: String.t(),
            traceback: String.t() | nil,
            context: map
          }
  end

  @exceptions [
    Snakepit.Error.PythonException,
    Snakepit.Error.ValueError,
    Snakepit.Error.KeyError,
    Snakepit.Error.IndexError,
    Snakepit.Error.TypeError,
    Snakepit.Error.AttributeError,
    Snakepit.Error.ImportError,
    Snakepit.Error.RuntimeError,
    Snakepit.Error.NotImplementedError,
    Snakepit.Error.FileNotFoundError,
    Snakepit.Error.PermissionError,
    Snakepit.Error.ZeroDivisionError
  ]

  @spec translate(term) :: PythonError.t() | Snakepit.Error.t() | term
  def translate(%Snakepit.Error{details: %{reason: %_{} = reason}}), do: translate(reason)

  def translate(%module{python_type: type} = error) when module in @exceptions do
    %PythonError{
      type: type,
      message: error.message,
      traceback: error.python_traceback,
      context: error.context
    }
  end

  def translate(other), do: other

  @spec invalid(String.t(), map) :: Snakepit.Error.t()
  def invalid(message, details), do: Snakepit.Error.validation_error(message, details)
end
