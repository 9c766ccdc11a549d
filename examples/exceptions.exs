# What a Python exception is in Elixir, and what becomes of objects.
#
#     mix run --no-start examples/exceptions.exs

alias Snakepit.Error

Logger.configure(level: :warning)

python = Enum.map(["python", "../priv/python"], &Path.expand(&1, __DIR__))
Application.put_env(:snakepit, :pooling_enabled, true)
Application.put_env(:snakepit, :pool_size, 1)
Application.put_env(:snakepit, :adapter_args, ["--adapter", "orders.Orders"])

Application.put_env(:snakepit, :adapter_env, [
  {"PYTHONPATH", Enum.join(python, ":")},
  {"SNAKEPIT_UNSERIALIZABLE_DETAIL", "repr_redacted_truncated"}
])

result =
  Snakepit.run_as_script(fn ->
    {:error, %Error.PythonException{python_type: "OutOfStock"} = error} =
      Snakepit.execute("order", %{item: "tea", count: 3})

    %{"item" => "tea", "wanted" => 3, "left" => 1} = error.attributes
    frame = List.last(error.frames)
    IO.puts("#{Exception.message(error)}, line #{frame.line} in #{frame.function}")

    {:error, %Error.ValueError{cause: %Error.KeyError{}} = error} =
      Snakepit.execute("order", %{item: "hat", count: 1})

    IO.puts("#{error.message}, because of #{error.cause.python_type}")

    # ModuleNotFoundError has no struct of its own: its base has.
    {:error, %Error.ImportError{python_type: "ModuleNotFoundError"} = error} =
      Snakepit.execute("load", %{module: "no_such_module"})

    IO.puts(error.message)

    {:ok, objects} = Snakepit.execute("objects", %{})
    %{"day" => "2024-02-29", "bytes" => <<0, 255>>} = objects
    %{"pair" => {1, "x"}, "converted" => %{"cents" => 250}} = objects
    {:ok, info} = Snakepit.Serialization.unserializable_info(objects["connection"])
    IO.puts("#{info.type} stays in Python: #{info.repr}")
  end)

with {:error, reason} <- result do
  IO.puts(:stderr, "The pool did not start: #{inspect(reason)}")
  System.halt(1)
end
