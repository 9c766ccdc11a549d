defmodule Downstream.Telemetry do
  @moduledoc """
  Tells a process what happens, and emits events around calls of our own.
  """

  @events [
    [:snakepit, :python, :call, :start],
    [:snakepit, :python, :call, :stop],
    [:snakepit, :python, :call, :exception],
    [:snakepit, :script, :shutdown, :start],
    [:snakepit, :script, :shutdown, :stop],
    [:snakepit, :script, :shutdown, :cleanup],
    [:snakepit, :script, :shutdown, :exit],
    [:snakepit, :pool, :call, :dispatched]
  ]

  @spec attach(term, pid) :: :ok | {:error, :already_exists}
  def attach(id, pid), do: telemetry().attach_many(id, @events, &__MODULE__.handle/4, pid)

  @spec detach(term) :: :ok | {:error, :not_found}
  def detach(id), do: telemetry().detach(id)

  @doc false
  def handle(event, measurements, metadata, pid), do: send(pid, {event, measurements, metadata})

  @spec around((() -> result), map) :: result when result: term
  def around(fun, metadata) do
    started = System.monotonic_time()
    emit(:start, %{system_time: System.system_time()}, metadata)
    result = fun.()
    emit(:stop, %{duration: System.monotonic_time() - started}, metadata)
    result
  end

  defp emit(what, measurements, metadata),
    do: telemetry().execute([:snakepit, :python, :call, what], measurements, metadata)

  # The package where it is a dependency; this project has none.
  defp telemetry, do: Enum.find([:telemetry, Snakepit.Telemetry], &Code.ensure_loaded?/1)
end
