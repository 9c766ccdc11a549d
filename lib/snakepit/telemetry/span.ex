defmodule Snakepit.Telemetry.Span do
  @moduledoc """
  Events at the begin and the end of something:

      Snakepit.Telemetry.Span.span([:my_app, :training], %{model: "m"}, fn -> train() end)

  tells `event ++ [:start]` with `system_time` and `monotonic_time`, and `[:stop]` or
  `[:exception]` with `duration` and `monotonic_time` (in `:native` units). An
  exception has `kind`, `reason` and `stacktrace` in its metadata.
  """

  alias Snakepit.Telemetry

  @type event :: [atom]
  @type metadata :: map
  @type span_ref :: %{event: event, start_time: integer, metadata: metadata}

  @doc "Runs the function between the two events, and returns what it returns."
  @spec span(event, metadata, (() -> result)) :: result when result: term
  def span(event, metadata, fun) when is_function(fun, 0) do
    ref = start_span(event, metadata)

    try do
      fun.()
    catch
      kind, reason ->
        end_span_exception(ref, kind, reason, __STACKTRACE__)
        :erlang.raise(kind, reason, __STACKTRACE__)
    else
      result ->
        end_span(ref)
        result
    end
  end

  @doc "Tells the begin."
  @spec start_span(event, metadata) :: span_ref
  def start_span(event, metadata \\ %{}) do
    now = System.monotonic_time()
    measurements = %{system_time: System.system_time(), monotonic_time: now}
    Telemetry.execute(event ++ [:start], measurements, metadata)
    %{event: event, start_time: now, metadata: metadata}
  end

  @doc "Tells the end."
  @spec end_span(span_ref, metadata) :: :ok
  def end_span(ref, extra_metadata \\ %{}),
    do: ended(ref, :stop, Map.merge(ref.metadata, extra_metadata))

  @doc "Tells that it failed."
  @spec end_span_exception(span_ref, :error | :exit | :throw, term, Exception.stacktrace()) :: :ok
  def end_span_exception(ref, kind, reason, stacktrace) do
    failure = %{kind: kind, reason: reason, stacktrace: stacktrace}
    ended(ref, :exception, Map.merge(ref.metadata, failure))
  end

  defp ended(ref, what, metadata) do
    now = System.monotonic_time()
    measurements = %{duration: now - ref.start_time, monotonic_time: now}
    Telemetry.execute(ref.event ++ [what], measurements, metadata)
  end
end
