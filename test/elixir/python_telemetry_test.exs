defmodule Snakepit.PythonTelemetryTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.Events
  import Snakepit.Test.Pools

  alias Snakepit.Native
  alias Snakepit.Telemetry.{Folding, GrpcStream}

  @call [:snakepit, :python, :call]
  @tool [:snakepit, :python, :tool, :execution]
  @memory [:snakepit, :python, :memory, :sampled]
  @own [:snakepit_test, :model, :loaded]
  @step [:snakepit_test, :training, :step]

  @events for(span <- [@call, @tool], what <- [:start, :stop, :exception], do: span ++ [what]) ++
            [@memory, @own, @step]

  for carrier <- [:local, :grpc] do
    describe "#{carrier}:" do
      setup do
        start_pools(
          transport: unquote(carrier),
          telemetry_events: [
            {@own, metadata: [:shade]},
            {@step, measurements: [:loss], metadata: [:epoch]}
          ]
        )

        [worker] = Snakepit.list_workers()
        eventually(fn -> stream(worker) != nil end)
        %{id: listen(@events), worker: worker}
      end

      test "a call is told from its worker, with the id that Elixir knows it by", ctx do
        assert {:ok, os_pid} = Snakepit.execute("pid", %{}, correlation_id: "c-7")
        start = event(ctx.id, @call ++ [:start])
        assert %{tool: "pid", correlation_id: "c-7", python_pid: ^os_pid} = start
        assert start.worker_id == ctx.worker and start.pool_name == :default
        assert start.node == node() and is_integer(start.timestamp_ns)
        assert start.measurements.system_time > 0
        assert %{tool: "pid"} = event(ctx.id, @tool ++ [:start])
        assert %{measurements: %{duration: duration}} = event(ctx.id, @call ++ [:stop])
        assert duration > 0
        assert %{correlation_id: "c-7"} = event(ctx.id, @tool ++ [:stop])
      end

      test "a failure is told with what was raised", ctx do
        assert {:error, _} = Snakepit.execute("spanned", %{operation: "x", fail: true})
        failure = event(ctx.id, @call ++ [:exception])
        assert %{error_type: "ValueError", error_message: "spanned", tool: "spanned"} = failure
      end

      test "events of tools arrive; keys that are not known stay texts", ctx do
        measurements = %{rss_bytes: 7, colour: 1.5, on: true}
        about = %{device: "cpu", shade: "x"}
        args = %{event: "python.memory.sampled", measurements: measurements, metadata: about}
        assert {:ok, nil} = Snakepit.execute("emit", args)
        told = event(ctx.id, @memory)
        assert told.measurements == %{:rss_bytes => 7, "colour" => 1.5, "on" => 1}
        assert %{:device => "cpu", "shade" => "x"} = told
      end

      test "events of one's own have to be named, and make no atom", ctx do
        args = %{event: "snakepit_test.training.step", measurements: %{loss: 0.5}}
        assert {:ok, _} = Snakepit.execute("emit", Map.put(args, :metadata, %{epoch: 3}))
        assert %{measurements: %{loss: 0.5}, epoch: "3"} = event(ctx.id, @step)

        assert {:ok, _} = Snakepit.execute("emit", %{event: "snakepit_test.never_heard_of_it"})
        assert {:ok, _} = Snakepit.execute("emit", %{event: "snakepit_test.model.loaded"})
        assert %{measurements: %{count: 1}} = event(ctx.id, @own)
        assert_raise ArgumentError, fn -> String.to_existing_atom("never_heard" <> "_of_it") end
      end

      test "nothing comes while it is switched off, and sampled or denied to nothing", ctx do
        %{worker: worker, id: id} = ctx
        # With the first event the worker begins to ask what is wanted.
        tell("first")
        assert %{shade: "first"} = event(id, @own)

        for {off, on} <- [
              {&GrpcStream.toggle(&1, false), &GrpcStream.toggle(&1, true)},
              {&GrpcStream.update_sampling(&1, 0.0), &GrpcStream.update_sampling(&1, 1.0)},
              {&GrpcStream.update_sampling(&1, 0.0, ["snakepit_test.m*"]),
               &GrpcStream.update_sampling(&1, 1.0, ["snakepit_test.m*"])},
              {&GrpcStream.update_filter(&1, deny: ["*.model.*"]),
               &GrpcStream.update_filter(&1, [])},
              {&GrpcStream.update_filter(&1, allow: ["python.*"]),
               &GrpcStream.update_filter(&1, allow: ["snakepit_test.*"])}
            ] do
          :ok = off.(worker)
          eventually(fn -> rate() == 0.0 end)
          tell("while it is off")
          :ok = on.(worker)
          eventually(fn -> rate() == 1.0 end)
          tell("on again")
          assert %{shade: "on again"} = event(id, @own)
        end
      end

      test "more than there is room for is dropped and counted; the rest is in order", ctx do
        args = %{event: "snakepit_test.model.loaded", times: 5_000}
        assert {:ok, _} = Snakepit.execute("emit", args)
        assert {:ok, dropped} = Snakepit.execute("dropped", %{})
        for _ <- 1..(5_000 - dropped), do: event(ctx.id, @own)
        assert {:ok, _} = Snakepit.execute("emit", Map.put(args, :times, 1))
        event(ctx.id, @own)
      end

      test "a stream is opened again when it is lost, also by its server's end", ctx do
        server = Process.whereis(GrpcStream)
        ref = Process.monitor(server)
        Process.exit(server, :kill)
        assert_receive {:DOWN, ^ref, :process, _, _}
        eventually(fn -> Process.whereis(GrpcStream) != nil and stream(ctx.worker) != nil end)
        eventually(fn -> heard?(ctx.id) end)
        :ok = GrpcStream.toggle(ctx.worker, false)
        eventually(fn -> rate() == 0.0 end)
      end

      test "a worker that comes again has a stream again", ctx do
        kill(worker_pid())
        eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{})) end)
        eventually(fn -> heard?(ctx.id) end)
      end
    end
  end

  test "what is no event is dropped" do
    id = listen([@memory])
    ctx = %{worker_id: "w", pool_name: :default, python_pid: 1}
    event = ["python.memory.sampled", %{"rss_bytes" => 1}, %{}, 0, ""]
    cbor = fn term -> term |> Native.cbor_encode() |> elem(1) end

    for bytes <- ["", <<255>>, cbor.(1), cbor.(%{}), cbor.([1, %{}, ["python.memory.sampled"]])],
        do: assert(Folding.batch(bytes, ctx) == :ok)

    for n <- 0..4 do
      for wrong <- [nil, 1.5, [1]],
          do: assert(Folding.batch(cbor.([List.replace_at(event, n, wrong)]), ctx) == :ok)
    end

    assert Folding.message(<<255>>, ctx) == :ok
    assert Folding.message("", ctx) == :ok
    refute_received {^id, _, _, _}

    assert Folding.batch(cbor.([0, event, 0]), ctx) == :ok
    assert %{measurements: %{rss_bytes: 1}, correlation_id: nil} = event(id, @memory)
    many = %{event_parts: ["python", "memory", "sampled"], measurements: %{"rss_bytes" => %{}}}
    {:ok, bytes} = Native.message_encode(:TelemetryEvent, many)
    assert Folding.message(bytes, ctx) == :ok
    assert %{measurements: %{rss_bytes: nil}} = event(id, @memory)
  end

  test "there is nothing to steer where there is no stream" do
    assert GrpcStream.toggle("nobody", true) == {:error, :not_found}
    assert GrpcStream.update_sampling("nobody", 0.5) == {:error, :not_found}
    assert GrpcStream.update_filter("nobody", []) == {:error, :not_found}
    assert GrpcStream.unregister_worker("nobody") == :ok
    assert_raise FunctionClauseError, fn -> GrpcStream.update_sampling("nobody", 1.5) end
  end

  test "a list of events that is none is refused at the start" do
    for wrong <- [:all, [:a], [["a"]], [{[:a], [labels: [:b]]}], [{[:a], measurements: ["b"]}]] do
      assert {:error, {:snakepit, {reason, _}}} = start_app(telemetry_events: wrong)
      assert inspect(reason) =~ "telemetry_events"
    end
  end

  defp stream(worker), do: Enum.find(GrpcStream.list_streams(), &(&1.worker_id == worker))

  defp tell(shade) do
    args = %{event: "snakepit_test.model.loaded", metadata: %{shade: shade}}
    {:ok, nil} = Snakepit.execute("emit", args)
  end

  # The share of these events that the worker sends, as far as it knows.
  defp rate do
    {:ok, rate} = Snakepit.execute("rate_of", %{event: "snakepit_test.model.loaded"})
    rate
  end

  defp heard?(id) do
    tell("?")
    arrives?(id, 100)
  end

  defp arrives?(id, wait) do
    receive do
      {^id, @own, _, _} -> true
    after
      wait -> false
    end
  end
end
