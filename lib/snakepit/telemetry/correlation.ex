defmodule Snakepit.Telemetry.Correlation do
  @moduledoc """
  Ids that join what Elixir and Python tell of one call.

  A call has the id of its `:correlation_id`, of the call that it was made from, or
  a new one. It is in the metadata of the call's events on both sides, in the
  worker's log, and `snakepit_bridge.telemetry.get_correlation_id()` in the tool.
  """

  @doc "A new one."
  @spec new_id() :: String.t()
  def new_id, do: "sp-" <> Base.encode16(:crypto.strong_rand_bytes(12), case: :lower)

  @doc """
  The id, or a new one where there is none.

      iex> Snakepit.Telemetry.Correlation.ensure("a")
      "a"
      iex> Snakepit.Telemetry.Correlation.ensure("") != ""
      true
  """
  @spec ensure(String.t() | nil) :: String.t()
  def ensure(id) when is_binary(id) and id != "", do: id
  def ensure(_none), do: new_id()
end
