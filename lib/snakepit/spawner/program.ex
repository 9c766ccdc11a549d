defmodule Snakepit.Spawner.Program do
  @moduledoc false
  # The program snakepit_spawner itself: where it is, starting it, and what keeps
  # it from starting.

  @version 2
  @hello_ms 10_000

  @doc "Where the build puts the program."
  @spec default_path() :: Path.t()
  def default_path do
    # As Snakepit.Native.ebin/0, which would load the NIF.
    ebin =
      case :code.which(__MODULE__) do
        path when is_list(path) -> :filename.dirname(path)
        _ -> :filename.join(:code.lib_dir(:snakepit), ~c"ebin")
      end

    Path.join(to_string(ebin), "snakepit_spawner")
  end

  @spec open(Path.t(), Snakepit.Spawner.heir() | nil) :: {:ok, port} | {:error, String.t()}
  def open(path, heir) do
    options = [
      :binary,
      :nouse_stdio,
      :exit_status,
      :hide,
      packet: 4,
      args: ["--port" | arguments(heir)]
    ]

    # A directory would be "executed" and end with an obscure status.
    if File.dir?(path),
      do: {:error, unavailable(path, :eisdir)},
      else: {:ok, Port.open({:spawn_executable, path}, options)}
  rescue
    error in ErlangError -> {:error, unavailable(path, error.original)}
    error in ArgumentError -> {:error, unavailable(path, Exception.message(error))}
  end

  defp arguments(nil), do: []
  defp arguments({pid, start, dirs}), do: ["--owner", "#{pid}:#{start}" | dirs]

  @doc "Waits for its first word."
  @spec hello(port, Path.t()) :: {:ok, pos_integer} | {:error, String.t()}
  def hello(port, path) do
    receive do
      {^port, {:data, <<65, @version::32, os_pid::32>>}} ->
        {:ok, os_pid}

      {^port, {:data, _other}} ->
        close(port)
        {:error, "#{path} speaks another protocol than this code: run mix compile --force"}

      {^port, {:exit_status, status}} ->
        {:error,
         "#{path} ended with status #{status} before it was ready: " <>
           "run it by hand with --help to see why, or build it again with mix compile --force"}
    after
      @hello_ms ->
        close(port)
        {:error, "#{path} did not answer within #{@hello_ms} ms; is the machine overloaded?"}
    end
  end

  # It may have ended by itself meanwhile.
  defp close(port) do
    Port.close(port)
  rescue
    ArgumentError -> true
  end

  defp unavailable(path, reason) do
    why =
      case {reason, File.stat(path)} do
        {_, {:error, :enoent}} ->
          "there is no such file: build it with mix compile"

        {_, {:error, posix}} ->
          "#{:file.format_error(posix)}: check the directories of this path"

        {_, {:ok, %{type: type}}} when type != :regular ->
          "it is not a file but a #{type}: build it again with mix compile --force"

        {_, {:ok, %{mode: mode}}} when Bitwise.band(mode, 0o111) == 0 ->
          "it lacks the permission to be executed: chmod +x it, or mix compile --force"

        {:eacces, _} ->
          "permission denied: is its file system mounted noexec? " <>
            "Then set MIX_BUILD_PATH to a place on another one"

        _ ->
          "#{inspect(reason)}: build it again with mix compile --force"
      end

    "cannot execute #{path}: #{why}"
  end

  @doc "Runs it to kill processes, `{number, start time}` each."
  @spec kill(String.t(), [{pos_integer, pos_integer}], Path.t()) :: :ok | {:error, String.t()}
  def kill(_how, [], _path), do: :ok

  def kill(how, processes, path) do
    args = for {pid, start} <- processes, do: "#{pid}:#{start}"

    case System.cmd(path, [how | args], stderr_to_stdout: true) do
      {_output, 0} -> :ok
      {output, _status} -> {:error, String.trim(output)}
    end
  rescue
    error in ErlangError -> {:error, unavailable(path, error.original)}
  end
end
