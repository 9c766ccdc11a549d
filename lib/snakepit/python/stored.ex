defmodule Snakepit.Python.Stored do
  @moduledoc false
  # Snakepit.Python for adapters that have tools `call`, `store` and `retrieve`: what
  # names stand for and what they keep is theirs.

  alias Snakepit.Bridge.WorkerTools
  alias Snakepit.{Error, Pool}
  alias Snakepit.Pool.Targets

  @doc """
  Whether the adapter's own `call` is meant: for what is stored, and where the pool
  does not allow any Python but its adapter has that tool.
  """
  @spec meant?(term, keyword) :: boolean
  def meant?("stored." <> _, _opts), do: true

  def meant?(target, opts) when is_binary(target) do
    case Targets.find(opts[:pool_name] || opts[:pool]) do
      {:ok, %{python_calls: false, name: pool}} -> WorkerTools.offered?(pool, "call")
      _ -> false
    end
  end

  def meant?(_ref, _opts), do: false

  @spec call(String.t(), list, map, keyword) :: {:ok, term} | {:error, Snakepit.error()}
  def call(target, args, kwargs, opts) do
    {store_as, opts} = Keyword.pop(opts, :store_as)
    params = %{"target" => target, "args" => args, "kwargs" => kwargs}

    with :ok <- name(store_as, :optional),
         do:
           run(
             "call",
             if(store_as, do: Map.put(params, "store_as", store_as), else: params),
             opts
           )
  end

  @spec store(term, term, keyword) :: :ok | {:error, Snakepit.error()}
  def store(id, value, opts) do
    with :ok <- name(id, :required),
         {:ok, _} <- run("store", %{"id" => id, "value" => value}, opts),
         do: :ok
  end

  @spec retrieve(term, keyword) :: {:ok, term} | {:error, Snakepit.error()}
  def retrieve(id, opts) do
    with :ok <- name(id, :required), do: run("retrieve", %{"id" => id}, opts)
  end

  defp run(tool, params, opts), do: Pool.execute(tool, params, Keyword.drop(opts, [:return, :in]))

  defp name(nil, :optional), do: :ok
  defp name(name, _) when is_binary(name) and name != "", do: :ok

  defp name(other, _) do
    message = "the name of a stored object is a text, not #{inspect(other, limit: 5)}"
    {:error, Error.validation_error(message, %{reason: :invalid_name})}
  end
end
