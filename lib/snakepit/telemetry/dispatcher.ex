defmodule Snakepit.Telemetry.Dispatcher do
  @moduledoc false
  # What the package telemetry does, for where it is not installed: one term
  # that every process reads without asking another one, %{event => handlers}.
  # Handlers come and go rarely; whoever changes the term holds a lock.

  import Bitwise

  @compile {:no_warn_undefined, [:telemetry, :telemetry_handler_table]}

  # Under this key: the module telemetry where it is there, else that map.
  @key __MODULE__
  # Under this one: what of calls anybody listens to, as bits; where the package has
  # to be asked, what it last said: see asked/1.
  @calls {__MODULE__, :calls}

  # Bit 0: anything. 1: that they start. 2: Python's calls. 3: its tools. 4: what has
  # their correlation ids.
  @call_bits (for event <- Snakepit.Telemetry.Catalog.calls() do
                bits =
                  case event do
                    [:snakepit, :python, :call, _] -> 0b00101
                    [:snakepit, :python, :tool | _] -> 0b01001
                    [:snakepit, :pool, :call, :dispatched] -> 0b00011
                    [:snakepit, :pool, :queue, :dequeued] -> 0b10011
                    [:snakepit, :grpc_worker, _, :start] -> 0b10011
                    [:snakepit, :grpc, :call, :start] -> 0b10011
                    [:snakepit, :grpc, :stream, :opened] -> 0b10011
                    [:snakepit, :request, :executed] -> 0b00001
                    [:snakepit, :worker, :request] -> 0b00001
                    _ -> 0b10001
                  end

                {event, bits}
              end)
  @failure [:telemetry, :handler, :failure]

  @doc "The module `:telemetry` where it is there, else nil."
  @spec backend() :: module | nil
  def backend do
    case :persistent_term.get(@key, nil) do
      table when is_map(table) -> nil
      nil -> find_backend()
      module -> module
    end
  end

  # Its handlers are in a table of its application's.
  defp find_backend do
    there? =
      Code.ensure_loaded?(:telemetry) and
        match?({:ok, _}, Application.ensure_all_started(:telemetry))

    :global.trans({@key, self()}, fn -> settle(there?) end, [node()])
  end

  # Whoever comes second finds what the first has put there.
  defp settle(there?) do
    case :persistent_term.get(@key, nil) do
      nil ->
        :persistent_term.put(@calls, if(there?, do: :atomics.new(1, signed: false), else: 0))
        :persistent_term.put(@key, if(there?, do: :telemetry, else: %{}))
        if there?, do: :telemetry

      table when is_map(table) ->
        nil

      module ->
        module
    end
  end

  @doc "What of calls anybody listens to: the bits that Snakepit.Telemetry.calls/0 has."
  @spec calls() :: 0..31
  def calls do
    case :persistent_term.get(@calls, nil) do
      known when is_integer(known) -> known
      nil -> if backend() == nil, do: :persistent_term.get(@calls, 0), else: calls()
      cache -> asked(cache)
    end
  end

  # Each call would have to look for twenty events. So the answer holds while the
  # package has as many handlers, for some milliseconds at most: one may have come
  # while another one went. It lies in one word: time, number, answer.
  @table :telemetry_handler_table

  defp asked(cache) do
    time = System.monotonic_time(:millisecond) >>> 3 &&& 0x3FFFFFFF
    known = :atomics.get(cache, 1)

    key = time <<< 24 ||| (number() &&& 0xFFFFFF)
    if known >>> 5 == key, do: known &&& 31, else: ask(cache, key)
  end

  # Since 1.4 the package's table has no name, and after persist/0 it is a map. What is
  # not known at all counts as none: then the time is what limits the answer.
  defp number do
    case :persistent_term.get(:telemetry, nil) do
      {_module, handlers} -> counted(handlers)
      {_module, _list, handlers} -> counted(handlers)
      _ -> size(@table)
    end
  end

  defp counted(map) when is_map(map), do: map_size(map)
  defp counted(table), do: size(table)

  defp size(table) do
    case :ets.info(table, :size) do
      size when is_integer(size) -> size
      :undefined -> 0
    end
  rescue
    # That is no table at all.
    ArgumentError -> 0
  end

  defp ask(cache, key) do
    bits = call_bits(&listened?/1)
    :atomics.put(cache, 1, key <<< 5 ||| bits)
    bits
  end

  defp call_bits(listened?) do
    for {event, bits} <- @call_bits, listened?.(event), reduce: 0 do
      all -> all ||| bits
    end
  end

  @doc "Whether the package telemetry has a handler of the event."
  @spec listened?(list) :: boolean
  # What it does itself before it calls handlers. Its list_handlers/1 takes time
  # that grows with the number of all handlers.
  def listened?(event) do
    @table.list_for_event(event) != []
  rescue
    UndefinedFunctionError -> :telemetry.list_handlers(event) != []
  end

  @spec handlers(list) :: [map]
  def handlers(event) do
    case :persistent_term.get(@key, nil) do
      %{^event => handlers} -> handlers
      _ -> []
    end
  end

  @spec execute(list, map, map) :: :ok
  def execute(event, measurements, metadata) do
    for handler <- handlers(event), do: call(handler, event, measurements, metadata)
    :ok
  end

  defp call(handler, event, measurements, metadata) do
    handler.function.(event, measurements, metadata, handler.config)
  catch
    kind, reason -> failed(handler, event, kind, reason, __STACKTRACE__)
  end

  # It would fail each time.
  defp failed(handler, event, kind, reason, stacktrace) do
    _ = detach(handler.id)

    Snakepit.Logger.error(:telemetry, fn ->
      "telemetry handler #{inspect(handler.id)} failed and was detached: " <>
        Exception.format(kind, reason, stacktrace)
    end)

    if event != @failure do
      execute(
        @failure,
        %{monotonic_time: System.monotonic_time(), system_time: System.system_time()},
        %{
          event_name: event,
          handler_id: handler.id,
          handler_config: handler.config,
          kind: kind,
          reason: reason,
          stacktrace: stacktrace
        }
      )
    end
  end

  @spec attach_many(term, [list], function, term) :: :ok | {:error, :already_exists}
  def attach_many(id, events, function, config) do
    update(fn table ->
      if known?(table, id) do
        {{:error, :already_exists}, table}
      else
        {:ok, Enum.reduce(Enum.uniq(events), table, &put(&2, &1, id, function, config))}
      end
    end)
  end

  defp put(table, event, id, function, config) do
    handler = %{id: id, event_name: event, function: function, config: config}
    Map.update(table, event, [handler], &(&1 ++ [handler]))
  end

  @spec detach(term) :: :ok | {:error, :not_found}
  def detach(id) do
    update(fn table ->
      if known?(table, id) do
        {:ok,
         for {event, handlers} <- table,
             left = Enum.reject(handlers, &(&1.id == id)),
             left != [],
             into: %{} do
           {event, left}
         end}
      else
        {{:error, :not_found}, table}
      end
    end)
  end

  @spec list_handlers([atom]) :: [map]
  def list_handlers(prefix) do
    for {event, handlers} <- table(),
        List.starts_with?(event, prefix),
        handler <- handlers,
        do: handler
  end

  defp table do
    case :persistent_term.get(@key, nil) do
      table when is_map(table) -> table
      _ -> %{}
    end
  end

  defp known?(table, id) do
    Enum.any?(table, fn {_event, handlers} -> Enum.any?(handlers, &(&1.id == id)) end)
  end

  defp put(table) do
    :persistent_term.put(@key, table)
    :persistent_term.put(@calls, call_bits(&is_map_key(table, &1)))
  end

  defp update(fun) do
    :global.trans(
      {@key, self()},
      fn ->
        before = table()
        {result, table} = fun.(before)
        if table != before, do: put(table)
        result
      end,
      [node()]
    )
  end
end
