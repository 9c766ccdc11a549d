defmodule Snakepit.Pool.ApplicationCleanup do
  @moduledoc """
  The last to stop: makes sure that no worker process is left, and removes
  this run's temporary directory.
  """

  use GenServer

  alias Snakepit.{Defaults, RuntimeCleanup}
  alias Snakepit.Pool.ProcessRegistry

  @key {__MODULE__, :run_dir}

  @doc false
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc false
  # Only this user can look into it.
  @spec run_dir() :: Path.t()
  def run_dir, do: :persistent_term.get(@key)

  @doc false
  # A directory that everybody may write to, and nobody but us may list.
  @spec open_dir() :: Path.t()
  def open_dir do
    dir = run_dir() <> "-open"
    _ = File.mkdir(dir)
    :ok = File.chmod(dir, 0o733)
    dir
  end

  @impl true
  def init(_opts) do
    _ = Process.flag(:trap_exit, true)
    dir = Path.join(System.tmp_dir!(), "snakepit-#{System.pid()}-#{random()}")

    with :ok <- File.mkdir(dir),
         :ok <- File.chmod(dir, 0o700) do
      :persistent_term.put(@key, dir)
      {:ok, dir}
    else
      {:error, why} -> {:stop, {:no_temporary_directory, dir, why}}
    end
  end

  @impl true
  def terminate(_reason, dir) do
    entries = ProcessRegistry.current_run_entries()
    bound = Defaults.cleanup_on_stop_timeout_ms()

    _ =
      if Application.get_env(:snakepit, :cleanup_on_stop, true),
        do: RuntimeCleanup.run(entries, timeout_ms: bound)

    _ = File.rm_rf(dir)
    _ = File.rm_rf(dir <> "-open")
    :persistent_term.erase(@key)
  end

  defp random, do: Base.url_encode64(:crypto.strong_rand_bytes(9))
end
