# The BEAM as a gRPC server: what any client may call, with and without the token.
#
#     mix run --no-start examples/grpc.exs

alias Snakepit.Bridge.{SessionStore, ToolRegistry}
alias Snakepit.GRPC.{Client, Listener}

Logger.configure(level: :warning)

python = Enum.map(["python", "../priv/python"], &Path.expand(&1, __DIR__))
Application.put_env(:snakepit, :pooling_enabled, true)
Application.put_env(:snakepit, :pool_size, 1)
Application.put_env(:snakepit, :adapter_args, ["--adapter", "shop.Shop"])
Application.put_env(:snakepit, :adapter_env, [{"PYTHONPATH", Enum.join(python, ":")}])

result =
  Snakepit.run_as_script(fn ->
    session = "counter"
    {:ok, _} = SessionStore.create_session(session, metadata: %{place: "Oslo"})

    :ok =
      ToolRegistry.register_elixir_tool(
        session,
        "open_until",
        fn %{"day" => day} -> if day == "Sunday", do: 16, else: 20 end,
        %{description: "The hour at which it closes", exposed_to_python: true}
      )

    # To a server of its own VM the client shows the token by itself.
    {:ok, channel} = Client.connect(Listener.address())
    {:ok, 16} = Client.execute_tool(channel, session, "open_until", %{day: "Sunday"})
    IO.puts("an Elixir tool, over gRPC")

    # The worker has told of its tools when it started.
    {:ok, %{type: :remote, pool: :default}} = ToolRegistry.get_tool(session, "price")
    {:ok, 500} = Client.execute_tool(channel, session, "price", %{item: "tea", count: 2})
    IO.puts("a tool of the worker, by its name")

    {:ok, chunks} = Client.execute_streaming_tool(channel, session, "list_items", %{})
    IO.puts("a stream of #{chunks |> Enum.filter(&match?({:ok, _}, &1)) |> length()} chunks")

    {:ok, %{session: %{metadata: %{"place" => "Oslo"}}}} = Client.get_session(channel, session)
    :ok = Client.close(channel)

    {:ok, stranger} = Client.connect(Listener.address(), token: nil)
    {:ok, _pong} = Client.ping(stranger, "anybody there?")

    {:error, %Snakepit.Error{grpc_status: :unauthenticated} = error} =
      Client.execute_tool(stranger, session, "price", %{item: "tea"})

    IO.puts("without the token: #{error.grpc_status}")
    :ok = Client.close(stranger)

    {:ok, friend} = Client.connect(Listener.address(), token: Listener.token())
    {:ok, 250} = Client.execute_tool(friend, session, "price", %{item: "tea"})
    :ok = Client.close(friend)
  end)

with {:error, reason} <- result do
  IO.puts(:stderr, "The pool did not start: #{inspect(reason)}")
  System.halt(1)
end
