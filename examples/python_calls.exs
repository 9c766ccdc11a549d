# Any Python without an adapter: functions, statements, and objects that stay in
# their worker. Here a data base in its memory.
#
#     mix run --no-start examples/python_calls.exs

Logger.configure(level: :warning)

Application.put_all_env(
  snakepit: [
    pools: [%{name: :default, pool_size: 1, python_calls: true}],
    pooling_enabled: true
  ]
)

alias Snakepit.Python

result =
  Snakepit.run_as_script(fn ->
    {:ok, root} = Python.call("math.sqrt", [16])
    IO.puts("the root of 16 is #{root}")

    {:ok, db} = Python.call("sqlite3.connect", [":memory:"])
    IO.puts("#{db.type} stays in its worker")
    {:ok, _cursor} = Python.call({db, "execute"}, ["create table tides (hour int, metres real)"])

    tides = for hour <- 0..23, do: {hour, Float.round(2 + :math.sin(hour / 2), 2)}
    {:ok, _cursor} = Python.call({db, "executemany"}, ["insert into tides values (?, ?)", tides])

    {:ok, rows} = Python.call({db, "execute"}, ["select * from tides order by metres desc"])
    {hour, metres} = rows |> Python.stream() |> Enum.at(0)
    IO.puts("the highest tide is #{metres} m, at #{hour}:00")

    {:error, error} = Python.call({db, "execute"}, ["select * from nowhere"])
    IO.puts("#{error.python_type}: #{error.message}")

    {:ok, module} = Python.exec("def range_of(xs): return max(xs) - min(xs)")
    {:ok, range} = Python.call({module, "range_of"}, [for({_hour, metres} <- tides, do: metres)])
    IO.puts("between high and low there are #{Float.round(range, 2)} m")

    :ok = Python.release(db)
    {:error, gone} = Python.call({db, "close"})
    IO.puts(Exception.message(gone))
  end)

with {:error, reason} <- result do
  IO.puts(:stderr, "The pool did not start: #{inspect(reason)}")
  System.halt(1)
end
