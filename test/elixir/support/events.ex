defmodule Snakepit.Test.Events do
  @moduledoc false
  # Events as messages to the test.

  import ExUnit.Assertions
  import ExUnit.Callbacks, only: [on_exit: 1]

  @patience 60_000

  @doc "Sends these events here until the test is over."
  def listen(events) do
    test = self()
    id = {__MODULE__, make_ref()}

    :ok =
      Snakepit.Telemetry.attach_many(
        id,
        events,
        fn event, measurements, metadata, _ ->
          send(test, {id, event, measurements, metadata})
        end,
        nil
      )

    on_exit(fn -> Snakepit.Telemetry.detach(id) end)
    id
  end

  @doc "The metadata (and with them the measurements) of the next one of this name."
  def event(id, name) do
    assert_receive {^id, ^name, measurements, metadata}, @patience
    Map.put(metadata, :measurements, measurements)
  end
end
