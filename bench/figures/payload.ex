defmodule Bench.Figures.Payload do
  @moduledoc false
  # Bytes and lists there and back, beside copying the same bytes.

  alias Bench.{Format, Load, Pools, Raw, Recorder, Stats}

  @sizes [64, 1024, 65_536, 1_048_576, 16_777_216, 67_108_864]
  @floats 100_000

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    Pools.ensure(carrier, 2)
    ms = if ctx.quick, do: 250, else: 1_000
    points = points(carrier, @sizes, ms)

    own = for {size, time, _copy} <- points, do: {size, time}
    copies = for {size, _time, copy} <- points, do: {size, copy}
    if own != [], do: Recorder.curve(:payload, "#{carrier}", carrier, own)
    if copies != [], do: Recorder.curve(:payload, "2 × memcpy", :limit, copies)

    floats(carrier, ms)
  end

  # Where one size is refused, larger ones are as well.
  defp points(_carrier, [], _ms), do: []

  defp points(carrier, [size | larger], ms) do
    case bytes(carrier, size, ms) do
      nil -> []
      point -> [point | points(carrier, larger, ms)]
    end
  end

  defp bytes(carrier, size, ms) do
    data = :crypto.strong_rand_bytes(size)

    case echo(data) do
      {:ok, ^data} -> measured_bytes(carrier, data, size, ms)
      other -> refused("echo of #{Format.bytes(size)} and more (#{carrier})", other)
    end
  end

  defp measured_bytes(carrier, data, size, ms) do
    {{copy, times}, conditions} =
      Recorder.measure(fn ->
        {2 * Raw.memcpy(size, div(ms, 3)), Load.sequential(ms, fn -> echo(data) end)}
      end)

    time = Stats.median(times)

    Recorder.figure(
      %{
        id: "echo_#{size}",
        group: :payload,
        label: "#{Format.bytes(size)} of bytes there and back, p50",
        carrier: carrier,
        at: %{bytes: size},
        value: time,
        unit: :us,
        limit: %{name: "2 × memcpy", value: copy}
      },
      conditions
    )

    {size, time, copy}
  end

  defp echo(data) do
    case Snakepit.execute("echo_bytes", %{}, Load.patient(binary_parameters: %{data: data})) do
      {:ok, {:binary, bytes}} -> {:ok, bytes}
      other -> other
    end
  end

  defp floats(carrier, ms) do
    list = for n <- 1..@floats, do: :math.sqrt(n)
    call = fn -> Snakepit.execute("echo_value", %{value: list}, Load.patient()) end

    case call.() do
      {:ok, ^list} -> measured_floats(carrier, call, ms)
      other -> refused("the list of floats (#{carrier})", other)
    end

    :ok
  end

  defp measured_floats(carrier, call, ms) do
    bytes = @floats * 8

    {{copy, times}, conditions} =
      Recorder.measure(fn ->
        {2 * Raw.memcpy(bytes, div(ms, 3)), Load.sequential(ms, call)}
      end)

    Recorder.figure(
      %{
        id: "floats",
        group: :payload,
        label: "list of 100,000 floats there and back, p50",
        carrier: carrier,
        value: Stats.median(times),
        unit: :us,
        limit: %{name: "2 × memcpy", value: copy}
      },
      conditions
    )
  end

  defp refused(what, {:ok, _other}),
    do: raise("#{what}: what came back is not what was sent")

  defp refused(what, {:error, error}) do
    Recorder.left_out(
      what,
      if(is_exception(error), do: Exception.message(error), else: inspect(error))
    )

    nil
  end
end
