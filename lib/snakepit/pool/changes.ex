defmodule Snakepit.Pool.Changes do
  @moduledoc false
  # For those who want to know when pools come or go, or begin or cease to serve:
  # they are told that something is so, and look for themselves.

  @message :snakepit_pools_changed

  @doc false
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec(_arg), do: Registry.child_spec(keys: :duplicate, name: __MODULE__)

  @doc "This process gets `:snakepit_pools_changed` from now on."
  @spec listen() :: :ok
  def listen do
    _ = Process.whereis(__MODULE__) && Registry.register(__MODULE__, :pools, nil)
    :ok
  end

  @doc "Returns after at least one of them; more that have come are the same one."
  @spec await() :: :ok
  def await do
    receive do
      @message -> flush()
    end
  end

  defp flush do
    receive do
      @message -> flush()
    after
      0 -> :ok
    end
  end

  @spec tell() :: :ok
  def tell do
    listeners = if Process.whereis(__MODULE__), do: Registry.lookup(__MODULE__, :pools), else: []

    Enum.each(listeners, fn {pid, _} -> send(pid, @message) end)
  end
end
