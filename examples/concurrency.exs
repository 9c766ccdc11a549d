# Several calls at the same time in one Python process: threads, and coroutines.
#
#     mix run --no-start examples/concurrency.exs

Logger.configure(level: :warning)

python = Enum.map(["python", "../priv/python"], &Path.expand(&1, __DIR__))
env = [{"PYTHONPATH", Enum.join(python, ":")}]

Application.put_env(:snakepit, :pooling_enabled, true)

Application.put_env(:snakepit, :pools, [
  %{
    name: :default,
    pool_size: 1,
    worker_profile: :thread,
    threads_per_worker: 4,
    adapter_args: ["--adapter", "crowd.Threads"],
    adapter_env: env
  },
  %{
    name: :coroutines,
    pool_size: 1,
    concurrency: 4,
    adapter_args: ["--adapter", "crowd.Coroutines"],
    adapter_env: env
  }
])

together = fn calls -> calls |> Enum.map(&Task.async/1) |> Task.await_many(120_000) end

result =
  Snakepit.run_as_script(fn ->
    names = ["ann", "bob", "cat", "dan"]

    # None of them would return if they did not run at the same time.
    answers = together.(for name <- names, do: fn -> Snakepit.execute("meet", %{name: name}) end)
    ^answers = for name <- names, do: {:ok, name}
    IO.puts("four threads of one process have met")

    counts = together.(for _ <- 1..40, do: fn -> Snakepit.execute("add", %{}) end)
    [1, 40] = counts |> Enum.map(&elem(&1, 1)) |> Enum.min_max() |> Tuple.to_list()
    IO.puts("forty calls have counted to 40")

    answers =
      together.(
        for name <- names do
          fn ->
            opts = [pool: :coroutines, correlation_id: "call of #{name}"]
            Snakepit.execute("meet", %{name: name}, opts)
          end
        end
      )

    ^answers = for name <- names, do: {:ok, [name, "call of #{name}"]}
    IO.puts("four coroutines of one thread have met, each with its own context")
  end)

with {:error, reason} <- result do
  IO.puts(:stderr, "The pool did not start: #{inspect(reason)}")
  System.halt(1)
end
