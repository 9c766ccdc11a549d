defmodule Snakepit.Telemetry.Dispatcher do
  @moduledoc false
  # What the package telemetry does, for where it is not installed: one term
  # that every process reads without asking another one, %{event => handlers}.
  # Handlers come and go rarely; whoever changes the term holds a lock.

  @table {__MODULE__, :handlers}
  @backend {__MODULE__, :backend}
  @failure [:telemetry, :handler, :failure]

  @doc "The module `:telemetry` where it is there, found once; else nil."
  @spec backend() :: module | nil
  def backend do
    case :persistent_term.get(@backend, :unknown) do
      :unknown -> find_backend()
      backend -> backend
    end
  end

  # Its handlers are in a table of its application's.
  defp find_backend do
    there? =
      Code.ensure_loaded?(:telemetry) and
        match?({:ok, _}, Application.ensure_all_started(:telemetry))

    backend = if there?, do: :telemetry
    :persistent_term.put(@backend, backend)
    backend
  end

  @spec handlers(list) :: [map]
  def handlers(event) do
    case :persistent_term.get(@table, nil) do
      nil -> []
      table -> Map.get(table, event, [])
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
    for {event, handlers} <- :persistent_term.get(@table, %{}),
        List.starts_with?(event, prefix),
        handler <- handlers,
        do: handler
  end

  defp known?(table, id) do
    Enum.any?(table, fn {_event, handlers} -> Enum.any?(handlers, &(&1.id == id)) end)
  end

  defp update(fun) do
    :global.trans(
      {__MODULE__, self()},
      fn ->
        before = :persistent_term.get(@table, %{})
        {result, table} = fun.(before)
        if table != before, do: :persistent_term.put(@table, table)
        result
      end,
      [node()]
    )
  end
end
