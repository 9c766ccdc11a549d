defmodule Bench.Figures.Memory do
  @moduledoc false
  # What one more worker takes: shared pages count for each by its part (PSS).

  alias Bench.{Pools, Recorder}

  @few 2
  @many 6
  @adapter "bench_numpy.NumpyTools"

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, _ctx) do
    one_more(carrier, "memory", "forked", true)
    one_more(carrier, "memory_cold", "not forked", false)
  end

  defp one_more(carrier, id, how, prefork) do
    {sizes, conditions} =
      Recorder.measure(fn ->
        for workers <- [@few, @many], do: size(carrier, workers, prefork)
      end)

    case sizes do
      [few, many] when is_integer(few) and is_integer(many) ->
        Recorder.figure(
          %{
            id: id,
            group: :memory,
            label: "memory of one more worker, with numpy, #{how}",
            carrier: carrier,
            value: (many - few) / (@many - @few),
            unit: :bytes,
            note: "PSS, #{@many} workers less #{@few}"
          },
          conditions
        )

      _ ->
        Recorder.left_out("memory of one more worker (#{carrier})", "the system gives no PSS")
    end
  end

  defp size(carrier, workers, prefork) do
    Pools.start(carrier, workers, @adapter, prefork)
    Pools.await(workers)
    sizes = Enum.map(Pools.os_pids(), &pss/1)
    if nil in sizes, do: nil, else: Enum.sum(sizes)
  end

  defp pss(pid) do
    with {:ok, text} <- File.read("/proc/#{pid}/smaps_rollup"),
         [_, kilobytes] <- Regex.run(~r/^Pss:\s+(\d+) kB$/m, text) do
      String.to_integer(kilobytes) * 1024
    else
      _ -> nil
    end
  end
end
