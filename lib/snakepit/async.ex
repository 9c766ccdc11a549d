defmodule Snakepit.Async do
  @moduledoc """
  A call that is under way: made by `Snakepit.async/3`, for `Snakepit.await/2`
  or `Snakepit.cancel/1` in the process that made it.
  """

  @enforce_keys [:owner, :ref]
  defstruct [:owner, :ref, :call, :request, :result]

  @typedoc "Its fields are not for others."
  @type t :: %__MODULE__{
          owner: pid,
          ref: reference,
          call: reference | nil,
          request: map | nil,
          result: {:ok, term} | {:error, term} | nil
        }
end
