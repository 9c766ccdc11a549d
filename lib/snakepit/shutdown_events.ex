defmodule Snakepit.ShutdownEvents do
  @moduledoc false
  # The events of clean-ups and scripts, which may come when nothing else of
  # the application runs any more.

  @telemetry Snakepit.Telemetry

  @doc "Emits `[:snakepit | event]`. Handlers never change how a shutdown goes."
  @spec emit([atom], map, map) :: :ok
  def emit(event, measurements, metadata) do
    if Code.ensure_loaded?(@telemetry) and function_exported?(@telemetry, :execute, 3) do
      _ = apply(@telemetry, :execute, [[:snakepit | event], measurements, metadata])
    end

    :ok
  rescue
    error ->
      Snakepit.Logger.error(:telemetry, "#{inspect(event)}: #{Exception.message(error)}")
  end

  @doc "Of `count` processes of this run."
  @spec emit_count([atom], non_neg_integer, String.t()) :: :ok
  def emit_count(event, count, run_id) do
    emit(event, %{count: count}, %{
      beam_run_id: run_id,
      timestamp: System.system_time(:millisecond)
    })
  end
end
