defmodule Bench.Raw do
  @moduledoc false
  # The limits: programs that do nothing but what cannot be avoided. Times are
  # in microseconds.

  alias Bench.{Pools, Stats}
  alias Snakepit.GRPC.Token

  @source Path.expand("c/raw_pingpong.c", __DIR__)
  @flags ~w(-std=c11 -D_GNU_SOURCE -O2 -g -fno-common -Wall -Wextra)
  @message :binary.copy(<<0>>, 64)

  @doc "Compiles the C program into the build folder, when it is not up to date."
  @spec build() :: :ok
  def build do
    target = program()
    File.mkdir_p!(Path.dirname(target))

    if stale?(target) do
      compiler = System.get_env("CC") || "cc"
      temporary = "#{target}.#{System.pid()}"
      args = @flags ++ [@source, "-o", temporary]
      {text, status} = System.cmd(compiler, args, stderr_to_stdout: true)
      if status != 0, do: raise("#{compiler} could not compile #{@source}:\n#{text}")
      File.rename!(temporary, target)
    end

    :ok
  end

  defp stale?(target) do
    case File.stat(target) do
      {:ok, stat} -> File.stat!(@source).mtime >= stat.mtime
      {:error, _} -> true
    end
  end

  defp program, do: Path.join(Mix.Project.app_path(), "obj/bench/raw_pingpong")

  # ---- C alone ------------------------------------------------------------

  @spec shared_memory(pos_integer) :: [float]
  def shared_memory(ms), do: samples(program(), ["shm", "#{ms}"])

  @spec socket(pos_integer) :: [float]
  def socket(ms), do: samples(program(), ["socket", "#{ms}"])

  @doc "The median of one copy."
  @spec memcpy(pos_integer, pos_integer) :: float
  def memcpy(bytes, ms),
    do: program() |> samples(["memcpy", "#{bytes}", "#{ms}"]) |> Stats.median()

  @doc "Bytes by `json` or `pickle` through a pipe from one Python process to another."
  @spec way(String.t(), pos_integer, pos_integer) :: [float]
  def way(way, bytes, ms) do
    script = Path.expand("python/ways.py", __DIR__)
    samples(python(), [script, way, "#{bytes}", "#{ms}"])
  end

  defp samples(program, args, opts \\ []) do
    for line <- String.split(output(program, args, opts), "\n", trim: true),
        do: String.to_integer(line) / 1000
  end

  defp output(program, args, opts) do
    case System.cmd(program, args, opts) do
      {text, 0} -> text
      {_, status} -> raise "#{Path.basename(program)} #{Enum.join(args, " ")}: status #{status}"
    end
  end

  # ---- a C program behind a port ------------------------------------------

  @spec port(pos_integer) :: [float]
  def port(ms) do
    port = open()
    for _ <- 1..200, do: round_trip(port)
    times = timed(fn -> round_trip(port) end, now() + ms * 1_000_000, [])
    Port.close(port)
    times
  end

  defp round_trip(port) do
    true = Port.command(port, @message)

    receive do
      {^port, {:data, @message}} -> :ok
    after
      30_000 -> raise "the program behind the port does not answer"
    end
  end

  defp timed(fun, until, times) do
    start = now()
    fun.()
    stop = now()
    times = [(stop - start) / 1000 | times]
    if stop < until, do: timed(fun, until, times), else: times
  end

  @doc "Round trips per second, `depth` under way over all of `ports`."
  @spec port_rate(pos_integer, pos_integer, pos_integer) :: float
  def port_rate(ports, depth, ms) do
    drivers = min(ports, depth)

    1..drivers
    |> Enum.map(fn n ->
      share = div(depth, drivers) + if n <= rem(depth, drivers), do: 1, else: 0
      Task.async(fn -> drive(share, ms) end)
    end)
    |> Task.await_many(ms + 60_000)
    |> Enum.sum()
  end

  defp drive(depth, ms) do
    port = open()
    for _ <- 1..depth, do: Port.command(port, @message)
    _ = answers(port, now() + div(ms, 4) * 1_000_000, 0)
    start = now()
    count = answers(port, start + ms * 1_000_000, 0)
    rate = count * 1.0e9 / (now() - start)
    Port.close(port)
    rate
  end

  defp answers(port, until, count) do
    receive do
      {^port, {:data, data}} ->
        Port.command(port, data)
        if now() < until, do: answers(port, until, count + 1), else: count + 1
    after
      30_000 -> raise "the program behind the port does not answer"
    end
  end

  defp open do
    Port.open({:spawn_executable, program()}, [:binary, packet: 4, args: ["echo"]])
  end

  # ---- grpcio -------------------------------------------------------------

  @doc "grpcio to a worker of the pool that runs; nil when it has no port."
  @spec grpcio(pos_integer) :: [float] | nil
  def grpcio(ms) do
    with port when port != nil <- Pools.grpc_port(),
         do: samples(python(), [client(), "#{port}", "latency", "#{ms}"], env: env())
  end

  @doc "Calls per second with `depth` under way to one worker."
  @spec grpcio_rate(pos_integer, pos_integer) :: float | nil
  def grpcio_rate(depth, ms) do
    with port when port != nil <- Pools.grpc_port() do
      python()
      |> output([client(), "#{port}", "calls", "#{ms}", "#{depth}"], env: env())
      |> String.trim()
      |> String.to_float()
    end
  end

  @doc "Interpreters per second that start and end, all processors busy."
  @spec interpreters(pos_integer) :: float
  def interpreters(count) do
    python = python()
    start = now()

    1..count
    |> Task.async_stream(fn _ -> output(python, ["-c", "pass"], []) end, timeout: 60_000)
    |> Stream.run()

    count * 1.0e9 / (now() - start)
  end

  @spec python() :: String.t()
  def python, do: Snakepit.PythonRuntime.executable_path() || raise("no Python was found")

  defp client, do: Path.expand("python/grpc_client.py", __DIR__)

  defp env do
    [
      {"SNAKEPIT_PROTO_PATH", to_string(Snakepit.Native.ebin())},
      {Token.variable(), Token.run()}
    ]
  end

  defp now, do: System.monotonic_time(:nanosecond)
end
