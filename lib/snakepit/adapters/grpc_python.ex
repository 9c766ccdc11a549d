defmodule Snakepit.Adapters.GRPCPython do
  @moduledoc """
  Python workers: `priv/python/grpc_server.py`, run by the interpreter that
  `Snakepit.PythonRuntime.resolve_executable/0` finds.

  Which tools they offer is up to a Python class named by `adapter_args`:

      config :snakepit, adapter_args: ["--adapter", "my_tools.MyAdapter"]
  """

  @behaviour Snakepit.Adapter

  alias Snakepit.{Defaults, Native, PythonRuntime}
  alias Snakepit.GRPC.Client

  # Between the tries to connect.
  @waits_ms [20, 50, 100, 200, 400, 500, 700]

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

  # ---- one worker, without a pool -----------------------------------------

  @typedoc "What `init_grpc_connection/1` gives; a channel of `Snakepit.GRPC.Client` does too."
  @type connection :: %{channel: Client.channel(), port: :inet.port_number()} | Client.channel()

  @doc """
  Connects to a worker of this host. One that said its port a moment ago may not
  accept yet: it is asked for up to two seconds.
  """
  @impl true
  @spec init_grpc_connection(:inet.port_number()) :: {:ok, connection} | {:error, term}
  def init_grpc_connection(port), do: connect(port, @waits_ms)

  defp connect(port, waits) do
    case {Client.connect(port), waits} do
      {{:ok, channel}, _} ->
        {:ok, %{channel: channel, port: port}}

      {{:error, :unavailable}, [wait | waits]} ->
        Process.sleep(wait)
        connect(port, waits)

      {{:error, reason}, _} ->
        {:error, reason}
    end
  end

  @doc """
  Runs a command on that worker. Without a timeout the command's own applies,
  see `command_timeout/2`; options are those of
  `Snakepit.GRPC.Client.execute_tool/5`.
  """
  @impl true
  @spec grpc_execute(connection, String.t(), String.t(), map, timeout | nil, keyword) ::
          {:ok, term} | {:error, term}
  def grpc_execute(connection, session_id, command, args, timeout \\ nil, opts \\ []) do
    opts = Keyword.put(opts, :timeout, timeout || command_timeout(command, args))
    Client.execute_tool(channel(connection), session_id, command, args, opts)
  end

  @doc """
  Runs a command that streams; `callback_fn` gets each chunk as the callback of
  `Snakepit.execute_stream/4` does, and ends the stream by `:halt` or
  `{:halt, reason}`.
  """
  @impl true
  @spec grpc_execute_stream(
          connection,
          String.t(),
          String.t(),
          map,
          (map -> term),
          timeout | nil,
          keyword
        ) :: :ok | {:error, term}
  def grpc_execute_stream(
        connection,
        session_id,
        command,
        args,
        callback_fn,
        timeout \\ nil,
        opts \\ []
      )
      when is_function(callback_fn, 1) do
    opts = Keyword.put(opts, :timeout, timeout || Defaults.grpc_worker_stream_timeout())
    channel = channel(connection)

    with {:ok, chunks} <-
           Client.execute_streaming_tool(channel, session_id, command, args, opts) do
      Enum.reduce_while(chunks, :ok, fn chunk, :ok -> deliver(chunk, callback_fn) end)
    end
  end

  # As a chunk it is what a pool's stream gets, so it is read the same way.
  defp deliver({:ok, chunk}, callback) do
    with {:ok, bytes} <- Native.message_encode(:ToolChunk, chunk),
         {:ok, payload} <- Native.decode_chunk(bytes) do
      case callback.(payload) do
        :halt -> {:halt, :ok}
        {:halt, reason} -> {:halt, {:error, reason}}
        _ -> {:cont, :ok}
      end
    else
      {:error, reason} -> {:halt, {:error, reason}}
    end
  end

  defp deliver({:error, reason}, _callback), do: {:halt, {:error, reason}}

  defp channel(%{channel: channel}), do: channel
  defp channel(channel), do: channel
end
