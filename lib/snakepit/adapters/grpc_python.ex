defmodule Snakepit.Adapters.GRPCPython do
  @moduledoc """
  Python workers: `priv/python/grpc_server.py`, run by the interpreter that
  `Snakepit.PythonRuntime.resolve_executable/0` finds.

  Which tools they offer is up to a Python class named by `adapter_args`:

      config :snakepit, adapter_args: ["--adapter", "my_tools.MyAdapter"]
  """

  @behaviour Snakepit.Adapter

  alias Snakepit.{Defaults, Native, PythonRuntime}

  @impl true
  def executable_path do
    case PythonRuntime.resolve_executable() do
      {:ok, path, _meta} -> path
      {:error, _reason} -> nil
    end
  end

  @impl true
  def script_path, do: Application.app_dir(:snakepit, "priv/python/grpc_server.py")

  @impl true
  def script_args, do: ["--adapter", "snakepit_bridge.adapters.showcase.ShowcaseAdapter"]

  @impl true
  def command_timeout("batch_inference", _args), do: Defaults.grpc_batch_inference_timeout()
  def command_timeout("process_large_dataset", _args), do: Defaults.grpc_large_dataset_timeout()
  def command_timeout(_command, _args), do: Defaults.grpc_command_timeout()

  @doc "Always 0: the worker chooses, and says which it took."
  @impl true
  def get_port, do: 0

  @impl true
  def uses_grpc?, do: grpc_available?()

  @doc "Whether the native part, which has the gRPC client, is there."
  @spec grpc_available?() :: boolean
  def grpc_available?, do: Code.ensure_loaded?(Native)
end
