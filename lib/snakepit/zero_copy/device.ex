defmodule Snakepit.ZeroCopy.Device do
  @moduledoc """
  Tensors in the memory of a GPU, which are passed by the handle that its driver gives for use in
  another process (CUDA's IPC handles), without any copy.

  `Snakepit.ZeroCopy.to_dlpack/2` with `device: :cuda` and `from_dlpack/2` of a handle with that device
  ask the module of `config :snakepit, zero_copy: [device: MyModule]`. The default asks Nx: backends
  with `Nx.to_pointer/2` and `Nx.from_pointer/5`, such as EXLA's. It says `{:error, :not_available}`
  where Nx is not installed, or its backend has the tensor elsewhere.

  The memory belongs to the process that made the tensor. It must hold it for as long as others use it.

  No machine with a GPU has confirmed this yet: what is tested is what is asked of a driver.
  """

  @type memory :: %{
          dtype: String.t(),
          shape: tuple,
          bytes: non_neg_integer,
          handle: binary,
          metadata: map
        }

  @doc "What another process needs to map the tensor's memory."
  @callback export(tensor :: term, device :: :cuda | :mps) ::
              {:ok, memory} | {:error, :not_available | term}

  @doc "The tensor in memory of another process; `opts` are those of `from_dlpack/2`."
  @callback import(memory, device :: :cuda | :mps, opts :: keyword) ::
              {:ok, tensor :: term} | {:error, :not_available | term}

  @doc false
  @spec module() :: module
  def module, do: Snakepit.ZeroCopy.Config.settings().device
end
