defmodule Snakepit.Telemetry.Handlers.Logger do
  @moduledoc """
  Logs the events of `Snakepit.Telemetry.Events.all_ml_events/0`: failures as warnings,
  the rest at level debug, in the category `:telemetry`.
  """

  alias Snakepit.Telemetry
  alias Snakepit.Telemetry.{DefaultHandlers, Events}

  @doc "Also when it is attached already."
  @spec attach() :: :ok
  def attach, do: DefaultHandlers.attach(__MODULE__, Events.all_ml_events())

  @doc "Also when it is not attached."
  @spec detach() :: :ok
  def detach do
    _ = Telemetry.detach({DefaultHandlers, __MODULE__})
    :ok
  end
end
