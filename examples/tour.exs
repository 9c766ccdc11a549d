# The tour: a pool of Python workers doing real work, from start to nothing left.
#
#     make run          (or: mix run --no-start examples/tour.exs)

defmodule Tour do
  @workers 4

  def run do
    Application.put_env(:snakepit, :pooling_enabled, true)
    Application.put_env(:snakepit, :pool_size, @workers)
    started = now()

    run_ids =
      Snakepit.run_as_script(
        fn ->
          say("#{@workers} Python workers ready", since(started))
          run_ids = run_ids()

          ping()
          statistics()
          parallel()
          stream()
          session()
          exception()
          kill()

          run_ids
        end,
        timeout: 60_000
      )

    case run_ids do
      {:error, reason} ->
        IO.puts(:stderr, "The pool did not start: #{inspect(reason)}")
        System.halt(1)

      run_ids ->
        left = length(processes_of(run_ids))
        say("Processes left behind: #{left}")
        if left > 0, do: System.halt(1)
    end
  end

  defp ping do
    {:ok, %{"status" => "pong"}} = Snakepit.execute("ping", %{})

    times =
      for _ <- 1..200 do
        t = now()
        {:ok, _} = Snakepit.execute("ping", %{})
        now() - t
      end

    say("ping answers pong", "median of 200: #{time(median(times))}")
  end

  defp statistics do
    path = Path.expand("data/co2_weekly.csv", __DIR__)
    t = now()
    {:ok, s} = Snakepit.execute("describe", %{path: path, column: "co2"})

    say(
      "numpy over #{s["rows"]} weeks of CO2 at Mauna Loa: mean #{round2(s["mean"])} ppm, " <>
        "from #{round2(s["min"])} to #{round2(s["max"])}",
      since(t)
    )
  end

  defp parallel do
    t = now()

    sums =
      1..20
      |> Task.async_stream(
        fn n ->
          {:ok, %{"result" => sum}} = Snakepit.execute("add", %{a: n, b: n * n})
          sum
        end,
        max_concurrency: 20
      )
      |> Enum.map(fn {:ok, sum} -> sum end)

    ^sums = for n <- 1..20, do: n + n * n
    say("20 calls in parallel, all answers right", since(t))
  end

  defp stream do
    t = now()
    steps = 40

    :ok =
      Snakepit.execute_stream("stream_progress", %{steps: steps, delay_ms: 20}, fn chunk ->
        with %{"progress" => percent} <- chunk, do: bar(percent)
      end)

    if terminal?(), do: IO.write("\r" <> IO.ANSI.clear_line())
    say("a stream of #{steps} chunks", since(t))
  end

  defp session do
    t = now()
    id = "tour"
    {:ok, _} = Snakepit.execute_in_session(id, "set_counter", %{value: 40})
    {:ok, _} = Snakepit.execute_in_session(id, "increment_counter", %{})
    {:ok, _} = Snakepit.execute_in_session(id, "increment_counter", %{})
    {:ok, counter} = Snakepit.execute_in_session(id, "get_counter", %{})
    say("a session keeps state in its worker: 40 + 1 + 1 = #{counter["value"]}", since(t))
  end

  defp exception do
    {:error, %Snakepit.Error.ValueError{} = error} =
      Snakepit.execute("error_demo", %{error_type: "value"})

    say("a Python exception arrives as #{inspect(error.__struct__)}: #{error.message}")

    error.python_traceback
    |> String.split("\n", trim: true)
    |> Enum.take(-2)
    |> Enum.each(&IO.puts("      " <> String.trim(&1)))
  end

  # A session's calls go to one worker: its pid is known before it is busy.
  defp kill do
    {:ok, %{"worker_pid" => pid}} = Snakepit.execute_in_session("victim", "get_worker_info", %{})

    call =
      Task.async(fn ->
        Snakepit.execute_in_session("victim", "sleep_task", %{duration_ms: 60_000})
      end)

    wait_for(fn -> Snakepit.get_stats().busy == 1 end)
    t = now()
    {_, 0} = System.cmd("kill", ["-9", pid])
    {:error, error} = Task.await(call, 30_000)
    say("worker #{pid} killed in the middle of a call: #{Exception.message(error)}")

    wait_for(fn -> Snakepit.get_stats().available == @workers end)
    {:ok, _} = Snakepit.execute("ping", %{})
    say("the pool is whole again: #{@workers} workers", since(t))
  end

  # ---- processes ------------------------------------------------------------

  # The run ids on the command lines of this VM's workers.
  defp run_ids do
    {:ok, info} = Snakepit.execute("get_worker_info", %{})

    for {pid, command} <- processes(), pid == info["worker_pid"], id = run_id(command), do: id
  end

  defp processes_of(run_ids), do: for({pid, c} <- processes(), run_id(c) in run_ids, do: {pid, c})

  defp run_id(command) do
    case Regex.run(~r/--snakepit-run-id[ \0](\w+)/, command) do
      [_, id] -> id
      nil -> nil
    end
  end

  defp processes do
    case File.ls("/proc") do
      {:ok, entries} ->
        for pid <- entries,
            pid =~ ~r/^\d+$/,
            {:ok, command} <- [File.read("/proc/#{pid}/cmdline")],
            do: {pid, command}

      {:error, _} ->
        {table, 0} = System.cmd("ps", ["-axo", "pid=,command="])

        for line <- String.split(table, "\n", trim: true) do
          [pid, command] = line |> String.trim() |> String.split(" ", parts: 2)
          {pid, command}
        end
    end
  end

  # ---- telling --------------------------------------------------------------

  defp say(text, note \\ nil) do
    IO.puts("  • " <> text <> if(note, do: "  (#{note})", else: ""))
  end

  defp bar(percent) do
    if terminal?() do
      full = round(percent * 0.3)
      line = String.duplicate("█", full) <> String.duplicate("░", 30 - full)
      IO.write("\r    #{line} #{round(percent)} %")
    else
      if rem(round(percent), 25) == 0, do: IO.puts("      progress #{round(percent)} %")
    end
  end

  defp terminal?, do: match?({:ok, _}, :io.columns()) and IO.ANSI.enabled?()

  defp wait_for(fun, left \\ 3000)
  defp wait_for(_fun, 0), do: raise("gave up waiting")

  defp wait_for(fun, left) do
    case fun.() do
      found when found not in [nil, false] ->
        found

      _ ->
        Process.sleep(10)
        wait_for(fun, left - 1)
    end
  end

  defp now, do: System.monotonic_time(:microsecond)
  defp since(t), do: time(now() - t)

  defp time(us) when us < 1000, do: "#{us} µs"
  defp time(us) when us < 1_000_000, do: "#{Float.round(us / 1000, 1)} ms"
  defp time(us), do: "#{Float.round(us / 1_000_000, 2)} s"

  defp median(list), do: list |> Enum.sort() |> Enum.at(div(length(list), 2))
  defp round2(number), do: Float.round(number / 1, 2)
end

# The tour says itself what happens to the worker that it kills.
Logger.configure(level: :critical)
Tour.run()
