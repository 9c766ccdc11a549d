defmodule Snakepit.Test.GPU do
  @moduledoc false
  # A GPU that is made up: its tensors are {:on_gpu, id}, their handles the id.

  @behaviour Snakepit.ZeroCopy.Device

  @impl true
  def export({:on_gpu, id}, :cuda) do
    {:ok,
     %{
       dtype: "float32",
       shape: {2, 2},
       bytes: 16,
       handle: <<id::512>>,
       metadata: %{"device_id" => 3}
     }}
  end

  def export(_term, _device), do: {:error, :not_available}

  @impl true
  def import(%{handle: <<id::512>>} = memory, :cuda, opts),
    do: {:ok, {:mapped, id, memory.dtype, memory.shape, memory.metadata["device_id"], opts[:x]}}

  def import(_memory, _device, _opts), do: {:error, :not_available}
end
