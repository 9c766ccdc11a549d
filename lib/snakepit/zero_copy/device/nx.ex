defmodule Snakepit.ZeroCopy.Device.Nx do
  @moduledoc false
  # Nx backends that give pointers. Nx is found at run time or not at all.

  @behaviour Snakepit.ZeroCopy.Device

  alias Snakepit.ZeroCopy.DType

  @impl true
  def export(%{__struct__: Nx.Tensor, type: type, shape: shape} = tensor, :cuda) do
    with true <- has?(:to_pointer, 2),
         {:ok, dtype} <- DType.name(type),
         {:ok, %{kind: :ipc, handle: handle, data_size: bytes}} when is_binary(handle) <-
           pointer(tensor) do
      {:ok, %{dtype: dtype, shape: shape, bytes: bytes, handle: handle, metadata: %{}}}
    else
      _ -> {:error, :not_available}
    end
  end

  def export(_term, _device), do: {:error, :not_available}

  # A backend without pointers says so by an exception.
  defp pointer(tensor) do
    {:ok, apply(Nx, :to_pointer, [tensor, [mode: :ipc]])}
  rescue
    _ -> :error
  end

  @impl true
  def import(memory, :cuda, opts) do
    # Nx's pointer is to the beginning of an allocation.
    with true <- has?(:from_pointer, 5),
         true <- Map.get(memory.metadata, "offset", 0) == 0,
         {:ok, type} <- DType.nx(memory.dtype) do
      pointer = struct(Nx.Pointer, kind: :ipc, handle: memory.handle, data_size: memory.bytes)
      backend = opts[:backend] || apply(Nx, :default_backend, [])
      {:ok, apply(Nx, :from_pointer, [backend, pointer, type, memory.shape, []])}
    else
      _ -> {:error, :not_available}
    end
  rescue
    _ -> {:error, :not_available}
  end

  def import(_memory, _device, _opts), do: {:error, :not_available}

  defp has?(name, arity), do: Code.ensure_loaded?(Nx) and function_exported?(Nx, name, arity)
end
