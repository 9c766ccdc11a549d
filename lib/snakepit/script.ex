defmodule Snakepit.Script do
  @moduledoc false
  # Snakepit.run_as_script/2: start, run, stop, look that nothing is left.

  alias Snakepit.{Error, Pool, RuntimeCleanup}
  alias Snakepit.Pool.ProcessRegistry

  @exit_modes [:none, :halt, :stop, :auto]
  @stop_modes [:if_started, :always, :never]
  @truths ~w(1 true yes y on)

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

  defp restart?(%{restart: :auto, stop_mode: mode}),
    do:
      running?() and mode == :always and Code.ensure_loaded?(Mix) and
        Process.whereis(Mix.State) != nil

  defp restart?(%{restart: restart}), do: restart and running?()

  defp running?, do: Process.whereis(Snakepit.Supervisor) != nil

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
    entries =
      if Process.whereis(ProcessRegistry), do: ProcessRegistry.current_run_entries(), else: []

    stop? = settings.stop_mode == :always or (settings.stop_mode == :if_started and owned?)
    if stop?, do: stop(settings.shutdown_timeout)
    clean_up(entries, stop?, settings.cleanup_timeout)
    leave(outcome, settings.exit_mode)
  end

  # A stop that takes longer goes on, but is not waited for.
  defp stop(timeout) do
    task = Task.async(fn -> Application.stop(:snakepit) end)
    _ = Task.yield(task, timeout) || Task.shutdown(task, :brutal_kill)
    :ok
  end

  defp clean_up(_entries, _stopped?, 0), do: :skipped
  defp clean_up([], _stopped?, _timeout), do: :ok

  # The application goes on for its other users: so do its workers.
  defp clean_up(_entries, false, _timeout), do: :ok

  defp clean_up(entries, true, timeout) do
    case RuntimeCleanup.run(entries, timeout_ms: timeout) do
      :ok ->
        :ok

      {:timeout, pids} ->
        Snakepit.Logger.error(:shutdown, "OS processes are left: #{inspect(pids)}")
    end
  end

  defp leave(outcome, mode) when mode in [:halt, :stop] do
    status =
      case outcome do
        {:ok, _value, status} ->
          status

        {:raise, kind, reason, stacktrace} ->
          IO.puts(:stderr, Exception.format(kind, reason, stacktrace))
          1
      end

    if mode == :halt, do: System.halt(status)
    System.stop(status)
    Process.sleep(:infinity)
  end

  defp leave({:ok, value, _status}, _mode), do: value
  defp leave({:raise, kind, reason, stack}, _mode), do: :erlang.raise(kind, reason, stack)
end
