defmodule Snakepit.Telemetry.SafeMetadata do
  @moduledoc """
  Metadata and measurements that come from workers: keys that are known become
  atoms, others stay texts. No atom is ever made of what a worker says.
  """

  alias Snakepit.Telemetry.Naming

  @keys [
    :adapter_module,
    :call_type,
    :command,
    :correlation_id,
    :device,
    :direction,
    :dtype,
    :error_category,
    :error_message,
    :error_type,
    :exit_code,
    :failure_reason,
    :function,
    :grpc_status,
    :idempotent,
    :is_final,
    :kind,
    :library,
    :mode,
    :model,
    :new_pid,
    :node,
    :operation,
    :payload_version,
    :planned,
    :pool_name,
    :previous_pid,
    :python_pid,
    :python_port,
    :python_type,
    :reason,
    :result,
    :retry,
    :retry_count,
    :rpc_method,
    :session_id,
    :shape,
    :size,
    :stream_id,
    :timeout_ms,
    :timestamp_ns,
    :tool,
    :traceback,
    :worker_id,
    :worker_module,
    :worker_pid
  ]

  @by_text Map.new(@keys, &{Atom.to_string(&1), &1})

  @doc "The keys that become atoms."
  @spec allowed_atom_keys() :: [atom]
  def allowed_atom_keys, do: @keys

  @doc """
  Known keys as atoms.

      iex> Snakepit.Telemetry.SafeMetadata.sanitize(%{"tool" => "predict", "colour" => "red"})
      {:ok, %{:tool => "predict", "colour" => "red"}}
  """
  @spec sanitize(map) :: {:ok, map}
  def sanitize(metadata) when is_map(metadata), do: {:ok, keyed(metadata, @by_text)}

  @doc """
  The same, and the context, which is ours and wins.

      iex> Snakepit.Telemetry.SafeMetadata.enrich(%{"tool" => "predict"}, node: :n)
      {:ok, %{tool: "predict", node: :n}}
  """
  @spec enrich(map, keyword) :: {:ok, map}
  def enrich(python_metadata, context) when is_map(python_metadata) do
    {:ok, python_metadata |> keyed(@by_text) |> Map.merge(Map.new(context))}
  end

  @doc """
  Both maps, the second one winning; keys are kept as they are.

      iex> Snakepit.Telemetry.SafeMetadata.merge(%{"a" => 1}, %{b: 2})
      {:ok, %{"a" => 1, :b => 2}}
  """
  @spec merge(map, map) :: {:ok, map}
  def merge(one, other) when is_map(one) and is_map(other), do: {:ok, Map.merge(one, other)}

  @doc """
  Measurements with atoms for keys, all of which have to be known.

      iex> Snakepit.Telemetry.SafeMetadata.measurements(%{"duration" => 5})
      {:ok, %{duration: 5}}
      iex> Snakepit.Telemetry.SafeMetadata.measurements(%{"colour" => 5})
      {:error, {:unknown_measurement_key, "colour"}}
  """
  @spec measurements(map) :: {:ok, map} | {:error, {:unknown_measurement_key, term}}
  def measurements(map) when is_map(map) do
    Enum.reduce_while(map, {:ok, %{}}, fn {key, value}, {:ok, known} ->
      case Naming.measurement_key(key) do
        {:ok, atom} -> {:cont, {:ok, Map.put(known, atom, value)}}
        {:error, _} -> {:halt, {:error, {:unknown_measurement_key, key}}}
      end
    end)
  end

  @doc false
  # `more` are keys, by their texts, that are known besides.
  @spec keyed(map, %{String.t() => atom}) :: map
  def keyed(map, known),
    do: Map.new(map, fn {key, value} -> {Map.get(known, key, key), value} end)

  @doc false
  @spec known() :: %{String.t() => atom}
  def known, do: @by_text
end
