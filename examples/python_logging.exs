# What Python logs is in Elixir's log, with level, place, worker and call.
#
#     mix run --no-start examples/python_logging.exs

defmodule Lines do
  # A handler of Erlang's logger, to show the metadata.
  def log(%{level: level, msg: {:string, text}, meta: %{python_logger: logger} = meta}, _config) do
    place = "#{Path.basename(to_string(meta.file))}:#{meta.line}"
    [_worker, _logger, message] = text |> to_string() |> String.split(": ", parts: 3)
    IO.puts("#{level} of #{logger} at #{place} in call #{meta.correlation_id}: #{message}")
  end

  def log(_event, _config), do: :ok
end

:ok = :logger.set_primary_config(:level, :debug)
for id <- :logger.get_handler_ids(), do: :logger.set_handler_config(id, :level, :none)
:ok = :logger.add_handler(:lines, Lines, %{})

python = Enum.map(["python", "../priv/python"], &Path.expand(&1, __DIR__))

Application.put_all_env(
  snakepit: [
    pooling_enabled: true,
    pool_size: 1,
    adapter_args: ["--adapter", "shop_log.Shop"],
    adapter_env: [{"PYTHONPATH", Enum.join(python, ":")}],
    # Also the level of Python's loggers.
    log_level: :debug
  ]
)

result =
  Snakepit.run_as_script(fn ->
    {:ok, 4.5} = Snakepit.execute("price", %{thing: "tea"}, correlation_id: "first")
    {:ok, nil} = Snakepit.execute("price", %{thing: "milk"}, correlation_id: "second")
    {:ok, 4.5} = Snakepit.execute("cost", %{thing: "tea"}, correlation_id: "third")
  end)

with {:error, reason} <- result do
  IO.puts(:stderr, "The pool did not start: #{inspect(reason)}")
  System.halt(1)
end
