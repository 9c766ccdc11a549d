defmodule Snakepit.ScriptTest do
  # Each script is a VM of its own.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools, only: [signal_path: 0, test_env: 0, eventually: 1]

  alias Snakepit.OSProcess

  # Runs `body` as the function of run_as_script/2 with two workers; its value
  # is printed. Returns output, status and the workers' processes.
  defp script(body, opts \\ "", more \\ []) do
    file = more[:file] || signal_path()

    code = """
    Application.put_all_env(snakepit: #{inspect(settings(more))})
    #{more[:before]}

    result =
      Snakepit.run_as_script(
        fn ->
          # Ready is the first worker, complete are all.
          if Application.get_env(:snakepit, :pooling_enabled),
            do: :ok = Snakepit.Pool.await_init_complete(Snakepit.Pool, 60_000)

          processes =
            for {_, e} <- Snakepit.Pool.ProcessRegistry.current_run_entries(),
              do: "\#{e.process_pid} \#{e.start_time}\\n"

          File.write!(#{inspect(file)}, processes)
          #{body}
        end,
        [#{opts}]
      )

    IO.inspect(result, label: "result")
    IO.inspect(Process.whereis(Snakepit.Supervisor) != nil, label: "running")
    #{more[:after]}
    """

    env = Keyword.get(more, :system_env, [])
    args = more[:elixir_args] || []
    ebin = Application.app_dir(:snakepit, "ebin")
    elixir = System.find_executable("elixir")

    # The shell may do something to the VM's output.
    shell = String.replace(more[:shell] || "exec %s", "%s", ~s("$0" "$@"))

    {output, status} =
      System.cmd("/bin/sh", ["-c", shell, elixir | args] ++ ["-pa", ebin, "-e", code],
        stderr_to_stdout: true,
        env: [{"ELIXIR_ERL_OPTIONS", "+fnu"} | env]
      )

    %{output: output, status: status, processes: processes(file)}
  end

  defp settings(more) do
    Keyword.merge(
      [
        pooling_enabled: true,
        pool_size: 2,
        adapter_args: ["--adapter", "snakepit_test_tools.TestTools"],
        adapter_env: test_env()
      ],
      more[:settings] || []
    )
  end

  defp processes(file) do
    case File.read(file) do
      {:ok, text} ->
        for line <- String.split(text, "\n", trim: true) do
          [pid, time] = line |> String.split() |> Enum.map(&String.to_integer/1)
          {pid, time}
        end

      {:error, _} ->
        []
    end
  end

  defp assert_nothing_left(%{processes: processes}) do
    assert [_ | _] = processes
    assert Enum.filter(processes, fn {pid, time} -> OSProcess.alive?(pid, time) end) == []
  end

  test "runs, returns the value, stops, leaves nothing" do
    run = script(~s|Snakepit.execute("echo", %{value: 42})|)
    assert run.output =~ "result: {:ok, 42}"
    assert run.output =~ "running: false"
    assert run.status == 0
    assert length(run.processes) == 2
    assert_nothing_left(run)
  end

  test "raises what the function raises, after stopping" do
    run = script(~s|raise "my own"|)
    assert run.output =~ "my own"
    assert run.status == 1
    assert_nothing_left(run)
  end

  test "halts with a status that says how it went" do
    run = script("1", "exit_mode: :halt")
    refute run.output =~ "result:"
    assert run.status == 0
    assert_nothing_left(run)

    run = script("throw(:out)", "halt: true")
    assert run.output =~ "out"
    assert run.status == 1
    assert_nothing_left(run)
  end

  test "stops the VM" do
    run = script("1", "exit_mode: :stop")
    refute run.output =~ "result:"
    assert run.status == 0
    assert_nothing_left(run)
  end

  test "the environment chooses, an option wins" do
    run = script("1", "", system_env: [{"SNAKEPIT_SCRIPT_EXIT", "halt"}])
    refute run.output =~ "result:"
    assert run.status == 0

    run = script("1", "exit_mode: :none", system_env: [{"SNAKEPIT_SCRIPT_EXIT", "halt"}])
    assert run.output =~ "result: 1"

    run = script("1", "", system_env: [{"SNAKEPIT_SCRIPT_HALT", "true"}])
    refute run.output =~ "result:"
  end

  test "auto stops a VM that would stay" do
    run = script("1", "exit_mode: :auto", elixir_args: ["--no-halt"])
    refute run.output =~ "result:"
    assert run.status == 0
    assert_nothing_left(run)
  end

  test "what it did not start it does not stop, unless told to" do
    run = script("1", "stop_mode: :never")
    assert run.output =~ "running: true"
    eventually(fn -> gone?(run) end)
  end

  # The VM has ended; its spawner then ends the workers.
  defp gone?(%{processes: processes}),
    do: not Enum.any?(processes, fn {pid, time} -> OSProcess.alive?(pid, time) end)

  test "a pool that cannot start is an error and a status" do
    broken = [settings: [python_executable: "/no/such/python"]]
    run = script("1", "", broken)
    assert run.output =~ ~r/result: {:error,\s+%Snakepit.Error{/
    assert run.output =~ "/no/such/python"
    assert run.output =~ "running: false"
    assert run.status == 0

    assert script("1", "exit_mode: :halt", broken).status == 1
  end

  test "a pool that takes too long is the documented error" do
    run = script("1", "timeout: 1", settings: [adapter_args: ["--adapter", "slow_to_import"]])
    assert run.output =~ "result: {:error, :pool_initialization_timeout}"
    assert run.output =~ "running: false"
  end

  test "configuration that is wrong is an error too" do
    run = script("1", "", settings: [pools: [%{name: :a, pool_size: 0}]])
    assert run.output =~ "invalid_pool_size"
    assert run.output =~ ~r/result: {:error,\s+%Snakepit.Error{/
  end

  test "the environment's mistakes are said and ignored" do
    env = [{"SNAKEPIT_SCRIPT_EXIT", "perhaps"}]

    run =
      script("1", "", system_env: env, settings: [pooling_enabled: false, log_level: :warning])

    assert run.output =~ "SNAKEPIT_SCRIPT_EXIT=perhaps is ignored"
    assert run.output =~ "result: 1"

    env = [{"SNAKEPIT_SCRIPT_EXIT", "none"}, {"SNAKEPIT_SCRIPT_HALT", "1"}]

    assert script("1", "", system_env: env, settings: [pooling_enabled: false]).output =~
             "result: 1"

    env = [{"SNAKEPIT_SCRIPT_EXIT", " Stop "}]
    run = script("1", "", system_env: env, settings: [pooling_enabled: false])
    refute run.output =~ "result:"
    assert run.status == 0
  end

  test "auto leaves alone a VM that ends by itself" do
    run = script("1", "exit_mode: :auto", settings: [pooling_enabled: false])
    assert run.output =~ "result: 1"
    assert run.status == 0
  end

  test "exit_mode goes before halt" do
    run = script("1", "exit_mode: :none, halt: true", settings: [pooling_enabled: false])
    assert run.output =~ "result: 1"
  end

  test "an exit of the function is a failure" do
    run = script("exit(:gone)", "exit_mode: :stop", settings: [pooling_enabled: false])
    assert run.output =~ "gone"
    assert run.status == 1
  end

  test "with nobody who reads it ends as well" do
    shell = "{ %s; echo status $? >&2; } | head -c 0"
    settings = [settings: [pooling_enabled: false], shell: shell]

    for exit_mode <- [":halt", ":stop", ":none"] do
      body = ~s|for n <- 1..5_000, do: IO.puts("line \#{n}")|
      assert script(body, "exit_mode: #{exit_mode}", settings).output =~ ~r/^status 1$/m
    end

    # Nor is there a stderr.
    run = script("raise \"x\"", "exit_mode: :halt", Keyword.put(settings, :shell, "%s 2>&- >&-"))
    assert run.status == 1
  end

  test "an application that started before pools were wanted is started again" do
    # As Mix.install/1 does, without a configuration.
    before = """
    Application.put_env(:snakepit, :pooling_enabled, false)
    {:ok, _} = Application.ensure_all_started(:snakepit)
    Application.put_env(:snakepit, :pooling_enabled, true)
    """

    body = ~s|Snakepit.execute("echo", %{value: "pong"})|
    ran = script(body, "exit_mode: :auto", before: before)
    assert ran.output =~ ~r/result: {:ok, .*"pong"/
    assert ran.output =~ "running: false"
    assert ran.processes != [] and gone?(ran)

    refused = script(body, "restart: false", before: before)
    assert refused.output =~ "started before pooling_enabled was set"
  end

  test "what ran before is stopped, restarted or left as told" do
    before = "{:ok, _} = Application.ensure_all_started(:snakepit)"
    kept = [before: before, settings: [pooling_enabled: false]]
    assert script("1", "", kept).output =~ "running: true"
    assert script("1", "stop_mode: :always", kept).output =~ "running: false"

    before = before <> "; Process.put(:former, Process.whereis(Snakepit.Supervisor))"
    same = "Process.whereis(Snakepit.Supervisor) == Process.get(:former)"
    kept = Keyword.put(kept, :before, before)
    assert script(same, "", kept).output =~ "result: true"
    assert script(same, "stop_mode: :always", kept).output =~ "result: true"
    assert script(same, "restart: true", kept).output =~ "result: false"
  end

  test "workers of an application that goes on are ended, unless cleanup_timeout is 0" do
    before = """
    {:ok, _} = Application.ensure_all_started(:snakepit)
    """

    after_it = """
    {:ok, [{pid, time} | _]} =
      {:ok, for({_, e} <- Process.get(:entries), do: {e.process_pid, e.start_time})}

    IO.inspect(Snakepit.OSProcess.alive?(pid, time), label: "kept")
    """

    body = "Process.put(:entries, Snakepit.Pool.ProcessRegistry.current_run_entries())"
    more = [before: before, after: after_it]
    assert script(body, "cleanup_timeout: 0", more).output =~ "kept: true"
    assert script(body, "", more).output =~ "kept: false"
  end

  test "options that are wrong are refused at once" do
    for opts <- [[exit_mode: :no], [stop_mode: :no], [restart: :no]] do
      assert_raise ArgumentError, ~r/:no/, fn ->
        Snakepit.run_as_script(fn -> flunk("it ran") end, opts)
      end
    end
  end

  test "without pools it just runs, and leaves alone what ran before" do
    assert Snakepit.run_as_script(fn -> :done end) == :done
    assert Process.whereis(Snakepit.Supervisor)
  end

  test "a VM that is killed leaves nothing" do
    file = signal_path()

    body = """
    File.write!(#{inspect(file)}, System.pid())
    Process.sleep(:infinity)
    """

    entries = signal_path()
    run = Task.async(fn -> script(body, "", file: entries) end)
    eventually(fn -> File.exists?(file) and File.read!(file) != "" end)
    {_, 0} = System.cmd("/bin/kill", ["-KILL", File.read!(file)])
    run = Task.await(run, 60_000)
    assert [_, _] = run.processes
    eventually(fn -> gone?(run) end)
  end
end
