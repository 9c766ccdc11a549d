defmodule Snakepit.SessionHelpers do
  @moduledoc """
  Programs of a session, as older code uses them: a worker's tools
  `create_program` and `execute_program` (and others of that kind), whose
  programs are remembered in the session.

      {:ok, %{"program_id" => id}} =
        SessionHelpers.execute_program_command("s1", "create_program", %{code: "..."})

      SessionHelpers.execute_program_command("s1", "execute_program", %{program_id: id})
  """

  alias Snakepit.Bridge.SessionStore

  @doc """
  Runs `command` in the session.

    * `create_program` gets a `program_id` unless `args` has one; what was
      sent is stored in the session, and the answer has the id.
    * Any other command whose `args` name a stored program gets what was stored
      as `program_data`, so that a worker that did not make it can run it.
  """
  @spec execute_program_command(String.t(), String.t(), map) :: {:ok, term} | {:error, term}
  def execute_program_command(session_id, command, args) when is_map(args) do
    args = Map.new(args, fn {key, value} -> {to_string(key), value} end)

    with {:ok, _session} <- SessionStore.create_session(session_id) do
      run(session_id, to_string(command), args)
    end
  end

  defp run(session_id, "create_program" = command, args) do
    args = Map.put_new_lazy(args, "program_id", &new_id/0)

    with {:ok, answer} <- Snakepit.execute_in_session(session_id, command, args) do
      answer = if is_map(answer), do: answer, else: %{"result" => answer}
      answer = Map.put_new(answer, "program_id", args["program_id"])
      stored = SessionStore.store_program(session_id, answer["program_id"], args)
      with :ok <- stored, do: {:ok, answer}
    end
  end

  defp run(session_id, command, args) do
    Snakepit.execute_in_session(session_id, command, with_data(session_id, args))
  end

  defp with_data(session_id, %{"program_id" => id} = args)
       when not is_map_key(args, "program_data") do
    with {:error, :not_found} <- SessionStore.get_program(session_id, id),
         {:error, :not_found} <- SessionStore.get_global_program(id) do
      args
    else
      {:ok, data} -> Map.put(args, "program_data", data)
    end
  end

  defp with_data(_session_id, args), do: args

  defp new_id, do: "program_" <> Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)
end
