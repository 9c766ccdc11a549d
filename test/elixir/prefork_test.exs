defmodule Snakepit.PreforkTest do
  # Workers that are forked from a zygote, and those that cannot be.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.{Config, Error, OSProcess, Pool, Spawner}
  alias Snakepit.GRPCWorker.Output
  alias Snakepit.Pool.Zygotes

  @moduletag :capture_log

  # By gRPC too: the suite runs once for each carrier.
  defp start(settings), do: start_pools(Keyword.put_new(settings, :prefork, true))

  # Those of ready workers; what is between two lives has none.
  defp pids do
    for id <- Pool.list_workers(),
        {:ok, pid} <- [Snakepit.GRPCWorker.execute(id, "pid", %{})],
        do: pid
  end

  # One answer of each worker.
  defp each(command, args \\ %{}) do
    for id <- Pool.list_workers() do
      {:ok, value} = Snakepit.GRPCWorker.execute(id, command, args)
      value
    end
  end

  defp importer!(opts \\ []) do
    {:ok, pid} = Snakepit.execute("importer", %{}, opts)
    pid
  end

  defp zygote!, do: hd(zygotes!())

  defp zygotes! do
    ids = Zygotes.os_ids()
    for %{id: id, os_pid: pid} <- Spawner.info().children, id in ids, do: pid
  end

  defp parent(pid) do
    [_, parent] = Regex.run(~r/^PPid:\s*(\d+)$/m, File.read!("/proc/#{pid}/status"))
    String.to_integer(parent)
  end

  defp unfit(how) do
    [adapter_env: [{"SNAKEPIT_TEST_UNFIT", how} | test_env()], pool_size: 2, prefork: true]
  end

  # ---- forked -------------------------------------------------------------

  test "workers are copies of one process that imported the adapter" do
    start(pool_size: 3)
    pids = each("pid")
    zygote = zygote!()
    assert length(Enum.uniq(pids)) == 3
    assert each("importer") == [zygote, zygote, zygote]
    refute zygote in pids

    # Each has a guard of its own, and that only the spawner above it.
    guards = Enum.map(pids, &parent/1)
    assert length(Enum.uniq(guards)) == 3
    assert Enum.uniq(Enum.map(guards, &parent/1)) == [Spawner.info().os_pid]

    assert Enum.map(guards, &File.read!("/proc/#{&1}/comm")) |> Enum.uniq() == [
             "snakepit_guard\n"
           ]

    # And a session of its own.
    for pid <- pids do
      assert [_, _, _, session | _] = File.read!("/proc/#{pid}/stat") |> fields()
      assert session == "#{pid}"
    end
  end

  defp fields(stat), do: stat |> String.split(") ") |> List.last() |> String.split()

  test "each has randomness, environment and descriptors of its own" do
    start(pool_size: 3, prefork: [preload: ["numpy", "numpy.random"]])
    assert each("imported", %{name: "numpy"}) == [true, true, true]
    numbers = each("random")
    for kind <- ["random", "numpy", "uuid", "os"], do: assert_all_differ(numbers, kind)

    assert_all_differ(each("env", %{name: "SNAKEPIT_READY_FILE"}))
    assert each("env", %{name: "SNAKEPIT_WORKER_ID"}) == Pool.list_workers()
    assert each("env", %{name: "SNAKEPIT_LOCAL_TOKEN"}) == [nil, nil, nil]
    assert each("env", %{name: "SNAKEPIT_ZYGOTE"}) == [nil, nil, nil]

    # Of the zygote's they have none: its socket, and what others were given.
    sockets = Enum.map(each("pid"), &sockets/1)
    [one, two, three] = Enum.map(sockets, &MapSet.new/1)
    assert MapSet.disjoint?(one, two) and MapSet.disjoint?(two, three)
    zygote = MapSet.new(sockets(zygote!()))
    assert MapSet.size(zygote) > 0
    assert MapSet.disjoint?(one, zygote)
  end

  defp sockets(pid) do
    for name <- File.ls!("/proc/#{pid}/fd"),
        {:ok, "socket:" <> _ = target} <- [File.read_link("/proc/#{pid}/fd/#{name}")],
        do: target
  end

  defp assert_all_differ(maps, key), do: assert_all_differ(Enum.map(maps, &Map.fetch!(&1, key)))

  defp assert_all_differ(values) do
    refute nil in values
    assert Enum.uniq(values) == values
  end

  test "what a worker prints is known to be that worker's" do
    level = Logger.level()
    on_exit(fn -> Logger.configure(level: level) end)
    Logger.configure(level: :info)

    log =
      capture_log(fn ->
        start(pool_size: 2, log_python_output: true, log_level: :info)

        for id <- Pool.list_workers() do
          {:ok, nil} = Snakepit.GRPCWorker.execute(id, "say", %{text: "I am in #{id}."})
          {:ok, pid} = Pool.Registry.get_worker_pid(id)
          eventually(fn -> Output.all(:sys.get_state(pid).output) =~ "I am in #{id}.\n" end)
        end

        ids = Pool.list_workers()
        stop_app()
        send(self(), {:ids, ids})
      end)

    assert_received {:ids, ids}
    for id <- ids, do: assert(log =~ "#{id}: I am in #{id}.")
  end

  test "pools of the same kind share a zygote, others do not" do
    common = Map.new(Keyword.take(defaults(), [:adapter_args, :adapter_env, :transport]))

    start(
      pools: [
        Map.merge(common, %{name: :one, pool_size: 1}),
        Map.merge(common, %{name: :two, pool_size: 1}),
        Map.merge(common, %{name: :other, pool_size: 1, adapter_env: [{"X", "1"} | test_env()]}),
        Map.merge(common, %{name: :cold, pool_size: 1, prefork: false})
      ]
    )

    assert importer!(pool: :one) == importer!(pool: :two)
    assert importer!(pool: :one) != importer!(pool: :other)
    assert importer!(pool: :cold) == worker_pid(pool: :cold)
    assert length(zygotes!()) == 2
  end

  test "threads of a worker start after the fork" do
    start(
      pool_size: 1,
      worker_profile: :thread,
      pool_config: %{threads_per_worker: 4},
      adapter_args: ["--adapter", "snakepit_test_tools.ThreadedTestTools"]
    )

    assert importer!() == zygote!()
    paths = for n <- 1..4, do: signal_path() <> "#{n}"
    tasks = Enum.map(paths, &occupy/1)
    Enum.each(paths, &go/1)
    assert [{:ok, pid}, {:ok, pid}, {:ok, pid}, {:ok, pid}] = Task.await_many(tasks, 60_000)
  end

  # Two pauses of a minute would be more than start_pools waits.
  test "pauses between batches are not for forked workers" do
    start(pool_size: 3, pool_startup_batch_size: 1, pool_startup_batch_delay_ms: 60_000)
    assert length(Pool.list_workers()) == 3
  end

  # ---- ends ---------------------------------------------------------------

  test "workers outlive their zygote, and the next one comes of a new" do
    start(pool_size: 2)
    [one, two] = each("pid")
    old = zygote!()
    kill(old)
    # Whether or not its end is known by then.
    kill(one)
    eventually(fn -> length(pids()) == 2 and one not in pids() end)
    assert two in pids()
    assert [new] = Enum.uniq(each("importer")) -- [old]
    assert new == zygote!()
  end

  test "a zygote that hangs is replaced" do
    start(pool_size: 1)
    old = zygote!()
    worker = worker_pid()
    kill(old, "STOP")
    kill(worker)
    eventually(fn -> match?({:ok, pid} when pid != worker, Snakepit.execute("pid", %{})) end)
    assert importer!() not in [old, worker]
  end

  test "a worker's family ends with it, and no other" do
    start(pool_size: 2)
    [one, two] = each("pid")
    daemons = each("daemon")
    [first, second] = Enum.map(daemons, &{&1, OSProcess.start_time(&1)})
    kill(one)
    eventually(fn -> not alive?(first) end)
    assert alive?(second)
    assert two in pids()
    stop_app()
    refute alive?(second)
  end

  test "all end with the spawner, and come again" do
    start(pool_size: 2)

    left =
      [zygote!() | each("pid") ++ each("daemon")] |> Enum.map(&{&1, OSProcess.start_time(&1)})

    spawner = Spawner.info().os_pid
    kill(spawner)
    eventually(fn -> not Enum.any?(left, &alive?/1) end)
    eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{})) end)
    assert Spawner.info().os_pid != spawner
  end

  test "a zygote is gone with the pools" do
    start(pool_size: 1)
    zygote = {zygote!(), OSProcess.start_time(zygote!())}
    assert stop_app() == []
    eventually(fn -> not alive?(zygote) end)
  end

  defp alive?({pid, time}), do: OSProcess.alive?(pid, time)

  # ---- not forked ---------------------------------------------------------

  for {how, why} <- [
        {"thread", "it has started threads"},
        {"socket", "it has opened socket:"},
        {"child", "it has started other processes"}
      ] do
    test "an adapter with a #{how} of its own is not forked, and the log says why" do
      log = capture_log(fn -> start([log_level: :warning] ++ unfit(unquote(how))) end)
      assert log =~ "not forked: #{unquote(why)}"
      # Once, not for each worker.
      assert [_, _] = String.split(log, "not forked")
      assert each("importer") == each("pid")
      assert Zygotes.os_ids() == []
    end
  end

  test "prefork: false starts each by itself" do
    start(pool_size: 2, prefork: false)
    assert each("importer") == each("pid")
    assert Zygotes.os_ids() == []
  end

  test "an import that fails is told once, with its last lines" do
    {:ok, _} = start_app(Keyword.merge(defaults(), prefork: [preload: ["no_such_module"]]))
    assert {:error, %Error{} = error} = Pool.await_ready(Pool, 60_000)
    assert error.message =~ "no_such_module"
    assert error.message =~ "preload"
    assert error.details.cause == {:exit_status, 1}
    assert error.details.stderr =~ "ModuleNotFoundError"
  end

  test "an import that hangs ends with the time-out, and its last lines" do
    settings = unfit("hang") ++ [grpc_server_ready_timeout: 3_000]
    {:ok, _} = start_app(Keyword.merge(defaults(), settings))
    assert {:error, %Error{} = error} = Pool.await_ready(Pool, 60_000)
    assert error.message =~ "did not get ready within 3000 ms"
    assert error.details.stderr == "about to hang"
  end

  test "configuration" do
    check = fn prefork -> Config.validate_pool_config(%{name: :p, prefork: prefork}) end
    assert {:ok, %{prefork: true}} = Config.validate_pool_config(%{name: :p})

    for ok <- [true, false, [preload: []], [preload: ["a", "a.b"]]],
        do: assert({:ok, _} = check.(ok))

    for bad <- [:yes, [], [preload: "a"], [preload: ["a b"]], [preload: [:a]], [import: ["a"]]],
        do: assert({:error, {:invalid_prefork, ^bad, _}} = check.(bad))
  end

  # ---- a BEAM that is killed ----------------------------------------------

  @beam """
  Logger.configure(level: :critical)
  Application.put_all_env(snakepit: SETTINGS)
  {:ok, _} = Application.ensure_all_started(:snakepit)
  :ok = Snakepit.Pool.await_init_complete(Snakepit.Pool, 60_000)

  for id <- Snakepit.Pool.list_workers(), command <- ["pid", "importer", "daemon"] do
    {:ok, pid} = Snakepit.GRPCWorker.execute(id, command, %{})
    IO.puts(pid)
  end

  IO.puts("spawner \#{Snakepit.Spawner.info().os_pid} \#{System.pid()}")
  Process.sleep(:infinity)
  """

  for {who, of} <- [{"the BEAM", [:beam]}, {"BEAM and spawner", [:beam, :spawner]}] do
    test "nobody is left when #{who} is killed" do
      %{port: port, family: family} = found = beam!()
      assert Enum.all?(family, &alive?/1)
      Snakepit.Test.Spawning.kill_at_once!(for who <- unquote(of), do: found[who])
      assert_receive {^port, {:exit_status, _}}, 60_000
      eventually(fn -> not Enum.any?(family, &alive?/1) end)
    end
  end

  defp beam! do
    settings = inspect(Keyword.merge(defaults(), pool_size: 4, prefork: true), limit: :infinity)
    paths = Enum.flat_map(:code.get_path(), &["-pa", to_string(&1)])
    code = String.replace(@beam, "SETTINGS", settings)

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :binary,
        :exit_status,
        line: 4096,
        args: paths ++ ["-e", code]
      ])

    {pids, [spawner, beam]} = lines(port, [])
    on_exit(fn -> System.cmd("kill", ["-KILL", "#{beam}"], stderr_to_stdout: true) end)
    family = for pid <- [spawner | pids], do: {pid, OSProcess.start_time(pid)}
    %{port: port, family: family, spawner: spawner, beam: beam}
  end

  defp lines(port, pids) do
    receive do
      {^port, {:data, {:eol, "spawner " <> last}}} ->
        {Enum.uniq(pids), last |> String.split() |> Enum.map(&String.to_integer/1)}

      # What DETS may say of another test's file is no number.
      {^port, {:data, {:eol, "dets: " <> _}}} ->
        lines(port, pids)

      {^port, {:data, {:eol, pid}}} ->
        lines(port, [String.to_integer(pid) | pids])
    after
      60_000 -> flunk("the other BEAM does not get ready; its workers: #{inspect(pids)}")
    end
  end
end
