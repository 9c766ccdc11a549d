defmodule Snakepit.Test.OtherVM do
  @moduledoc false
  # Another BEAM with Snakepit, which runs a piece of code and prints lines.

  import ExUnit.Callbacks, only: [on_exit: 1]
  import ExUnit.Assertions

  @patience 60_000

  @doc """
  Starts it with the application (no pools) in `dir`. `code` may use
  `ProcessRegistry` and `say`, a function that prints one line. It stays until
  it is killed.
  """
  def start(dir, code, opts \\ []) do
    code = """
    settings = [data_dir: #{inspect(dir)}, log_level: :warning]
    Application.put_all_env(snakepit: settings ++ #{inspect(opts[:settings] || [])})
    {:ok, _} = Application.ensure_all_started(:snakepit)
    alias Snakepit.Pool.ProcessRegistry
    say = fn term -> IO.puts("says " <> inspect(term, limit: :infinity)) end
    unguarded = fn env ->
      script = "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!"
      {pid, 0} = System.cmd("/bin/sh", ["-c", script], env: env)
      pid |> String.trim() |> String.to_integer()
    end
    _ = unguarded
    #{code}
    Process.sleep(:infinity)
    """

    ebin = Application.app_dir(:snakepit, "ebin")
    args = [System.find_executable("elixir"), "-pa", ebin, "-e", code]
    shell = (opts[:before] || "") <> ~s( exec "$0" "$@")

    port =
      Port.open({:spawn_executable, "/bin/sh"}, [
        :binary,
        :stderr_to_stdout,
        :exit_status,
        line: 65_536,
        args: ["-c", shell | args],
        env: [{~c"ELIXIR_ERL_OPTIONS", ~c"+fnu"}]
      ])

    {:os_pid, pid} = Port.info(port, :os_pid)
    on_exit(fn -> kill(pid) end)
    %{port: port, pid: pid}
  end

  @doc "What it says next. Other lines are skipped."
  def hear(%{port: port} = beam) do
    case hear_line(beam) do
      "says " <> text -> text |> Code.eval_string() |> elem(0)
      _other -> hear(%{beam | port: port})
    end
  end

  @doc "The next line it prints."
  def hear_line(%{port: port}) do
    receive do
      {^port, {:data, {_, line}}} -> line
      {^port, {:exit_status, status}} -> flunk("it ended with status #{status}")
    after
      @patience -> flunk("it says nothing")
    end
  end

  @doc "SIGKILL; returns when it is dead."
  def kill_and_wait(%{port: port, pid: pid}) do
    kill(pid)

    receive do
      {^port, {:exit_status, _}} -> :ok
    after
      @patience -> flunk("it does not die")
    end
  end

  @doc "Kills a process that the code made, when the test is over."
  def end_later(pid) do
    on_exit(fn -> kill(pid) end)
    pid
  end

  defp kill(pid), do: System.cmd("/bin/kill", ["-KILL", "#{pid}"], stderr_to_stdout: true)
end
