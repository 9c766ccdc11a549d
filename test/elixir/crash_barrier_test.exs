defmodule Snakepit.CrashBarrierTest do
  use ExUnit.Case, async: false

  import Snakepit.Test.AppEnv
  import Snakepit.Test.Events

  alias Snakepit.{Config, CrashBarrier, Error, ETSOwner}
  alias Snakepit.Worker.TaintRegistry

  doctest CrashBarrier

  defp id, do: "test_worker_#{System.unique_integer([:positive])}"
  defp class(result, config \\ CrashBarrier.config()), do: CrashBarrier.crash_info(result, config)
  defp exited(why), do: {:error, {:worker_exit, why}}

  # ---- settings -----------------------------------------------------------

  test "off, with the documented defaults" do
    put_env(crash_barrier: nil)

    assert %{
             enabled: false,
             retry: :idempotent,
             max_restarts: 1,
             taint_duration_ms: 60_000,
             backoff_ms: [50, 100, 200],
             mark_on: [:segfault, :oom, :gpu]
           } = config = CrashBarrier.config()

    refute CrashBarrier.enabled?(config)
    refute CrashBarrier.enabled?(%{})
  end

  test "pool over application over the flat keys; maps, lists, text keys, other names" do
    put_env(
      crash_barrier: [enabled: true, taint_ms: 5_000, max_retries: 4],
      crash_barrier_max_restarts: 9,
      crash_barrier_backoff_ms: [7]
    )

    assert %{enabled: true, taint_duration_ms: 5_000, max_restarts: 4, backoff_ms: [7]} =
             CrashBarrier.config()

    pool = %{crash_barrier: %{"taint_ms" => 1, retry: "always", mark_on: ["abort"]}}

    assert %{taint_duration_ms: 1, max_restarts: 4, retry: :always, mark_on: [:abort]} =
             CrashBarrier.config(pool)

    assert %{enabled: false} = CrashBarrier.config(crash_barrier: false)
    assert %{retry: :never} = CrashBarrier.config(crash_barrier: [retry: false])
    assert %{retry: :idempotent} = CrashBarrier.config(crash_barrier: [retry: true])
    assert %{retry: :never} = CrashBarrier.config(crash_barrier: [retry_idempotent: false])
    put_env(crash_barrier: nil)
    assert %{max_restarts: 9} = CrashBarrier.config()
  end

  test "a wrong value is refused, with its name" do
    put_env(crash_barrier: nil)

    for {key, value} <- [
          enabled: 1,
          retry: :sometimes,
          max_restarts: -1,
          taint_duration_ms: 1.5,
          backoff_ms: [-1],
          mark_on: [:flu],
          taint_on_exit_codes: 1,
          taint_on_error_types: [1]
        ] do
      pool = %{name: :p, crash_barrier: [{key, value}]}

      assert {:error, {:invalid_crash_barrier, ^key, ^value, text}} =
               Config.validate_pool_config(pool)

      assert text =~ "#{key}"
    end

    assert {:error, {:invalid_crash_barrier, :crash_barrier, :on, _}} =
             Config.validate_pool_config(%{name: :p, crash_barrier: :on})

    assert {:ok, _} = Config.validate_pool_config(%{name: :p, crash_barrier: [enabled: true]})
  end

  # ---- what happened ------------------------------------------------------

  test "exit statuses and signals" do
    for {why, expected} <- [
          {{:exit_status, 139}, :segfault},
          {{:exit_status, 137}, :oom},
          {{:grpc_server_exited, 139}, :segfault},
          {{:external_process_died, {:exit_status, 139}}, :segfault},
          {{:external_process_died, {:signal, 11}}, :segfault},
          {{:shutdown, {:grpc_server_exited, 137}}, :oom},
          {%{exit: {:signal, 11}, stderr: "", worker_id: "w"}, :segfault},
          {%{exit: {:signal, 9}, stderr: ""}, :oom},
          {%{exit: {:exit_status, 1}, stderr: "RuntimeError: CUDA error: an illegal access"},
           :gpu},
          {%{exit: {:signal, 6}, stderr: "device-side assert triggered"}, :gpu},
          {"cuda broke", :gpu}
        ] do
      assert {:ok, %{type: :worker_crash, classification: ^expected}} = class(exited(why))
    end

    for why <- [
          {:exit_status, 1},
          {:exit_status, 134},
          {:signal, 15},
          :noproc,
          :shutdown,
          %{exit: {:signal, 6}, stderr: ""},
          %{exit: :stopped, stderr: ""},
          # It only says what it works with.
          %{exit: {:exit_status, 1}, stderr: "using cuda:0 (gpu)"},
          %{exit: {:exit_status, 0}, stderr: "CUDA error"},
          %{exit: {:signal, 9}, stderr: "", killed: true}
        ] do
      assert class(exited(why)) == :error
    end

    for no_exit <- [{:ok, 1}, :ok, {:error, :timeout}, {:error, Error.pool_error("gpu")}],
        do: assert(class(no_exit) == :error)
  end

  test "what counts can be set" do
    config =
      CrashBarrier.config(crash_barrier: [mark_on: [:abort], taint_on_exit_codes: [3, 135]])

    assert {:ok, %{classification: :abort, exit_code: 134}} = class(exited({:signal, 6}), config)

    assert {:ok, %{classification: :exit_code, exit_code: 3}} =
             class(exited({:exit_status, 3}), config)

    assert {:ok, %{exit_code: 135}} = class(exited({:signal, 7}), config)
    assert :error = class(exited({:signal, 11}), config)

    types = CrashBarrier.config(crash_barrier: [taint_on_error_types: ["NcclError"]])
    said = %{exit: {:exit_status, 1}, stderr: "torch.NCCLERROR on cuda:3", worker_id: "w"}

    assert {:ok, %{classification: :gpu, device: {:cuda, 3}, worker_id: "w"}} =
             class(exited(said), types)
  end

  test "the public error has what is known in its details" do
    {:ok, info} = class(exited({:exit_status, 139}))

    assert {:error, %Error{category: :worker, details: details}} =
             CrashBarrier.normalize_crash_error(exited({:exit_status, 139}), info)

    assert %{
             type: :worker_crash,
             classification: :segfault,
             exit_code: 139,
             reason: :worker_exit,
             exit_reason: {:exit_status, 139}
           } = details

    assert {:ok, 1} = CrashBarrier.normalize_crash_error({:ok, 1}, info)
  end

  test "who may be retried" do
    for {policy, marked?, expected} <- [
          {:idempotent, true, [true, true, false]},
          {:idempotent, false, [false, false, false]},
          {:always, false, [true, true, false]},
          {:never, true, [false, false, false]}
        ] do
      config = CrashBarrier.config(crash_barrier: [retry: policy, max_restarts: 2])
      assert Enum.map(0..2, &CrashBarrier.retry_allowed?(config, marked?, &1)) == expected
    end

    assert CrashBarrier.retry_backoff(%{backoff_ms: []}, 0) == 0
    assert CrashBarrier.idempotent?(idempotent: true)

    for args <- [nil, [], %{idempotent: "true"}, [idempotent: false], %{"idempotent" => nil}, "x"],
        do: refute(CrashBarrier.idempotent?(args))
  end

  # ---- taints -------------------------------------------------------------

  test "a taint lasts its time, and tells of the restart once" do
    events = for what <- [:crash, :tainted, :restarted], do: [:snakepit, :worker, what]
    seen = listen(events)
    id = id()
    {:ok, info} = class(exited({:signal, 11}))
    config = CrashBarrier.config(crash_barrier: [taint_ms: 60_000])
    refute CrashBarrier.worker_tainted?(id)
    :ok = CrashBarrier.taint_worker(:p, id, info, config)
    assert CrashBarrier.worker_tainted?(id)
    about = %{worker_id: id, pool: :p, reason: :segfault, exit_code: 139, device: nil}
    assert Map.delete(event(seen, [:snakepit, :worker, :crash]), :measurements) == about
    assert %{measurements: %{duration_ms: 60_000}} = event(seen, [:snakepit, :worker, :tainted])
    assert {:ok, %{reason: :segfault, pool: :p}} = TaintRegistry.worker_info(id)

    :ok = CrashBarrier.maybe_emit_restart(:p, id)
    assert Map.delete(event(seen, [:snakepit, :worker, :restarted]), :measurements) == about
    :ok = CrashBarrier.maybe_emit_restart(:p, id)
    refute_received {^seen, [:snakepit, :worker, :restarted], _, _}
    assert CrashBarrier.worker_tainted?(id)

    :ok = TaintRegistry.clear_worker(id)
    refute TaintRegistry.worker_tainted?(id)
    assert TaintRegistry.worker_info(id) == :error
    assert TaintRegistry.consume_restart(id) == :error
  end

  test "when it is over it is over; a restart is told of even then" do
    id = id()
    :ok = TaintRegistry.taint_worker(id, duration_ms: 0, reason: :oom)
    refute TaintRegistry.worker_tainted?(id)
    assert TaintRegistry.worker_info(id) == :error
    assert {:ok, %{reason: :oom}} = TaintRegistry.consume_restart(id)
    assert TaintRegistry.consume_restart(id) == :error
    assert TaintRegistry.consume_restart("nobody") == :error
    assert TaintRegistry.clear_worker("nobody") == :ok
  end

  test "of many that ask only one is told of the restart" do
    for _ <- 1..20 do
      id = id()
      :ok = TaintRegistry.taint_worker(id, %{reason: :gpu})
      ask = fn -> TaintRegistry.consume_restart(id) end
      told = 1..8 |> Enum.map(fn _ -> Task.async(ask) end) |> Task.await_many(60_000)
      assert Enum.count(told, &match?({:ok, _}, &1)) == 1
      :ok = TaintRegistry.clear_worker(id)
    end
  end

  test "the table outlives who made it, and is one of those that are known" do
    task = Task.async(fn -> ETSOwner.ensure_table(:snakepit_worker_taints) end)
    assert Task.await(task, 60_000) == :snakepit_worker_taints
    assert :ets.info(:snakepit_worker_taints, :owner) == Process.whereis(ETSOwner)
    assert_raise ArgumentError, ~r/unknown ETS table/, fn -> ETSOwner.ensure_table(:other) end
  end
end
