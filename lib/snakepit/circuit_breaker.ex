defmodule Snakepit.CircuitBreaker do
  @moduledoc """
  Stops calling what keeps failing, and tries again after a while.

  `:closed`: calls go through; `failure_threshold` failures in a row open it.
  `:open`: calls are answered `{:error, :circuit_open}` without being made.
  After `reset_timeout_ms` it is `:half_open`: `half_open_max_calls` trial calls
  may be made. When they have all gone well it closes; one failure opens it
  again.

  A failure is a result `:error` or `{:error, _}`, an exception, a throw or an
  exit of the function; the last three reach the caller as they are.

      {:ok, breaker} = Snakepit.CircuitBreaker.start_link(failure_threshold: 3)
      Snakepit.CircuitBreaker.call(breaker, fn -> Snakepit.execute("predict", %{x: 1}) end)

  The function runs in the caller; the breaker's process only counts. A caller
  that dies during a trial call gives its trial back as a failure.
  """

  use GenServer

  alias Snakepit.{Defaults, Telemetry}

  @type state :: :closed | :open | :half_open

  @type t :: %{
          name: term,
          state: state,
          failure_count: non_neg_integer,
          success_count: non_neg_integer,
          failure_threshold: pos_integer,
          reset_timeout_ms: non_neg_integer,
          half_open_max_calls: pos_integer,
          half_open_calls: non_neg_integer,
          last_failure_time: integer | nil
        }

  @doc """
  Starts a breaker. Options: `:name` (to register it), `:failure_threshold` (5),
  `:reset_timeout_ms` (30 000), `:half_open_max_calls` (1); the defaults are
  those of the configuration (`circuit_breaker_*`). Raises `ArgumentError` for a
  value out of range.
  """
  @spec start_link(keyword | map) :: GenServer.on_start()
  def start_link(opts \\ []) do
    opts = Map.new(opts)
    GenServer.start_link(__MODULE__, settings(opts), opts |> Map.take([:name]) |> Map.to_list())
  end

  # `:clock` is for tests: a function that says the time in ms.
  defp settings(opts) do
    %{
      name: Map.get(opts, :name, __MODULE__),
      failure_threshold:
        number(opts, :failure_threshold, 1, Defaults.circuit_breaker_failure_threshold()),
      reset_timeout_ms:
        number(opts, :reset_timeout_ms, 0, Defaults.circuit_breaker_reset_timeout_ms()),
      half_open_max_calls:
        number(opts, :half_open_max_calls, 1, Defaults.circuit_breaker_half_open_max_calls()),
      clock: Map.get(opts, :clock, &now/0)
    }
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp number(opts, key, least, default) do
    case Map.get(opts, key, default) do
      n when is_integer(n) and n >= least ->
        n

      other ->
        raise ArgumentError,
              "Snakepit.CircuitBreaker: #{inspect(key)} is an integer of at least #{least}, " <>
                "not #{inspect(other)}"
    end
  end

  @doc "Makes the call if it may be made: what `fun` returns, or `{:error, :circuit_open}`."
  @spec call(GenServer.server(), (() -> result)) :: result | {:error, :circuit_open}
        when result: term
  def call(server, fun) when is_function(fun, 0) do
    case GenServer.call(server, :enter) do
      {:ok, pass} -> run(server, pass, fun)
      :refused -> {:error, :circuit_open}
    end
  end

  defp run(server, pass, fun) do
    fun.()
  catch
    kind, reason ->
      leave(server, pass, :failure)
      :erlang.raise(kind, reason, __STACKTRACE__)
  else
    result ->
      leave(server, pass, if(failure?(result), do: :failure, else: :success))
      result
  end

  defp failure?(:error), do: true

  defp failure?(result),
    do: is_tuple(result) and tuple_size(result) > 0 and elem(result, 0) == :error

  # Counted before the caller goes on, so that its next call sees it. What the
  # call returned is not lost with a breaker that has gone meanwhile.
  defp leave(server, pass, outcome) do
    GenServer.call(server, {:leave, pass, outcome})
  catch
    :exit, _ -> :ok
  end

  @doc """
  Whether a call may be made now, for those who make it themselves and say how
  it went by `record_success/1` or `record_failure/1`. While half open it takes
  one of the trial calls; one of which nothing is heard for `reset_timeout_ms`
  is given to others.
  """
  @spec allow_call?(GenServer.server()) :: boolean
  def allow_call?(server), do: GenServer.call(server, :allow)

  @doc "A call that was made outside went well."
  @spec record_success(GenServer.server()) :: :ok
  def record_success(server), do: GenServer.call(server, {:record, :success})

  @doc "A call that was made outside failed."
  @spec record_failure(GenServer.server()) :: :ok
  def record_failure(server), do: GenServer.call(server, {:record, :failure})

  @doc "Closes it and forgets what it has counted."
  @spec reset(GenServer.server()) :: :ok
  def reset(server), do: GenServer.call(server, :reset)

  @doc "What it is now."
  @spec state(GenServer.server()) :: state
  def state(server), do: GenServer.call(server, :state)

  @doc "What it has counted, and its settings. `last_failure_time` is monotonic, in ms."
  @spec stats(GenServer.server()) :: t
  def stats(server), do: GenServer.call(server, :stats)

  # ---- the process --------------------------------------------------------

  @impl true
  def init(settings) do
    {:ok,
     Map.merge(settings, %{
       state: :closed,
       failure_count: 0,
       success_count: 0,
       half_open_calls: 0,
       last_failure_time: nil,
       admitted_at: nil,
       trials: %{}
     })}
  end

  @impl true
  def handle_call(:enter, {caller, _tag}, breaker) do
    case admit(aged(breaker)) do
      {true, %{state: :half_open} = breaker} ->
        asked(true, breaker)
        pass = Process.monitor(caller)
        {:reply, {:ok, pass}, put_in(breaker.trials[pass], true)}

      {true, breaker} ->
        asked(true, breaker)
        {:reply, {:ok, nil}, breaker}

      {false, breaker} ->
        asked(false, breaker)
        {:reply, :refused, breaker}
    end
  end

  def handle_call({:leave, pass, outcome}, _from, breaker) do
    breaker = aged(breaker)

    case Map.pop(breaker.trials, pass) do
      {true, trials} ->
        _ = Process.demonitor(pass, [:flush])
        {:reply, :ok, count(%{breaker | trials: trials}, outcome)}

      # It went in while the breaker was closed, or before a reset: how it
      # went says nothing about a trial.
      {nil, _} when breaker.state == :closed ->
        {:reply, :ok, count(breaker, outcome)}

      {nil, _} ->
        {:reply, :ok, breaker}
    end
  end

  def handle_call(:allow, _from, breaker) do
    {allowed?, breaker} = admit(aged(breaker))
    asked(allowed?, breaker)
    {:reply, allowed?, breaker}
  end

  def handle_call({:record, outcome}, _from, breaker),
    do: {:reply, :ok, count(aged(breaker), outcome)}

  def handle_call(:reset, _from, breaker), do: {:reply, :ok, close(breaker, :reset)}

  def handle_call(:state, _from, breaker) do
    breaker = aged(breaker)
    {:reply, breaker.state, breaker}
  end

  def handle_call(:stats, _from, breaker) do
    breaker = aged(breaker)
    {:reply, Map.drop(breaker, [:clock, :trials, :admitted_at]), breaker}
  end

  @impl true
  def handle_info({:DOWN, pass, :process, _pid, _reason}, breaker) do
    case Map.pop(breaker.trials, pass) do
      {true, trials} -> {:noreply, count(%{breaker | trials: trials}, :failure)}
      {nil, _trials} -> {:noreply, breaker}
    end
  end

  def handle_info(_other, breaker), do: {:noreply, breaker}

  # ---- the machine --------------------------------------------------------

  # Time passes without a timer: an open breaker is looked at when asked.
  defp aged(%{state: :open} = breaker) do
    if breaker.clock.() - breaker.last_failure_time >= breaker.reset_timeout_ms,
      do: half_open(breaker),
      else: breaker
  end

  # Who was allowed a trial and never said how it went does not block the
  # others for ever. Trials of call/2 are known to run, and are waited for.
  defp aged(%{state: :half_open, half_open_calls: made, trials: trials} = breaker)
       when made > 0 and map_size(trials) == 0 do
    if breaker.clock.() - breaker.admitted_at >= breaker.reset_timeout_ms,
      do: %{breaker | half_open_calls: breaker.success_count},
      else: breaker
  end

  defp aged(breaker), do: breaker

  defp admit(%{state: :closed} = breaker), do: {true, breaker}
  defp admit(%{state: :open} = breaker), do: {false, breaker}

  defp admit(%{half_open_calls: made, half_open_max_calls: max} = breaker) when made < max,
    do: {true, %{breaker | half_open_calls: made + 1, admitted_at: breaker.clock.()}}

  defp admit(breaker), do: {false, breaker}

  defp count(%{state: :closed} = breaker, :success),
    do: %{breaker | failure_count: 0, success_count: breaker.success_count + 1}

  defp count(%{state: :closed} = breaker, :failure) do
    breaker = failed(breaker)
    if breaker.failure_count >= breaker.failure_threshold, do: open(breaker), else: breaker
  end

  defp count(%{state: :half_open} = breaker, :success) do
    breaker = %{breaker | success_count: breaker.success_count + 1}

    if breaker.success_count >= breaker.half_open_max_calls,
      do: close(breaker, :recovered),
      else: breaker
  end

  defp count(%{state: :half_open} = breaker, :failure), do: breaker |> failed() |> open()
  # What comes late changes nothing: it is open already.
  defp count(%{state: :open} = breaker, _outcome), do: breaker

  defp failed(breaker),
    do: %{
      breaker
      | failure_count: breaker.failure_count + 1,
        last_failure_time: breaker.clock.()
    }

  defp open(breaker) do
    emit(:opened, %{failure_count: breaker.failure_count}, breaker, :failure_threshold_exceeded)
    forget_trials(%{breaker | state: :open})
  end

  defp half_open(breaker) do
    emit(:half_open, %{}, breaker, nil)
    %{breaker | state: :half_open, half_open_calls: 0, success_count: 0}
  end

  defp close(breaker, reason) do
    if breaker.state != :closed, do: emit(:closed, %{}, breaker, reason)
    forget_trials(%{breaker | state: :closed, failure_count: 0, success_count: 0})
  end

  defp forget_trials(breaker) do
    for {pass, true} <- breaker.trials, do: Process.demonitor(pass, [:flush])
    %{breaker | trials: %{}, half_open_calls: 0}
  end

  defp asked(allowed?, %{name: name, state: state}) do
    what = if allowed?, do: :allowed, else: :rejected
    about = %{pool: name, state: state}
    Telemetry.execute([:snakepit, :circuit_breaker, :call, what], %{}, about)
  end

  defp emit(what, measurements, breaker, reason) do
    metadata = if reason, do: %{pool: breaker.name, reason: reason}, else: %{pool: breaker.name}
    Telemetry.execute([:snakepit, :circuit_breaker, what], measurements, metadata)
  end
end
