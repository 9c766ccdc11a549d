defmodule Snakepit.Adapter do
  @moduledoc """
  How to start a kind of worker process.

  A worker is `executable_path() script_path() args...`; it serves
  `BridgeService` (proto/snakepit_bridge.proto) over gRPC and writes the port
  that it listens on into the file named by `SNAKEPIT_READY_FILE`.

  `Snakepit.Adapters.GRPCPython` is the usual one. An adapter of your own:

      defmodule MyApp.NodeAdapter do
        @behaviour Snakepit.Adapter

        @impl true
        def executable_path, do: System.find_executable("node")
        @impl true
        def script_path, do: Application.app_dir(:my_app, "priv/worker.js")
        @impl true
        def script_args, do: []
        @impl true
        def uses_grpc?, do: true
      end
  """

  @doc "The interpreter, or the worker program itself."
  @callback executable_path() :: String.t() | nil

  @doc "The script that it runs; nil or \"\" when there is none."
  @callback script_path() :: String.t() | nil

  @doc "Arguments of the script, when the pool names none."
  @callback script_args() :: [String.t()]

  @doc "Milliseconds that a command may take, when the call names none."
  @callback command_timeout(command :: String.t(), args :: map) :: timeout

  @doc "Whether workers speak gRPC, which is needed for streams."
  @callback uses_grpc?() :: boolean

  @doc "The port a worker is told to listen on; 0 lets it choose."
  @callback get_port() :: :inet.port_number()

  @doc "Commands that the worker knows."
  @callback supported_commands() :: [String.t()]

  @doc "Refuses a call before it is sent."
  @callback validate_command(command :: String.t(), args :: map) :: :ok | {:error, term}

  @doc "Changes the arguments before they are sent."
  @callback prepare_args(command :: String.t(), args :: map) :: map

  @doc "Changes a result before the caller gets it."
  @callback process_response(command :: String.t(), response :: term) ::
              {:ok, term} | {:error, term}

  @callback init_grpc_connection(port :: :inet.port_number()) :: {:ok, term} | {:error, term}

  @callback grpc_execute(
              connection :: term,
              session_id :: String.t(),
              command :: String.t(),
              args :: map,
              timeout,
              opts :: keyword
            ) :: {:ok, term} | {:error, term}

  @callback grpc_execute_stream(
              connection :: term,
              session_id :: String.t(),
              command :: String.t(),
              args :: map,
              callback :: (map -> term),
              timeout,
              opts :: keyword
            ) :: :ok | {:error, term}

  @callback grpc_heartbeat(connection :: term, session_id :: String.t()) :: term
  @callback grpc_heartbeat(connection :: term, session_id :: String.t(), config :: map) :: term

  @optional_callbacks command_timeout: 2,
                      uses_grpc?: 0,
                      get_port: 0,
                      supported_commands: 0,
                      validate_command: 2,
                      prepare_args: 2,
                      process_response: 2,
                      init_grpc_connection: 1,
                      grpc_execute: 6,
                      grpc_execute_stream: 7,
                      grpc_heartbeat: 2,
                      grpc_heartbeat: 3
end
