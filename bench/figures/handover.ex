defmodule Bench.Figures.Handover do
  @moduledoc false
  # Memory that goes from one side to the other, beside copying it and beside what others do.

  alias Bench.{Format, Load, Pools, Raw, Recorder, Stats}
  alias Snakepit.{ZeroCopy, ZeroCopyRef}

  @kib 1024
  @mib 1024 * 1024

  @sizes [1, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576]
  @quick [1, 64, 1024, 16_384, 65_536]

  @crossing [4, 8, 16, 32, 64, 128, 256, 1024]
  @quick_crossing [16, 64, 256]

  # A way that takes longer than this is not tried with larger sizes.
  @enough_us 500_000

  # A picture of 1920 by 1080, three bytes each.
  @frame 1920 * 1080 * 3

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    Pools.ensure(carrier, 1)
    ms = if ctx.quick, do: 120, else: 600
    sizes = for kib <- if(ctx.quick, do: @quick, else: @sizes), do: kib * @kib

    there = curve(carrier, "to Python", sizes, ms, &take/1)
    back = curve(carrier, "from Python", sizes, ms, &give/1)
    if carrier == :local, do: local(there, back, sizes, ms, ctx)
    frames(carrier, if(ctx.quick, do: 100, else: 1000))
    # Last: it takes the pool down.
    if carrier == :local, do: crossing(if(ctx.quick, do: @quick_crossing, else: @crossing), ms)
    :ok
  end

  defp local(there, back, sizes, ms, ctx) do
    largest(there, "handover", "to Python, allocated for it")
    largest(back, "handover_back", "from Python, allocated for it, once more")
    first_times(sizes, ms)
    curve(:local, "to Python, any binary", sizes, ms, &take_plain/1)
    limit("memcpy", sizes, fn bytes -> Raw.memcpy(bytes, div(ms, 3)) end)
    for way <- ~w(pickle json), do: limit(way, sizes, &Stats.median(Raw.way(way, &1, ms)))
    resident(if(ctx.quick, do: 64 * @mib, else: 1024 * @mib))
  end

  # ---- time by size -------------------------------------------------------

  defp curve(carrier, name, sizes, ms, prepare) do
    points = upto(sizes, &time(carrier, name, &1, ms, prepare))
    label = if carrier == :local, do: name, else: "#{name}, gRPC"
    shown = for {size, time, _} <- points, do: {size, time}
    if points != [], do: Recorder.curve(:handover, label, carrier, shown)
    points
  end

  # A point for each size, until one takes too long or is refused.
  defp upto([], _measure), do: []

  defp upto([size | larger], measure) do
    case measure.(size) do
      {_, {time, _}, _} = point when time < @enough_us -> [point | upto(larger, measure)]
      {_, time, _} = point when time < @enough_us -> [point | upto(larger, measure)]
      nil -> []
      point -> [point]
    end
  end

  defp time(carrier, name, size, ms, prepare, percent \\ 50) do
    call = prepare.(size)
    _ = Load.ok!(call.())
    {times, conditions} = Recorder.measure(fn -> timed(call, now() + ms * 1_000_000, []) end)
    {size, Stats.percentile(times, percent), conditions}
  rescue
    error ->
      Recorder.left_out(
        "#{Format.bytes(size)} and more #{name} (#{carrier})",
        Exception.message(error)
      )

      nil
  end

  # Without the rounds that warm up, which take long for a GiB.
  defp timed(call, until, times) do
    start = now()
    _ = Load.ok!(call.())
    stop = now()
    times = [(stop - start) / 1000 | times]
    if stop < until, do: timed(call, until, times), else: times
  end

  defp take(size) do
    piece = :binary.copy(<<0x81>>, min(size, @mib))

    {:ok, data} =
      ZeroCopy.alloc(size, Stream.map(1..div(size, byte_size(piece)), fn _ -> piece end))

    taker(data)
  end

  defp take_plain(size), do: taker(:binary.copy(<<0x81>>, size))

  defp taker(data) do
    size = byte_size(data)

    fn ->
      with {:ok, ^size} = answer <- Snakepit.execute("take", %{data: data}, Load.patient()),
           do: answer
    end
  end

  defp give(size) do
    fn ->
      with {:ok, given} <- Snakepit.execute("give", %{size: size}, Load.patient()),
           {:ok, data} when byte_size(data) == size <- bytes(given),
           do: {:ok, size}
    end
  end

  defp bytes(%ZeroCopyRef{} = ref), do: ZeroCopy.to_binary(ref)
  defp bytes({:binary, data}), do: {:ok, data}
  defp bytes(data), do: {:ok, data}

  # Memory that was just filled: the worker's mapping of it goes with the hand-over.
  defp first_times(sizes, ms) do
    points = upto(sizes, &first_time(&1, ms))
    shown = fn i -> for {size, times, _} <- points, do: {size, elem(times, i)} end
    Recorder.curve(:handover, "from Python, the first time", :local, shown.(0))
    Recorder.curve(:handover, "filling it in Python", :limit, shown.(1))

    with {size, {time, filling}, conditions} <- List.last(points) do
      Recorder.figure(
        %{
          id: "handover_first",
          group: :handover,
          label: "#{Format.bytes(size)} from Python, the first time, p50",
          carrier: :local,
          at: %{bytes: size},
          value: time,
          unit: :us,
          limit: %{name: "filling it in Python", value: filling}
        },
        conditions
      )
    end
  end

  defp first_time(size, ms) do
    {times, conditions} = Recorder.measure(fn -> filled(size, now() + ms * 1_000_000, []) end)

    {handed, filling} = Enum.unzip(times)
    {size, {Stats.median(handed), Stats.median(filling)}, conditions}
  end

  defp filled(size, until, times) do
    {:ok, filling} = Snakepit.execute("fill", %{size: size}, Load.patient())
    start = now()
    {:ok, given} = Snakepit.execute("give_filled", %{}, Load.patient())
    {:ok, data} = bytes(given)
    stop = now()
    ^size = byte_size(data)
    times = [{(stop - start) / 1000, filling} | times]
    if stop < until, do: filled(size, until, times), else: times
  end

  defp limit(name, sizes, measure) do
    points = upto(sizes, fn size -> {size, measure.(size), nil} end)
    Recorder.curve(:handover, name, :limit, for({size, time, _} <- points, do: {size, time}))
  end

  defp largest(points, id, what) do
    case List.last(points) do
      nil ->
        :ok

      {size, time, conditions} ->
        Recorder.figure(
          %{
            id: id,
            group: :handover,
            label: "#{Format.bytes(size)} #{what}, p50",
            carrier: :local,
            at: %{bytes: size},
            value: time,
            unit: :us,
            limit: %{name: "memcpy", value: Raw.memcpy(size, 100)}
          },
          conditions
        )
    end
  end

  # ---- resident memory ----------------------------------------------------

  defp resident(size) do
    [worker] = Pools.os_pids()
    call = take(size)
    _ = Load.ok!(call.())

    {grown, conditions} =
      Recorder.measure(fn ->
        for pid <- [System.pid(), worker], do: growth(pid, call)
      end)

    for {{own, shared}, side} <- Enum.zip(grown, ["BEAM", "worker"]) do
      Recorder.figure(
        %{
          id: "handover_memory_#{String.downcase(side)}",
          group: :handover,
          label: "memory of its own that the #{side} takes for #{Format.bytes(size)}",
          carrier: :local,
          at: %{bytes: size},
          value: own,
          unit: :bytes,
          note:
            "growth of RssAnon at most; of shared memory it has #{Format.value(shared, :bytes)} mapped in"
        },
        conditions
      )
    end
  end

  # Memory of its own that came, and shared memory that there is.
  defp growth(pid, call) do
    {before, _} = resident_of(pid)
    task = Task.async(fn -> for _ <- 1..5, do: Load.ok!(call.()) end)
    {own, shared} = watch(pid, task, {before, 0})
    {own - before, shared}
  end

  defp watch(pid, task, {own, shared}) do
    {own_now, shared_now} = resident_of(pid)
    most = {max(own, own_now), max(shared, shared_now)}

    case Task.yield(task, 1) do
      nil -> watch(pid, task, most)
      _ -> most
    end
  end

  defp resident_of(pid) do
    text = File.read!("/proc/#{pid}/status")
    {kilobytes(text, ~r/^RssAnon:\s+(\d+) kB$/m), kilobytes(text, ~r/^RssShmem:\s+(\d+) kB$/m)}
  end

  defp kilobytes(text, pattern) do
    [_, digits] = Regex.run(pattern, text)
    String.to_integer(digits) * 1024
  end

  # ---- frames -------------------------------------------------------------

  defp frames(carrier, count) do
    count = if carrier == :grpc, do: div(count, 10), else: count
    _ = stream(1)

    {us, conditions} =
      Recorder.measure(fn -> fn -> stream(count) end |> :timer.tc() |> elem(0) end)

    Recorder.figure(
      %{
        id: "frames",
        group: :handover,
        label: "frames of 1920 × 1080 × 3 in one stream",
        carrier: carrier,
        at: %{frames: count},
        value: count * 1.0e6 / us,
        unit: :per_s,
        limit: %{name: "memcpy", value: 1.0e6 / Raw.memcpy(@frame, 100)}
      },
      conditions
    )
  end

  defp stream(count) do
    seen = :counters.new(1, [])

    callback = fn chunk ->
      case chunk["frame"] do
        nil -> :ok
        frame -> with({:ok, data} <- bytes(frame), do: :counters.add(seen, 1, byte_size(data)))
      end
    end

    :ok =
      Snakepit.execute_stream("frames", %{count: count, size: @frame}, callback, Load.patient())

    if :counters.get(seen, 1) != count * @frame, do: raise("frames are missing")
    :ok
  end

  # ---- from where on it pays ----------------------------------------------

  # The same binaries in the ring and by segment: the threshold is where the second gets quicker.
  # The best tenth, for a wake-up on a busy machine takes longer than the difference.
  defp crossing(kibs, ms) do
    for {name, threshold} <- [{"in the message", :infinity}, {"by segment", 1}] do
      Pools.start(:local, 1, Pools.adapter(), true, zero_copy: [threshold: threshold])
      Pools.await(1)

      for {way, prepare} <- [{"there", &take_plain/1}, {"back", &give_plain/1}] do
        points = upto(for(kib <- kibs, do: kib * @kib), &time(:local, name, &1, ms, prepare, 10))
        shown = for {size, time, _} <- points, do: {size, time}

        Recorder.curve(
          :crossing,
          "#{name}, #{way}",
          if(threshold == 1, do: :local, else: :limit),
          shown
        )
      end
    end

    Pools.stop()
    :ok
  end

  defp give_plain(size) do
    fn ->
      with {:ok, given} <- Snakepit.execute("give_bytes", %{size: size}, Load.patient()),
           {:ok, data} when byte_size(data) == size <- bytes(given),
           do: {:ok, size}
    end
  end

  defp now, do: System.monotonic_time(:nanosecond)
end
