# Every way to write a tool, and adapters that live longer than one request.
#
#     mix run --no-start examples/adapters.exs

Logger.configure(level: :warning)

python = Enum.map(["python", "../priv/python"], &Path.expand(&1, __DIR__))
env = [{"PYTHONPATH", Enum.join(python, ":")}]

pool = fn name, adapter ->
  %{name: name, pool_size: 1, adapter_args: ["--adapter", adapter], adapter_env: env}
end

Application.put_env(:snakepit, :pooling_enabled, true)

Application.put_env(:snakepit, :pools, [
  pool.(:default, "shop.Shop"),
  pool.(:model, "shop.Model"),
  pool.(:basket, "shop.Basket")
])

items = fn tool, args ->
  tool |> Snakepit.stream(args) |> Enum.to_list()
end

result =
  Snakepit.run_as_script(fn ->
    {:ok, 500} = Snakepit.execute("price", %{item: "tea", count: 2})
    {:ok, 1150} = Snakepit.execute("total", %{items: ["tea", "cup"]})
    {:ok, %{"price" => 2400}} = Snakepit.execute("quote", %{item: "pot"})
    {:ok, "900 back"} = Snakepit.execute("refund", %{item: "cup"})
    {:ok, greeting} = Snakepit.execute_in_session("s1", "greet", %{name: "Ann"})
    IO.puts("functions, coroutines, commands: #{greeting}")

    IO.puts("generators: #{inspect(items.("list_items", %{}))}")
    IO.puts("asynchronous ones: #{inspect(items.("list_prices", %{}))}")
    IO.puts("sent: #{inspect(items.("pack", %{items: ["tea", "cup"]}))}")

    for n <- 1..3 do
      {:ok, %{"asked" => ^n}} = Snakepit.execute("square", %{n: n}, pool_name: :model)
    end

    IO.puts("a model was loaded once and asked three times")

    for {session, item, now} <- [
          {"ann", "tea", ["tea"]},
          {"bob", "pot", ["pot"]},
          {"ann", "cup", ["tea", "cup"]}
        ] do
      {:ok, ^now} =
        Snakepit.execute("put", %{item: item}, pool_name: :basket, session_id: session)
    end

    IO.puts("each session has a basket of its own")
  end)

with {:error, reason} <- result do
  IO.puts(:stderr, "The pool did not start: #{inspect(reason)}")
  System.halt(1)
end
