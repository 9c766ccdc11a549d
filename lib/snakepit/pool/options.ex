defmodule Snakepit.Pool.Options do
  @moduledoc false
  # Options of a call that mean nothing here are ignored: other packages pass
  # their own through. Only the debug log says so.

  alias Snakepit.Logger

  @known [
    :affinity,
    :binary_parameters,
    :correlation_id,
    :deadline_ms,
    :idempotent,
    :inputs,
    :pool,
    :pool_name,
    :queue_timeout,
    :raw_chunks,
    :session_id,
    :thread_sensitive,
    :timeout
  ]

  @spec note(keyword) :: :ok
  def note([]), do: :ok
  def note([{key, _value} | rest]) when key in @known, do: note(rest)

  def note([{key, _value} | rest]) do
    Logger.debug(:pool, fn -> "the option #{inspect(key)} of a call is not known, and ignored" end)

    note(rest)
  end

  def note(_other), do: :ok
end
