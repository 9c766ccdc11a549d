defmodule Snakepit.ETSOwner do
  @moduledoc """
  Owns the ETS tables that parts of Snakepit share, so that they outlive
  whoever uses them. It runs whether or not pooling is enabled.
  """

  use GenServer

  alias Snakepit.ZeroCopy.Handles

  @type table_name :: :snakepit_worker_taints | :snakepit_zero_copy_handles

  @tables [:snakepit_worker_taints, :snakepit_zero_copy_handles]
  @options [:named_table, :public, :set, read_concurrency: true]

  @doc false
  @spec start_link(term) :: GenServer.on_start()
  def start_link(_arg), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Makes the table unless it is there. Raises an `ArgumentError` for a name that
  is none of `t:table_name/0`, and a `RuntimeError` when Snakepit is not running.
  """
  @spec ensure_table(table_name) :: table_name
  def ensure_table(name) when name in @tables do
    if :ets.whereis(name) == :undefined, do: GenServer.call(__MODULE__, {:ensure, name})
    name
  catch
    :exit, _ ->
      raise RuntimeError,
            "no owner for the ETS table #{inspect(name)}: the application :snakepit is not running"
  end

  def ensure_table(name) do
    raise ArgumentError,
          "unknown ETS table #{inspect(name)}: the tables are " <>
            Enum.map_join(@tables, ", ", &inspect/1)
  end

  @impl true
  def init(nil), do: {:ok, nil}

  # Several may have seen that it is not there.
  @impl true
  def handle_call({:ensure, name}, _from, state) do
    _ = :ets.whereis(name) == :undefined and :ets.new(name, @options)
    {:reply, name, state}
  end

  # A handle that nobody has any more: see Snakepit.ZeroCopy.Handles.
  @impl true
  def handle_info({:snakepit_guard, token}, state) do
    :ok = Handles.forget(token)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}
end
