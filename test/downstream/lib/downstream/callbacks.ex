defmodule Downstream.Callbacks do
  @moduledoc """
  Elixir functions that Python calls.
  """

  @tool "snakebridge.callback"

  @doc "For a session: from now on its calls may call `fun` back."
  @spec enable(String.t(), (term -> term)) :: :ok | {:error, term}
  def enable(session_id, fun) do
    with :ok <- running(),
         {:ok, _session} <- Snakepit.Bridge.SessionStore.create_session(session_id) do
      metadata = %{
        description: "Calls a function of the caller's",
        exposed_to_python: true,
        parameters: [%{name: "value", type: "any", required: true}]
      }

      handler = fn %{"value" => value} -> fun.(value) end

      case Snakepit.Bridge.ToolRegistry.register_elixir_tool(session_id, @tool, handler, metadata) do
        :ok -> :ok
        {:error, {:duplicate_tool, _}} -> :ok
        {:error, _} = error -> error
      end
    end
  end

  defp running do
    names = [Snakepit.Bridge.ToolRegistry, Snakepit.Bridge.SessionStore]
    if Enum.all?(names, &Process.whereis/1), do: :ok, else: {:error, :snakepit_not_running}
  end
end
