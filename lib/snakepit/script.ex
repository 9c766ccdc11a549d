defmodule Snakepit.Script do
  @moduledoc false
  # Snakepit.run_as_script/2: start, run, stop, look that nothing is left.

  alias Snakepit.{Error, Pool, RuntimeCleanup, ShutdownEvents}
  alias Snakepit.Pool.ProcessRegistry

  @exit_modes [:none, :halt, :stop, :auto]
  @stop_modes [:if_started, :always, :never]
  @truths ~w(1 true yes y on)
  # What the whole clean-up may take beyond its time.
  @cleanup_margin_ms 900

  @type settings :: %{
          timeout: timeout,
          shutdown_timeout: timeout,
          cleanup_timeout: non_neg_integer,
          restart: :auto | boolean,
          await_pool: boolean,
          exit_mode: :none | :halt | :stop | :auto,
          stop_mode: :if_started | :always | :never
        }

  @spec run((() -> result), keyword) :: result | {:error, term} when result: term
  def run(fun, opts) when is_function(fun, 0) do
    settings = settings(opts)

    case start(settings) do
      {:ok, owned?} ->
        settings = Map.put(settings, :exit_mode, exit_mode(settings.exit_mode, owned?))
        finish(attempt(fun, settings), settings, owned?)

      {:error, reason} ->
        finish({:ok, {:error, reason}, 1}, %{settings | stop_mode: :never}, false)
    end
  end

  # ---- settings -----------------------------------------------------------

  defp settings(opts) do
    %{
      timeout: Keyword.get(opts, :timeout, 15_000),
      shutdown_timeout: Keyword.get(opts, :shutdown_timeout, 15_000),
      cleanup_timeout: Keyword.get(opts, :cleanup_timeout, 5_000),
      restart: one_of(opts, :restart, :auto, [:auto, true, false]),
      await_pool:
        Keyword.get_lazy(opts, :await_pool, fn ->
          Application.get_env(:snakepit, :pooling_enabled, false)
        end),
      exit_mode: requested_exit(opts),
      stop_mode: one_of(opts, :stop_mode, :if_started, @stop_modes)
    }
  end

  defp requested_exit(opts) do
    cond do
      Keyword.has_key?(opts, :exit_mode) -> one_of(opts, :exit_mode, :none, @exit_modes)
      opts[:halt] == true -> :halt
      true -> exit_of_environment()
    end
  end

  defp exit_of_environment do
    wanted = System.get_env("SNAKEPIT_SCRIPT_EXIT", "") |> String.trim() |> String.downcase()

    case Enum.find(@exit_modes, &(Atom.to_string(&1) == wanted)) do
      nil ->
        if wanted != "" do
          Snakepit.Logger.warning(
            :shutdown,
            "SNAKEPIT_SCRIPT_EXIT=#{wanted} is ignored: it is none, halt, stop or auto"
          )
        end

        halt = System.get_env("SNAKEPIT_SCRIPT_HALT", "") |> String.downcase()
        if halt in @truths, do: :halt, else: :none

      mode ->
        mode
    end
  end

  defp one_of(opts, key, default, allowed) do
    value = Keyword.get(opts, key, default)

    if value in allowed do
      value
    else
      raise ArgumentError, "#{key} is one of #{inspect(allowed)}, not #{inspect(value)}"
    end
  end

  # A VM that stays when its script is over has to be told.
  defp exit_mode(:auto, owned?) do
    if owned? and no_halt?(), do: :stop, else: :none
  end

  defp exit_mode(mode, _owned?), do: mode

  defp no_halt? do
    Enum.any?(:init.get_plain_arguments(), &(to_string(&1) == "--no-halt"))
  end

  # ---- start --------------------------------------------------------------

  # {:ok, true} when this call started the application.
  defp start(settings) do
    if restart?(settings), do: stop(settings.shutdown_timeout)

    case Application.ensure_all_started(:snakepit) do
      {:ok, started} -> {:ok, :snakepit in started}
      {:error, {_app, reason}} -> {:error, start_error(reason)}
    end
  end

  defp restart?(%{restart: :auto, stop_mode: mode}) do
    running?() and
      (too_early?() or
         (mode == :always and Code.ensure_loaded?(Mix) and Process.whereis(Mix.State) != nil))
  end

  defp restart?(%{restart: restart}), do: restart and running?()

  defp running?, do: Process.whereis(Snakepit.Supervisor) != nil

  # `Mix.install/1` starts the application, and the script then says that it wants
  # pools: without them there is none to lose.
  defp too_early? do
    Application.get_env(:snakepit, :pooling_enabled, false) == true and
      Process.whereis(Snakepit.Pool.RuntimeSupervisor) == nil
  end

  defp start_error({reason, {Snakepit.Application, :start, _args}}), do: start_error(reason)

  defp start_error(reason) do
    text =
      case reason do
        {_kind, message} when is_binary(message) -> message
        other -> inspect(other)
      end

    Error.pool_error("snakepit did not start: #{text}", %{reason: reason})
  end

  # ---- run ----------------------------------------------------------------

  # What came of it, and the exit status that says so.
  defp attempt(fun, settings) do
    case await(settings) do
      :ok -> {:ok, fun.(), 0}
      {:error, reason} -> {:ok, {:error, reason}, 1}
    end
  catch
    kind, reason -> {:raise, kind, reason, __STACKTRACE__}
  end

  defp await(%{await_pool: true, timeout: timeout}) do
    case Pool.await_ready(Pool, timeout) do
      :ok -> :ok
      {:error, %Error{category: :timeout}} -> {:error, :pool_initialization_timeout}
      {:error, error} -> {:error, error}
    end
  end

  defp await(_settings), do: :ok

  # ---- the end ------------------------------------------------------------

  defp finish(outcome, settings, owned?) do
    status = status(outcome)
    report = &report(&1, settings, owned?, status, &2)
    report.(:start, :pending)

    entries =
      if Process.whereis(ProcessRegistry), do: ProcessRegistry.current_run_entries(), else: []

    stop? = settings.stop_mode == :always or (settings.stop_mode == :if_started and owned?)
    if stop?, do: stop(settings.shutdown_timeout)
    report.(:stop, :pending)

    cleaned = clean_up(entries, stop?, settings.cleanup_timeout)
    report.(:cleanup, cleaned)
    report.(:exit, cleaned)
    leave(outcome, settings.exit_mode)
  end

  # Application.stop/1 cannot be interrupted: a stop that takes longer goes on,
  # but is not waited for.
  defp stop(timeout) do
    {pid, ref} = spawn_monitor(fn -> Application.stop(:snakepit) end)

    receive do
      {:DOWN, ^ref, :process, ^pid, _reason} -> :ok
    after
      timeout ->
        Process.demonitor(ref, [:flush])
        Snakepit.Logger.error(:shutdown, "snakepit did not stop within #{timeout} ms")
    end
  end

  defp clean_up(_entries, _stopped?, 0), do: :skipped

  # In a process of its own, so that the time is bounded whatever it waits for.
  # What it found is how it exits, which is meant.
  @dialyzer {:nowarn_function, clean_up: 3}
  defp clean_up(entries, stopped?, timeout) do
    work = fn ->
      if stopped?,
        do: RuntimeCleanup.run(entries, timeout_ms: timeout),
        else: RuntimeCleanup.cleanup_current_run(timeout_ms: timeout)
    end

    {pid, ref} = spawn_monitor(fn -> exit({:cleaned, work.()}) end)

    receive do
      {:DOWN, ^ref, :process, ^pid, {:cleaned, :ok}} ->
        :ok

      {:DOWN, ^ref, :process, ^pid, {:cleaned, {:timeout, pids}}} ->
        Snakepit.Logger.error(:shutdown, "OS processes are left: #{inspect(pids)}")
        :timeout

      {:DOWN, ^ref, :process, ^pid, reason} ->
        Snakepit.Logger.error(:shutdown, "the clean-up failed: #{inspect(reason)}")
        {:error, reason}
    after
      timeout + @cleanup_margin_ms ->
        Process.demonitor(ref, [:flush])
        Process.exit(pid, :kill)
        :timeout
    end
  end

  defp report(what, settings, owned?, status, cleaned) do
    ShutdownEvents.emit([:script, :shutdown, what], %{}, %{
      run_id: :persistent_term.get({ProcessRegistry, :run_id}, nil),
      exit_mode: settings.exit_mode,
      stop_mode: settings.stop_mode,
      owned?: owned?,
      status: status,
      cleanup_result: cleaned
    })
  end

  defp status({:ok, _value, status}), do: status
  defp status({:raise, _kind, _reason, _stacktrace}), do: 1

  defp leave(outcome, mode) when mode in [:halt, :stop] do
    complain(outcome)
    if mode == :halt, do: System.halt(status(outcome))
    System.stop(status(outcome))
    Process.sleep(:infinity)
  end

  defp leave({:ok, value, _status}, _mode), do: value
  defp leave({:raise, kind, reason, stack}, _mode), do: :erlang.raise(kind, reason, stack)

  # With nobody at the other end of stderr the VM ends all the same.
  defp complain({:raise, kind, reason, stacktrace}) do
    IO.puts(:stderr, Exception.format(kind, reason, stacktrace))
  rescue
    ErlangError -> :ok
  catch
    :exit, _ -> :ok
  end

  defp complain(_outcome), do: :ok
end
