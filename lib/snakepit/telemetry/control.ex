defmodule Snakepit.Telemetry.Control do
  @moduledoc """
  The messages by which a worker is told which events to send, as they go over its
  telemetry stream. `Snakepit.Telemetry.GrpcStream` sends them.
  """

  alias Snakepit.Bridge.{
    TelemetryControl,
    TelemetryEventFilter,
    TelemetrySamplingUpdate,
    TelemetryToggle
  }

  @doc """
  Events at all or not.

      iex> Snakepit.Telemetry.Control.toggle(true).control
      {:toggle, %Snakepit.Bridge.TelemetryToggle{enabled: true}}
  """
  @spec toggle(boolean) :: TelemetryControl.t()
  def toggle(enabled) when is_boolean(enabled),
    do: %TelemetryControl{control: {:toggle, %TelemetryToggle{enabled: enabled}}}

  @doc """
  That share of the events whose dotted names match one of the glob patterns; of
  all events without patterns, whatever was said before. All events of one call, by
  its correlation id, are sent or none.

      iex> Snakepit.Telemetry.Control.sampling(0.5, ["python.*"]).control
      {:sampling,
       %Snakepit.Bridge.TelemetrySamplingUpdate{sampling_rate: 0.5, event_patterns: ["python.*"]}}
  """
  @spec sampling(number, [String.t()]) :: TelemetryControl.t()
  def sampling(rate, patterns \\ []) when is_number(rate) and rate >= 0 and rate <= 1 do
    sampling = %TelemetrySamplingUpdate{sampling_rate: rate / 1, event_patterns: patterns}
    %TelemetryControl{control: {:sampling, sampling}}
  end

  @doc """
  Only events that match one of the `:allow` patterns (all, without any) and none of
  the `:deny` patterns.

      iex> Snakepit.Telemetry.Control.filter(deny: ["python.memory.*"]).control
      {:filter, %Snakepit.Bridge.TelemetryEventFilter{allow: [], deny: ["python.memory.*"]}}
  """
  @spec filter(keyword) :: TelemetryControl.t()
  def filter(opts \\ []) do
    filter = %TelemetryEventFilter{allow: opts[:allow] || [], deny: opts[:deny] || []}
    %TelemetryControl{control: {:filter, filter}}
  end
end
