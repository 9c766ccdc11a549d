defmodule Snakepit.PreforkSettingsTest do
  # What a pool sets for its workers holds for forked ones, too, and not for the
  # zygote, which serves several pools.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.{Error, GRPCWorker, OSProcess, Pool, Spawner}
  alias Snakepit.Pool.Zygotes

  @moduletag :capture_log
  @patience 60_000

  defp start(pools) do
    {:ok, _} = Keyword.merge(defaults(), pools: Enum.map(pools, &pool/1)) |> start_app()
    Pool.await_init_complete(Pool, @patience)
  end

  defp pool(settings) do
    defaults()
    |> Keyword.take([:adapter_args, :adapter_env, :transport, :pool_size])
    |> Keyword.merge(prefork: true, name: :default)
    |> Keyword.merge(settings)
    |> Map.new()
  end

  # A worker that is known to be a copy of the zygote.
  defp forked!(pool \\ :default) do
    {:ok, pid} = Snakepit.execute("pid", %{}, pool: pool)
    assert {:ok, zygote!()} == Snakepit.execute("importer", %{}, pool: pool)
    pid
  end

  defp zygote! do
    [id] = Zygotes.os_ids()
    %{os_pid: pid} = Enum.find(Spawner.info().children, &(&1.id == id))
    pid
  end

  defp held(pid), do: Enum.find(Spawner.info().children, &(&1.os_pid == pid)).held

  defp limit(pid, name) do
    [_, soft, hard] =
      Regex.run(~r/^Max #{name} +(\S+) +(\S+)/m, File.read!("/proc/#{pid}/limits"))

    {soft, hard}
  end

  # Of all its threads.
  defp niceness(pid) do
    for text <- of_threads(pid, "stat"), uniq: true do
      text |> String.split(") ") |> List.last() |> String.split() |> Enum.at(16)
    end
  end

  defp processors(pid) do
    for text <- of_threads(pid, "status"), uniq: true do
      [_, list] = Regex.run(~r/^Cpus_allowed_list:\s*(\S+)$/m, text)
      list
    end
  end

  # Threads end at any time.
  defp of_threads(pid, name) do
    for file <- Path.wildcard("/proc/#{pid}/task/*/#{name}"),
        {:ok, text} <- [File.read(file)],
        do: text
  end

  defp cgroup(pid), do: File.read!("/proc/#{pid}/cgroup")

  defp parent(pid) do
    [_, parent] = Regex.run(~r/^PPid:\s*(\d+)$/m, File.read!("/proc/#{pid}/status"))
    String.to_integer(parent)
  end

  defp with_time(pid), do: {pid, OSProcess.start_time(pid)}
  defp alive?({pid, time}), do: OSProcess.alive?(pid, time)

  # ---- limits, niceness, processors ---------------------------------------

  test "limits and niceness are the worker's, not the zygote's nor another pool's" do
    limits = [open_files: {500, 600}, cpu_seconds: 9_000, core_size: 0, memory: "4G"]
    :ok = start([[name: :held, limits: limits, nice: 19], [name: :free]])
    held = forked!(:held)

    assert limit(held, "open files") == {"500", "600"}
    assert limit(held, "cpu time") == {"9000", "9005"}
    assert limit(held, "core file size") == {"0", "0"}
    assert niceness(held) == ["19"]

    if :memory not in held(held),
      do: assert(limit(held, "data size") == {"4294967296", "4294967296"})

    # The usual ones are those of the BEAM.
    for pid <- [zygote!(), forked!(:free)] do
      for name <- ["open files", "cpu time", "core file size", "data size"],
          do: assert(limit(pid, name) == limit(System.pid(), name))

      assert Enum.all?(niceness(pid), &(&1 in niceness(System.pid())))
    end
  end

  test "each has its share of the processors, and its successor the same" do
    :ok = start([[pool_size: 2, cpu_affinity: :compact]])
    forked!()
    workers = for %{share: share} = child when share != nil <- Spawner.info().children, do: child
    assert workers |> Enum.map(& &1.share) |> Enum.sort() == [0, 1]

    for worker <- workers do
      assert [list] = processors(worker.os_pid)
      assert list =~ ~r/^\d+$/
    end

    assert processors(zygote!()) == [hd(processors(Spawner.info().os_pid))]

    [one, _two] = workers
    [list] = processors(one.os_pid)
    kill(one.os_pid)

    eventually(fn ->
      Enum.any?(Spawner.info().children, fn child ->
        child.share == one.share and child.os_pid != one.os_pid and
          processors(child.os_pid) == [list]
      end)
    end)
  end

  test "a limit that cannot be set is told, and costs neither time nor the zygote" do
    :ok = start([[]])
    worker = forked!()
    [zygote] = Zygotes.os_ids()
    spec = %{program: "none", settings: ["limit=nofile=1000000000000"]}

    assert {:error, %{stage: :limit, errno: :eperm, message: message}} =
             Spawner.fork(zygote, spec)

    assert message =~ "nofile"
    kill(worker)
    eventually(fn -> match?({:ok, pid} when pid != worker, Snakepit.execute("pid", %{})) end)
    forked!()
    assert Zygotes.os_ids() == [zygote]
  end

  test "nor does a pool with such a limit start" do
    assert {:error, %Error{message: message}} = start([[limits: [open_files: 1_000_000_000_000]]])

    assert message =~ "limit nofile"
    assert message =~ "lower it"
  end

  # ---- cgroups ------------------------------------------------------------

  # Where the machine has none, that is said, as without prefork.
  defp start_contained(settings \\ []) do
    case start([[containment: :cgroup] ++ settings]) do
      :ok ->
        true

      {:error, %Error{message: message}} ->
        assert message =~ "another containment"
        false
    end
  end

  defp cgroups do
    {text, 0} = System.cmd("sh", ["-c", "grep cgroup2 /proc/self/mounts | cut -d' ' -f2"])
    prefix = "snakepit-#{Spawner.info().os_pid}-"

    for mount <- String.split(text), path <- Path.wildcard("#{mount}/**/#{prefix}*"), do: path
  end

  test "each worker has its cgroup with its family in it, and the zygote has none" do
    if start_contained(pool_size: 2) do
      for id <- Pool.list_workers() do
        {:ok, pid} = GRPCWorker.execute(id, "pid", %{})
        {:ok, daemon} = GRPCWorker.execute(id, "daemon", %{})
        assert :cgroup in held(pid)
        assert [path] = Enum.filter(cgroups(), &(cgroup(pid) =~ "/" <> Path.basename(&1)))
        assert cgroup(daemon) == cgroup(pid)
        assert File.read!(Path.join(path, "cgroup.procs")) =~ "#{daemon}\n"
        assert cgroup(parent(pid)) == cgroup(Spawner.info().os_pid)
      end

      assert length(cgroups()) == 2
      assert cgroup(zygote!()) == cgroup(Spawner.info().os_pid)
      dirs = cgroups()
      assert stop_app() == []
      refute Enum.any?(dirs, &File.exists?/1)
    end
  end

  test "a family in a cgroup ends with its guard; the end of the zygote is nothing to it" do
    if start_contained(pool_size: 2) do
      forked!()
      [one, two] = Pool.list_workers()
      {:ok, pid} = GRPCWorker.execute(one, "pid", %{})
      {:ok, daemon} = GRPCWorker.execute(one, "daemon", %{})
      {:ok, other} = GRPCWorker.execute(two, "pid", %{})
      family = Enum.map([pid, daemon], &with_time/1)
      other = with_time(other)
      zygote = zygote!() |> with_time()

      kill(elem(zygote, 0))
      eventually(fn -> not alive?(zygote) end)
      assert Enum.all?([other | family], &alive?/1)
      assert {:ok, ^pid} = GRPCWorker.execute(one, "pid", %{})

      kill(parent(pid))
      eventually(fn -> not Enum.any?(family, &alive?/1) end)
      assert alive?(other)

      eventually(fn -> match?({:ok, new} when new != pid, GRPCWorker.execute(one, "pid", %{})) end)

      assert {:ok, zygote!()} == GRPCWorker.execute(one, "importer", %{})
      assert zygote!() != elem(zygote, 0)
      assert length(cgroups()) == 2
    end
  end

  test "a family in a cgroup ends with the spawner" do
    if start_contained() do
      {:ok, daemon} = Snakepit.execute("daemon", %{})
      family = Enum.map([forked!(), daemon], &with_time/1)
      spawner = Spawner.info().os_pid
      dirs = cgroups()
      kill(spawner)
      eventually(fn -> not Enum.any?(family, &alive?/1) end)
      eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{})) end)
      eventually(fn -> not Enum.any?(dirs, &File.exists?/1) end)
    end
  end

  # ---- not forked ---------------------------------------------------------

  for {key, value, text} <- [
        {:umask, 0o027, "umask"},
        {:group, :own, "group"},
        {:user, :own, "user"},
        {:limits, [stack_size: "16M"], "limits: [stack_size: ...]"}
      ] do
    test "with #{text} workers are not forked, and the log says why" do
      settings = [{unquote(key), value(unquote(key), unquote(value))}, pool_size: 2]

      log =
        capture_log(fn ->
          {:ok, _} = start_app(pools_with(settings))
          :ok = Pool.await_init_complete(Pool, @patience)
        end)

      assert log =~ ":default are started one by one and not forked: #{unquote(text)} can be set"
      assert [_, _] = String.split(log, "not forked")
      assert Zygotes.os_ids() == []
      assert {:ok, pid} = Snakepit.execute("pid", %{})
      assert {:ok, importer} = Snakepit.execute("importer", %{})
      assert importer in Enum.map(Spawner.info().children, & &1.os_pid)
      assert pid in Enum.map(Spawner.info().children, & &1.os_pid)
    end
  end

  defp pools_with(settings),
    do: Keyword.merge(defaults(), log_level: :warning, pools: [pool(settings)])

  defp value(key, :own) when key in [:user, :group] do
    {text, 0} = System.cmd("id", [if(key == :user, do: "-u", else: "-g")])
    text |> String.trim() |> String.to_integer()
  end

  defp value(_key, value), do: value
end
