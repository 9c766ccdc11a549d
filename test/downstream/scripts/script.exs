# A script as users write it: mix run --no-start scripts/script.exs
Downstream.Config.configure(pool_size: 1)
parent = self()
:ok = Downstream.Telemetry.attach(:script, parent)

result =
  Snakepit.run_as_script(
    fn ->
      {:ok, root} = Downstream.Client.call("math", "sqrt", [16])
      IO.puts("root #{root}")
      :done
    end,
    exit_mode: :auto,
    timeout: 60_000
  )

IO.puts("result #{inspect(result)}")

for what <- [:start, :stop, :cleanup, :exit] do
  receive do
    {[:snakepit, :script, :shutdown, ^what], _, %{run_id: _, exit_mode: :none}} ->
      IO.puts("told #{what}")
  after
    0 -> IO.puts("not told #{what}")
  end
end
