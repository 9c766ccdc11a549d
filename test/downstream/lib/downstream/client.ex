defmodule Downstream.Client do
  @moduledoc """
  Calls of Python functions, with objects that stay in the worker.
  """

  @type ref :: %{required(String.t()) => term}
  @type result :: {:ok, term} | {:error, term}

  @spec call(String.t(), String.t(), list, keyword) :: result
  def call(module, function, args \\ [], opts \\ []) do
    payload =
      payload(opts)
      |> Map.merge(%{
        "call_type" => "function",
        "library" => module |> String.split(".") |> hd(),
        "python_module" => module,
        "function" => function,
        "args" => args,
        "kwargs" => Keyword.get(opts, :kwargs, %{}),
        "idempotent" => Keyword.get(opts, :idempotent, false)
      })

    execute("snakebridge.call", payload, opts)
  end

  @doc "Keeps the result in the worker and gives a reference to it."
  @spec instantiate(String.t(), String.t(), list, keyword) :: {:ok, ref} | {:error, term}
  def instantiate(module, class, args, opts) do
    payload =
      payload(opts)
      |> Map.merge(%{
        "call_type" => "class",
        "library" => module,
        "python_module" => module,
        "function" => class,
        "args" => args,
        "kwargs" => %{}
      })

    execute("snakebridge.call", payload, opts)
  end

  @spec call_method(ref, String.t(), list, keyword) :: result
  def call_method(ref, method, args, opts) do
    payload =
      payload(opts)
      |> Map.merge(%{
        "call_type" => "method",
        "instance" => ref,
        "function" => method,
        "args" => args,
        "kwargs" => %{}
      })

    execute("snakebridge.call", payload, opts)
  end

  @spec release_ref(ref, keyword) :: result
  def release_ref(ref, opts),
    do: execute("snakebridge.release_ref", Map.put(payload(opts), "ref", ref), opts)

  @spec release_session(String.t(), keyword) :: result
  def release_session(session_id, opts \\ []) do
    opts = Keyword.put(opts, :session_id, session_id)
    execute("snakebridge.release_session", payload(opts), opts)
  end

  @spec helpers(keyword) :: result
  def helpers(opts \\ []), do: execute("snakebridge.helpers", payload(opts), opts)

  @doc "Elements as they come; for an adapter that cannot stream, all at once."
  @spec stream(String.t(), String.t(), list, (term -> term), keyword) :: :ok | {:error, term}
  def stream(module, function, args, callback, opts \\ []) do
    payload =
      payload(opts)
      |> Map.merge(%{
        "call_type" => "stream",
        "python_module" => module,
        "function" => function,
        "args" => args
      })

    result =
      client().execute_stream("snakebridge.stream", payload, &chunk(&1, callback), options(opts))

    case result do
      {:error, %Snakepit.Error{category: :validation, message: message}} = error ->
        if String.contains?(message, "Streaming not supported"),
          do: all_at_once(module, function, args, callback, opts),
          else: error

      other ->
        other
    end
  end

  defp chunk(%{"is_final" => true} = chunk, _callback) when map_size(chunk) == 1, do: :ok
  defp chunk(%{"data" => value}, callback), do: callback.(value)

  defp chunk(%{} = chunk, callback) do
    case Map.drop(chunk, ["is_final", "_metadata"]) do
      rest when map_size(rest) == 0 -> :ok
      rest -> callback.(rest)
    end
  end

  defp all_at_once(module, function, args, callback, opts) do
    with {:ok, values} when is_list(values) <- call(module, function, args, opts) do
      Enum.each(values, callback)
    end
  end

  # ---- both ---------------------------------------------------------------

  defp payload(opts) do
    %{
      "protocol_version" => 1,
      "min_supported_version" => 1,
      "session_id" => Keyword.get(opts, :session_id)
    }
  end

  defp execute(command, payload, opts) do
    case client().execute(command, payload, options(opts)) do
      {:ok, value} -> {:ok, decode(value)}
      {:error, reason} -> {:error, Downstream.Errors.translate(reason)}
    end
  end

  # Our own options are left in: snakepit ignores those that it does not know.
  defp options(opts) do
    opts
    |> Keyword.put_new(:timeout, 60_000)
    |> Keyword.put_new(:timeout_profile, :default)
    |> Keyword.put_new(:stream_timeout, 1_800_000)
    |> Keyword.delete(:kwargs)
  end

  defp decode(%{} = value) do
    if Snakepit.Serialization.unserializable?(value) do
      {:ok, info} = Snakepit.Serialization.unserializable_info(value)
      {:unserializable, info.type, info.repr}
    else
      value
    end
  end

  defp decode(value), do: value

  # Dialyzer and the compiler shall not know it: it is replaced in tests.
  defp client, do: Application.get_env(:downstream, :runtime_client, Snakepit)
end
