defmodule Snakepit.Bridge.TelemetryToggle do
  @moduledoc "Whether a worker sends events: see `Snakepit.Telemetry.Control`."
  defstruct enabled: false
  @type t :: %__MODULE__{enabled: boolean}
end

defmodule Snakepit.Bridge.TelemetrySamplingUpdate do
  @moduledoc "How many events a worker sends: see `Snakepit.Telemetry.Control`."
  defstruct sampling_rate: 0.0, event_patterns: []
  @type t :: %__MODULE__{sampling_rate: float, event_patterns: [String.t()]}
end

defmodule Snakepit.Bridge.TelemetryEventFilter do
  @moduledoc "Which events a worker sends: see `Snakepit.Telemetry.Control`."
  defstruct allow: [], deny: []
  @type t :: %__MODULE__{allow: [String.t()], deny: [String.t()]}
end

defmodule Snakepit.Bridge.TelemetryControl do
  @moduledoc "What a worker is told on its telemetry stream: see `Snakepit.Telemetry.Control`."
  alias Snakepit.Bridge.{TelemetryEventFilter, TelemetrySamplingUpdate, TelemetryToggle}

  defstruct [:control]

  @type t :: %__MODULE__{
          control:
            {:toggle, TelemetryToggle.t()}
            | {:sampling, TelemetrySamplingUpdate.t()}
            | {:filter, TelemetryEventFilter.t()}
            | nil
        }

  @doc false
  @spec encode(t) :: binary
  def encode(%__MODULE__{control: {kind, value}}) do
    {:ok, bytes} =
      Snakepit.Native.message_encode(:TelemetryControl, %{kind => Map.from_struct(value)})

    bytes
  end
end
