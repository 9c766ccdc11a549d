# Streams into a tool: a file that is read line by line, as far as Python wants it.
#
#     mix run --no-start examples/inputs.exs

Logger.configure(level: :warning)
Application.put_env(:snakepit, :pooling_enabled, true)
Application.put_env(:snakepit, :pool_size, 1)
Application.put_env(:snakepit, :adapter_args, ["--adapter", "flows.Flows"])

python = Enum.map(["python", "../priv/python"], &Path.expand(&1, __DIR__))
Application.put_env(:snakepit, :adapter_env, [{"PYTHONPATH", Enum.join(python, ":")}])

# The weekly CO2 at Mauna Loa, one number for each line that has one.
weeks =
  Path.expand("data/co2_weekly.csv", __DIR__)
  |> File.stream!()
  |> Stream.flat_map(fn line ->
    with [_date, value | _] <- String.split(String.trim(line), ","),
         {ppm, _rest} <- Float.parse(value),
         do: [ppm],
         else: (_ -> [])
  end)

result =
  Snakepit.run_as_script(fn ->
    {:ok, total} = Snakepit.execute("sum_all", %{}, inputs: 1..1_000)
    IO.puts("1 + 2 + ... + 1000 = #{total}")

    {:ok, found} = Snakepit.execute("first_above", %{limit: 350.0}, inputs: weeks)
    IO.puts("#{found["value"]} ppm is the first above 350, in line #{found["read"]} of the file")

    means = Snakepit.stream("running_mean", %{window: 52}, inputs: weeks)
    years = for %{"mean" => mean} <- Stream.take_every(means, 520), do: Float.round(mean, 1)
    IO.puts("the mean of a year, every ten years: #{inspect(years)}")
  end)

with {:error, reason} <- result do
  IO.puts(:stderr, "The pool did not start: #{inspect(reason)}")
  System.halt(1)
end
