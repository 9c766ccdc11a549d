defmodule Snakepit.Pool.Retry do
  @moduledoc false
  # What becomes of a call whose worker crashed: made again elsewhere where the
  # crash barrier allows it, else an error that says what kind of crash it was.
  # It runs in the caller, and only after a crash.

  alias Snakepit.{CrashBarrier, Defaults, Error, Telemetry}

  # Reasons of a retry that never came to run: then the crash is what is told.
  @unserved [
    :queue_timeout,
    :pool_saturated,
    :pool_closed,
    :pool_draining,
    :pool_not_initialized,
    :session_worker_unavailable
  ]

  @doc "What a request has to remember for this: when it began, and whether it may run twice."
  @spec mark(term, keyword) :: {integer, boolean}
  def mark(args, opts) do
    marked? =
      case opts[:idempotent] do
        nil -> CrashBarrier.idempotent?(args)
        marked -> marked == true
      end

    {now(), marked?}
  end

  @doc "When a wait of so long is over; only asked for where it may matter."
  @spec until(map, timeout) :: integer | :infinity
  def until(%{retry: nil}, _timeout), do: :infinity
  def until(_request, :infinity), do: :infinity
  def until(_request, timeout), do: now() + timeout

  @doc "The request with no more time than until then."
  @spec within(map, integer | :infinity) :: map
  def within(request, :infinity), do: request

  def within(%{retry: {started, _marked?}, times: {queue, total}} = request, until),
    do: %{request | times: {queue, min(total, max(until - started, 0))}}

  @doc "The result of a call; `run` makes one again."
  @spec after_crash(result, map, (map -> result)) :: result when result: term
  def after_crash({:error, %Error{details: %{reason: :worker_exit}}} = crashed, request, run)
      when request.retry != nil do
    case CrashBarrier.crash_info(crashed, request.target.barrier) do
      {:ok, info} ->
        {:error, error} = crashed = CrashBarrier.normalize_crash_error(crashed, info)
        if again?(error, request), do: again(crashed, request, run, 0), else: crashed

      :error ->
        crashed
    end
  end

  def after_crash(result, _request, _run), do: result

  # What was given away, or has been taken from an enumerable, does not come back.
  defp again?(%{details: %{chunks_delivered: true}}, _request), do: false
  defp again?(_error, request), do: request.inputs == nil

  defp again(crashed, request, run, attempt) do
    barrier = request.target.barrier
    {_started, marked?} = request.retry
    wait = CrashBarrier.retry_backoff(barrier, attempt)

    cond do
      not CrashBarrier.retry_allowed?(barrier, marked?, attempt) ->
        if attempt > 0, do: told(:exhausted, %{attempts: attempt + 1}, request, crashed)
        tried(crashed, attempt, nil)

      left(request) <= wait ->
        tried(crashed, attempt, nil)

      true ->
        told(:attempt, %{attempt: attempt + 1, delay_ms: wait}, request, crashed)
        told(:backoff, %{attempt: attempt + 1, delay_ms: wait}, request, crashed)
        Process.sleep(wait)
        request |> in_time() |> run.() |> outcome(crashed, request, run, attempt + 1)
    end
  end

  defp outcome({:error, %Error{details: %{reason: :worker_exit}}} = next, _, request, run, made) do
    case CrashBarrier.crash_info(next, request.target.barrier) do
      {:ok, info} ->
        {:error, error} = next = CrashBarrier.normalize_crash_error(next, info)

        if again?(error, request),
          do: again(next, request, run, made),
          else: tried(next, made, nil)

      :error ->
        tried(next, made, nil)
    end
  end

  defp outcome({:error, %Error{details: %{reason: reason}}}, crashed, _request, _run, made)
       when reason in @unserved,
       do: tried(crashed, made, reason)

  defp outcome({:error, :worker_busy}, crashed, _request, _run, made),
    do: tried(crashed, made, :worker_busy)

  defp outcome({:error, _} = failed, _crashed, _request, _run, _made), do: failed

  defp outcome(result, _crashed, request, _run, made) do
    told(:success, %{attempts: made + 1}, request, nil)
    result
  end

  defp tried(crashed, 0, _why), do: crashed

  defp tried({:error, error}, made, why) do
    known = if why, do: %{retries: made, retry_error: why}, else: %{retries: made}
    {:error, %{error | details: Map.merge(error.details, known)}}
  end

  # What is left of the call's own time is all that a retry gets.
  defp in_time(request) do
    {queue, _total} = request.times
    left = left(request)
    queue = queue |> min(Defaults.crash_barrier_checkout_timeout()) |> min(left)
    request |> Map.put_new(:allowed, request.times) |> Map.put(:times, {queue, left})
  end

  # Of the time that the call had at first.
  defp left(%{retry: {started, _marked?}, times: {_queue, total}}) do
    if total == :infinity, do: :infinity, else: max(started + total - now(), 0)
  end

  defp told(what, measurements, request, last) do
    measurements =
      if what in [:attempt, :backoff],
        do: measurements,
        else: Map.put(measurements, :total_duration, duration(request))

    about = %{pool: request.target.name, operation: request.command}
    about = if last, do: Map.put(about, :last_error, last), else: about
    Telemetry.execute([:snakepit, :retry, what], measurements, about)
  end

  defp duration(%{retry: {started, _}}),
    do: System.convert_time_unit(now() - started, :millisecond, :native)

  defp now, do: System.monotonic_time(:millisecond)
end
