defmodule Snakepit.ZeroCopy.Handles do
  @moduledoc false
  # What a handle's ref holds, and the rows of those that were made here:
  # {token, owner, facts, origin}. A row goes when its
  # handle is closed or nobody has it any more, whatever happens to its owner:
  # the ref holds a guard, of which Snakepit.ETSOwner hears.

  alias Snakepit.{ETSOwner, Native, ZeroCopyRef}

  @table :snakepit_zero_copy_handles

  @typedoc "What a handle was made of: that term, its bytes, or a tensor of them."
  @type origin :: {:term, term} | :bytes | :tensor

  @doc """
  A ref that holds `data`, or nil when there is nothing that could be handed over.
  """
  @spec new(binary | nil, origin, map) ::
          {:ok, reference} | {:error, :zero_copy_unavailable}
  def new(data, origin, facts) do
    case Process.whereis(ETSOwner) do
      nil ->
        {:error, :zero_copy_unavailable}

      owner ->
        token = Base.url_encode64(:crypto.strong_rand_bytes(18))
        guard = Native.guard_new(owner, token)
        _ = ETSOwner.ensure_table(@table)
        true = :ets.insert(@table, {token, self(), facts, origin})
        {:ok, Native.handle_new({data, token, guard})}
    end
  end

  @doc "What it holds, and what it is called on the other side."
  @spec fetch(ZeroCopyRef.t()) ::
          {:ok, binary | nil, token :: String.t() | nil} | {:error, :zero_copy_handle_not_found}
  def fetch(%ZeroCopyRef{ref: ref}) do
    case Native.handle_get(ref) do
      {:ok, {data, token, _guard}} -> {:ok, data, token}
      :closed -> {:error, :zero_copy_handle_not_found}
    end
  rescue
    # It is made up, or of another VM.
    ArgumentError -> {:error, :zero_copy_handle_not_found}
  end

  @doc "What a handle that was made here was made of, also when it comes back from a worker."
  @spec origin(String.t() | nil) :: origin | :unknown
  def origin(nil), do: :unknown

  def origin(token) do
    case :ets.lookup(@table, token) do
      [{_token, _owner, _facts, origin}] -> origin
      [] -> :unknown
    end
  rescue
    # There is no table: the application does not run.
    ArgumentError -> :unknown
  end

  @doc "Lets go of what it holds. Not an error when that was done before."
  @spec close(ZeroCopyRef.t()) :: :ok | {:error, :zero_copy_handle_not_found}
  def close(%ZeroCopyRef{ref: ref}) do
    case Native.handle_close(ref) do
      {:ok, {_data, token, guard}} when guard != nil ->
        :ok = Native.guard_disarm(guard)
        forget(token)

      {:ok, _from_a_worker} ->
        :ok

      :closed ->
        :ok
    end
  rescue
    ArgumentError -> {:error, :zero_copy_handle_not_found}
  end

  @doc "Removes a row."
  @spec forget(String.t()) :: :ok
  def forget(token) do
    _ = :ets.whereis(@table) != :undefined and :ets.delete(@table, token)
    :ok
  rescue
    ArgumentError -> :ok
  end

  @doc "How many of those that were made here are alive."
  @spec count() :: non_neg_integer
  def count do
    case :ets.info(@table, :size) do
      :undefined -> 0
      size -> size
    end
  end
end
