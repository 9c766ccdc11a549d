defmodule Snakepit.PoolSettingsTest do
  # The keys of a pool that say what its workers may use, and who and where they
  # are.
  use ExUnit.Case, async: true

  alias Snakepit.Config
  alias Snakepit.Spawner.Settings

  defp valid!(config) do
    assert {:ok, config} = Config.validate_pool_config(Map.put(config, :name, :p))
    config
  end

  defp settings(config), do: Settings.build(valid!(config)).settings -- ["containment=auto"]
  defp placement(config), do: Settings.build(valid!(config)).placement

  defp refused(config) do
    assert {:error, {:invalid_pool_option, key, value, text}} =
             Config.validate_pool_config(Map.put(config, :name, :p))

    assert config[key] == value
    assert text =~ "#{key} is "
    text
  end

  test "by default nothing is set but containment: :auto" do
    assert Settings.build(valid!(%{})) == %{settings: ["containment=auto"], placement: nil}
  end

  test "limits have names, as a keyword list or a map" do
    limits = [
      memory: "2G",
      processes: 100,
      cpus: 1.5,
      open_files: {1024, 2048},
      core_size: :infinity,
      stack_size: "8M",
      file_size: {0, :unlimited},
      address_space: 10_000_000_000,
      locked_memory: 0,
      data_size: 5
    ]

    wanted = [
      "memory=2G",
      "processes=100",
      "cpus=1.500",
      "limit=nofile=1024:2048",
      "limit=core=unlimited:unlimited",
      "limit=stack=8M:8M",
      "limit=fsize=0:unlimited",
      "limit=as=10000000000:10000000000",
      "limit=memlock=0:0",
      "limit=data=5:5"
    ]

    assert settings(%{limits: limits}) == wanted
    assert Enum.sort(settings(%{limits: Map.new(limits)})) == Enum.sort(wanted)
    assert settings(%{limits: [memory: 2_000_000]}) == ["memory=2000000"]
    assert settings(%{limits: []}) == []
    assert settings(%{limits: [cpus: 2]}) == ["cpus=2"]
  end

  # It gets a signal that it can tell of, and only then one that kills.
  test "processor time has a soft limit before the hard one" do
    assert settings(%{limits: [cpu_seconds: 60]}) == ["limit=cpu=60:65"]
    assert settings(%{limits: [cpu_seconds: {1, 9}]}) == ["limit=cpu=1:9"]
  end

  test "limits that make no sense" do
    for {limits, word} <- [
          {:many, "keyword list"},
          {[1], "keyword list"},
          {%{memory: 1}, "at least 1 MiB"},
          {[memory: "2X"], "bytes"},
          {[memory: -1], "bytes"},
          {[memory: :infinity], "bytes"},
          {[processes: 0], "from 1"},
          {[cpus: 0], "from 0.01"},
          {[cpus: "1"], "from 0.01"},
          {[open_files: "many"], "{soft, hard}"},
          {[open_files: {2, 1}], "above"},
          {[open_files: {:infinity, 1}], "above"},
          {[open_files: {1, 2, 3}], "{soft, hard}"},
          {[open_files: "1\n"], "{soft, hard}"},
          {[files: 1], ":open_files"}
        ] do
      assert refused(%{limits: limits}) =~ word
    end
  end

  test "niceness, umask, user, group, containment, cgroup" do
    config = %{nice: -5, umask: 0o027, user: "nobody", group: 1000}
    config = Map.merge(config, %{containment: :cgroup, cgroup: "/sys/fs/cgroup/mine"})

    assert settings(config) == [
             "nice=-5",
             "umask=27",
             "user=nobody",
             "group=1000",
             "containment=cgroup",
             "cgroup=/sys/fs/cgroup/mine"
           ]

    assert "containment=pid_namespace" in settings(%{containment: "pid_namespace"})

    for {key, value, word} <- [
          {:nice, 20, "19"},
          {:nice, "1", "integer"},
          {:umask, 0o1000, "0o777"},
          {:user, "", "name"},
          {:user, "a b", "name"},
          {:user, -1, "name"},
          {:group, :wheel, "name or a number"},
          {:containment, :jail, ":pid_namespace"},
          {:cgroup, "mine", "absolute"}
        ] do
      assert refused(%{key => value}) =~ word
    end
  end

  test "processors" do
    assert settings(%{cpu_affinity: [0, 2, 4..7]}) == ["affinity=0,2,4-7"]
    assert settings(%{cpu_affinity: :none}) == []
    assert placement(%{cpu_affinity: :spread, pool_size: 6}) == {:spread, :p, 6}
    assert placement(%{cpu_affinity: "spread", pool_size: 6}) == {:spread, :p, 6}
    assert placement(%{cpu_affinity: :compact}) == {:compact, :p, 1}
    thread = %{worker_profile: :thread, threads_per_worker: 4}
    assert placement(Map.put(thread, :cpu_affinity, :compact)) == {:compact, :p, 4}

    for value <- [[], [-1], [1024], [3..1//1], [1.0], :close, "0-3", [0..8//2]] do
      assert refused(%{cpu_affinity: value}) =~ ":compact"
    end
  end

  test "what only a process that is started by itself can have" do
    only = &Settings.of_start_only(valid!(&1))
    assert only.(%{}) == []

    assert only.(%{
             limits: [memory: "1G", open_files: 9],
             nice: 1,
             cpu_affinity: :spread,
             containment: :cgroup
           }) == []

    assert only.(%{user: "nobody", umask: 0}) == ["user", "umask"]

    assert only.(%{group: 0, limits: %{stack_size: {1, 2}}}) == [
             "group",
             "limits: [stack_size: ...]"
           ]

    assert only.(%{containment: "pid_namespace"}) == ["containment: :pid_namespace"]
  end

  test "another user comes by gRPC" do
    assert valid!(%{user: "nobody"}).transport == :grpc
    assert valid!(%{user: "nobody", transport: :grpc}).transport == :grpc
    assert refused(%{user: "nobody", transport: :local}) =~ "own user"
    assert valid!(%{}).transport == :auto
  end
end
