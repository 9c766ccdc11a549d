defmodule Bench.Figures.Latency do
  @moduledoc false
  # One caller: execute("ping") beside the ways there and back that cost least.

  alias Bench.{Load, Pools, Raw, Recorder, Stats}

  @percentiles [{"p50", 50}, {"p99", 99}, {"p999", 99.9}]

  @spec run(:local | :grpc, map) :: :ok
  def run(carrier, ctx) do
    Pools.ensure(carrier, 2)
    ms = if ctx.quick, do: 700, else: 3_000

    {times, conditions} =
      Recorder.measure(fn ->
        limits(carrier, div(ms, 3)) ++ [execute: Load.sequential(ms, &Load.ping/0)]
      end)

    for {limit, samples} <- times, limit != :execute, do: raw(carrier, limit, samples, conditions)

    {limit, limit_name} = beside(carrier, times)

    for {name, p} <- @percentiles do
      Recorder.figure(
        %{
          id: "ping_#{name}",
          group: :latency,
          label: "execute(\"ping\"), one caller, #{title(name)}",
          carrier: carrier,
          value: Stats.percentile(times[:execute], p),
          unit: :us,
          limit: limit && %{name: limit_name, value: Stats.percentile(limit, p)}
        },
        conditions
      )
    end

    Recorder.curve(:latency, "execute, #{carrier}", carrier, Stats.curve(times[:execute]))
  end

  defp limits(carrier, ms) do
    ours = [shm: Raw.shared_memory(ms), socket: Raw.socket(ms), port: Raw.port(ms)]
    grpcio = if carrier == :grpc, do: Raw.grpcio(ms)
    if grpcio, do: ours ++ [grpcio: grpcio], else: ours
  end

  # What a carrier is held against: what it is made of.
  defp beside(:grpc, times), do: {times[:grpcio], name(:grpcio)}
  defp beside(:local, times), do: {times[:port], name(:port)}

  defp raw(carrier, limit, samples, conditions) do
    for {short, p} <- [{"p50", 50}, {"p99", 99}] do
      Recorder.figure(
        %{
          id: "raw_#{limit}_#{short}",
          group: :limits,
          label: "limit: #{name(limit)}, #{short}",
          carrier: carrier,
          value: Stats.percentile(samples, p),
          unit: :us
        },
        conditions
      )
    end

    Recorder.curve(:latency, name(limit), :limit, Stats.curve(samples))
  end

  defp name(:shm), do: "C to C, shared memory"
  defp name(:socket), do: "C to C, socket pair"
  defp name(:port), do: "C program behind a port"
  defp name(:grpcio), do: "grpcio to our worker"

  defp title("p999"), do: "p99.9"
  defp title(name), do: name
end
