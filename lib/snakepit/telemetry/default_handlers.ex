defmodule Snakepit.Telemetry.DefaultHandlers do
  @moduledoc false
  # Events as log lines.

  alias Snakepit.{Logger, Telemetry}

  @failures [
    :exception,
    :failed,
    :spawn_failed,
    :crash,
    :tainted,
    :timeout,
    :saturated,
    :heartbeat_timeout,
    :monitor_failure,
    :health_check_failed,
    :accumulation_warning,
    :exhausted
  ]

  @spec attach(atom, [Telemetry.event_name()]) :: :ok
  def attach(what, events) do
    case Telemetry.attach_many({__MODULE__, what}, events, &__MODULE__.log/4, nil) do
      :ok -> :ok
      {:error, :already_exists} -> :ok
    end
  end

  @doc false
  @spec log([atom], map, map, term) :: :ok
  def log(event, measurements, metadata, _config) do
    text = fn ->
      "#{Enum.join(event, ".")} #{inspect(measurements)} #{inspect(metadata, limit: 20)}"
    end

    if List.last(event) in @failures,
      do: Logger.warning(:telemetry, text),
      else: Logger.debug(:telemetry, text)
  end
end
