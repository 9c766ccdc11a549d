# A session on both sides: its variables, and Elixir tools that Python calls.
#
#     mix run --no-start examples/sessions.exs

alias Snakepit.Bridge.{SessionStore, ToolRegistry}

Logger.configure(level: :warning)

python = Enum.map(["python", "../priv/python"], &Path.expand(&1, __DIR__))
Application.put_env(:snakepit, :pooling_enabled, true)
Application.put_env(:snakepit, :pool_size, 1)
Application.put_env(:snakepit, :adapter_args, ["--adapter", "account.Account"])
Application.put_env(:snakepit, :adapter_env, [{"PYTHONPATH", Enum.join(python, ":")}])

rates = %{"usd" => 1.08, "gbp" => 0.86, "jpy" => 162.0}

result =
  Snakepit.run_as_script(fn ->
    session = "ann"
    call = fn tool, args -> Snakepit.execute_in_session(session, tool, args) end

    {:ok, ^session} = call.("begin", %{})
    {:ok, 0.75} = call.("raise_rate", %{by: 0.25})
    {:ok, %{value: 0.75, type: :float}} = SessionStore.get_variable(session, "rate")
    :ok = SessionStore.update_variable(session, "rate", 0.9)
    {:error, %Snakepit.Error.ValueError{} = error} = call.("raise_rate", %{by: 0.25})
    IO.puts("Python may not: #{error.message}")

    :ok =
      ToolRegistry.register_elixir_tool(
        session,
        "exchange",
        fn %{"cents" => cents, "to" => to} -> round(cents * Map.fetch!(rates, to)) end,
        %{description: "Euro cents in another currency", exposed_to_python: true}
      )

    {:ok, converted} = call.("convert", %{cents: 1000})
    IO.inspect(converted, label: "converted by Elixir")
    {:ok, about} = call.("about", %{})
    IO.inspect(about, label: "the call")
  end)

with {:error, reason} <- result do
  IO.puts(:stderr, "The pool did not start: #{inspect(reason)}")
  System.halt(1)
end
