defmodule Snakepit.Test.Events do
  @moduledoc false
  # Events as messages to the test.

  import ExUnit.Assertions

  alias Snakepit.Telemetry.{Catalog, SafeMetadata}
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
    assert wrong(name, measurements, metadata) == []
    Map.put(metadata, :measurements, measurements)
  end

  @doc "What of an event is not as the catalogue, and so the guide, has it."
  def wrong([:snakepit | _] = name, measurements, metadata) do
    case Catalog.fetch(name) do
      {:ok, entry} ->
        keys = for {key, unit} <- entry.measurements, do: if(is_list(unit), do: [key], else: key)
        of_python? = entry.group == :python

        differing(keys, measurements, of_python?) ++
          differing(entry.metadata, metadata, of_python?)

      :error ->
        [name]
    end
  end

  def wrong(_own, _measurements, _metadata), do: []

  # Keys in brackets may be absent; a tool may add others.
  defp differing(keys, map, of_python?) do
    missing = for key <- keys, not is_list(key), not is_map_key(map, key), do: {:missing, key}
    known = List.flatten(keys)

    more =
      for {key, _} <- map,
          key not in known and not (of_python? and of_a_tool?(key)),
          do: {:not_listed, key}

    missing ++ more
  end

  defp of_a_tool?(key), do: is_binary(key) or key in SafeMetadata.allowed_atom_keys()
end
