defmodule Snakepit.Pool.Options do
  @moduledoc false
  # Options of a call that mean nothing here are ignored: other packages pass
  # their own through. Only the debug log says so.

  alias Snakepit.{Error, Logger}
  alias Snakepit.Pool.{CallError, Targets}

  @known [
    :affinity,
    :binary_parameters,
    :correlation_id,
    :deadline_ms,
    :idempotent,
    :inputs,
    :pool,
    :pool_name,
    :queue_timeout,
    :raw_chunks,
    :session_id,
    :thread_sensitive,
    :timeout
  ]

  @doc "As a list; `command` is for the error."
  @spec list(term, term) :: {:ok, keyword} | {:error, Error.t()}
  def list(nil, _command), do: {:ok, []}

  def list(opts, command) when is_map(opts) and not is_struct(opts),
    do: pairs(Map.to_list(opts), command)

  def list(opts, command), do: pairs(opts, command)

  defp pairs(opts, command),
    do: if(pairs?(opts), do: {:ok, opts}, else: {:error, refused(opts, command)})

  defp pairs?([{_key, _value} | rest]), do: pairs?(rest)
  defp pairs?(rest), do: rest == []

  defp refused(opts, command) do
    context =
      case Targets.find(nil) do
        {:ok, target} -> CallError.context(target, command)
        {:error, _reason, _name} -> %{command: command, pool: nil, pool_name: nil}
      end

    Error.validation_error(
      "options are a keyword list or a map, not #{inspect(opts, limit: 5, printable_limit: 200)}",
      Map.put(context, :reason, :invalid_call)
    )
  end

  @doc "With a session, whatever they are."
  @spec in_session(term, term) :: term
  def in_session(opts, session_id) when is_map(opts) and not is_struct(opts),
    do: Map.put(opts, :session_id, session_id)

  def in_session(opts, session_id) when is_list(opts), do: [{:session_id, session_id} | opts]
  def in_session(nil, session_id), do: [session_id: session_id]
  def in_session(opts, _session_id), do: opts

  @spec note(keyword) :: :ok
  def note([]), do: :ok
  def note([{key, _value} | rest]) when key in @known, do: note(rest)

  def note([{key, _value} | rest]) do
    Logger.debug(:pool, fn -> "the option #{inspect(key)} of a call is not known, and ignored" end)

    note(rest)
  end

  def note(_other), do: :ok
end
