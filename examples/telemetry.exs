# What calls and tools tell of themselves, as events in Elixir.
#
#     mix run --no-start examples/telemetry.exs

alias Snakepit.Telemetry

Logger.configure(level: :warning)

python = Enum.map(["python", "../priv/python"], &Path.expand(&1, __DIR__))
Application.put_env(:snakepit, :pooling_enabled, true)
Application.put_env(:snakepit, :pool_size, 1)
Application.put_env(:snakepit, :adapter_args, ["--adapter", "training.Training"])
Application.put_env(:snakepit, :adapter_env, [{"PYTHONPATH", Enum.join(python, ":")}])
# Events of one's own have to be named: a worker makes no atoms.
progress = [:lesson, :progress]
span = for what <- [:start, :stop], do: [:lesson, :step, what]
Application.put_env(:snakepit, :telemetry_events, [progress | span])

main = self()

tell = fn event, measurements, metadata, _config ->
  send(main, {event, measurements, metadata})
end

calls = [[:snakepit, :request, :executed], [:snakepit, :python, :call, :stop]]

next = fn event ->
  receive do
    {^event, measurements, metadata} -> {measurements, metadata}
  after
    60_000 -> raise "#{inspect(event)} did not come"
  end
end

result =
  Snakepit.run_as_script(fn ->
    for event <- [progress | span] ++ calls,
        do: :ok = Telemetry.attach("lesson-#{Enum.join(event, ".")}", event, tell, nil)

    {:ok, 0.125} = Snakepit.execute("train", %{steps: 3}, correlation_id: "first lesson")
    {_, %{command: "train", success: true}} = next.([:snakepit, :request, :executed])

    losses =
      for _ <- 1..3 do
        {%{"loss" => loss}, %{correlation_id: "first lesson"}} = next.(progress)
        loss
      end

    IO.puts("the tool has told of its losses: #{inspect(losses)}")
    [0.5, 0.25, 0.125] = losses
    for event <- span, _ <- 1..3, do: {_, %{correlation_id: "first lesson"}} = next.(event)

    {_, %{tool: "train", correlation_id: "first lesson"}} =
      next.([:snakepit, :python, :call, :stop])

    IO.puts("and its worker that the call is over")
  end)

with {:error, reason} <- result do
  IO.puts(:stderr, "The pool did not start: #{inspect(reason)}")
  System.halt(1)
end
