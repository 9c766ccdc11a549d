defmodule Snakepit.Test.AppEnv do
  @moduledoc false
  # Configuration of one test. What was there before is put back.

  import ExUnit.Callbacks, only: [on_exit: 1]

  @doc "Sets (nil: removes) keys of :snakepit until the test is over."
  def put_env(settings) do
    before = Application.get_all_env(:snakepit)
    on_exit(fn -> restore(before) end)

    for {key, value} <- settings do
      if value == nil,
        do: Application.delete_env(:snakepit, key),
        else: Application.put_env(:snakepit, key, value)
    end

    :ok
  end

  @doc "The same for environment variables."
  def put_system_env(variables) do
    before = Map.new(variables, fn {name, _} -> {name, System.get_env(name)} end)
    on_exit(fn -> set(before) end)
    set(variables)
  end

  defp set(variables) do
    for {name, value} <- variables do
      if value == nil, do: System.delete_env(name), else: System.put_env(name, value)
    end

    :ok
  end

  defp restore(before) do
    for {key, _} <- Application.get_all_env(:snakepit), do: Application.delete_env(:snakepit, key)
    Application.put_all_env(snakepit: before)
  end
end
