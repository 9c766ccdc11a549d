defmodule Snakepit.ProcessKiller do
  @moduledoc """
  Looks at OS processes and sends them signals, without a shell.

  A process number is used again some time after its process is gone. Who
  started a process can tell it apart by its start time (see the registry);
  these functions are for numbers from elsewhere. The escalating ones note the
  start time first, so that SIGKILL can only reach what got SIGTERM.

  Numbers below 2, which mean everything or a whole group to the kernel, are
  refused with `{:error, :invalid_pid}`.
  """

  alias Snakepit.{Native, OSProcess, RunID, Spawner}
  alias Snakepit.OSProcess.Listing
  alias Snakepit.Pool.ProcessRegistry

  @type os_pid :: pos_integer
  @type signal ::
          :sigterm | :sigkill | :sighup | :sigint | :sigquit | :sigusr1 | :sigusr2 | 1..64

  @linux %{
    sighup: 1,
    sigint: 2,
    sigquit: 3,
    sigkill: 9,
    sigusr1: 10,
    sigusr2: 12,
    sigterm: 15
  }
  @bsd %{@linux | sigusr1: 30, sigusr2: 31}

  @errors %{1 => :eperm, 3 => :esrch, 22 => :einval}
  @poll_ms 10
  # How long what got SIGKILL may take to be gone.
  @killed_ms 5_000

  defguardp valid(pid) when is_integer(pid) and pid > 1 and pid <= 0x7FFFFFFF

  # ---- looking ------------------------------------------------------------

  @doc """
  Whether the process runs: a signal could be sent to it. A zombie, which only
  waits for its parent to ask how it ended, does not run.
  """
  @spec process_alive?(os_pid) :: boolean
  def process_alive?(pid) when valid(pid) do
    # Not allowed to signal it: it is there.
    case Native.os_signal(pid, 0, 0) do
      code when code in [0, 1] -> not Listing.linux?() or alive?(pid, OSProcess.start_time(pid))
      _ -> false
    end
  end

  def process_alive?(_pid), do: false

  @doc "With which program and arguments a process was started, separated by spaces."
  @spec get_process_command(os_pid) :: {:ok, String.t()} | {:error, :not_found | :invalid_pid}
  def get_process_command(pid) when valid(pid) do
    case Listing.args(pid) do
      args when args in [nil, []] -> {:error, :not_found}
      args -> {:ok, Enum.join(args, " ")}
    end
  end

  def get_process_command(_pid), do: {:error, :invalid_pid}

  @doc "The process group of a process."
  @spec get_process_group_id(os_pid) :: {:ok, pos_integer} | {:error, :not_found | :invalid_pid}
  def get_process_group_id(pid) when valid(pid) do
    case Listing.pgid(pid) do
      nil -> {:error, :not_found}
      pgid -> {:ok, pgid}
    end
  end

  def get_process_group_id(_pid), do: {:error, :invalid_pid}

  @doc "The processes whose program is a Python interpreter."
  @spec find_python_processes() :: [os_pid]
  def find_python_processes do
    for pid <- Listing.pids(), [program | _] <- [Listing.args(pid)], python?(program), do: pid
  end

  defp python?(program), do: Path.basename(program) =~ ~r/^(python|pypy)[0-9.]*[a-z]*$/

  @doc "Whether workers have process groups of their own: on every Unix."
  @spec process_group_supported?() :: boolean
  def process_group_supported?, do: match?({:unix, _}, :os.type())

  @doc """
  The program `setsid`. Snakepit does without: its spawner makes the sessions.
  """
  @spec setsid_executable() :: {:ok, Path.t()} | {:error, :not_found}
  def setsid_executable do
    case System.find_executable("setsid") do
      nil -> {:error, :not_found}
      path -> {:ok, path}
    end
  end

  @doc "The same, or raises."
  @spec setsid_executable!() :: Path.t()
  def setsid_executable! do
    case setsid_executable() do
      {:ok, path} -> path
      {:error, :not_found} -> raise "there is no program setsid in PATH"
    end
  end

  # ---- signals ------------------------------------------------------------

  @doc """
  Sends a signal. `{:error, :esrch}`: there is no such process; `:eperm`: it is
  another user's.
  """
  @spec kill_process(os_pid, signal) :: :ok | {:error, atom}
  def kill_process(pid, signal \\ :sigterm)

  def kill_process(pid, signal) when valid(pid) do
    with {:ok, number} <- number(signal), do: result(Native.os_signal(pid, 0, number))
  end

  def kill_process(_pid, _signal), do: {:error, :invalid_pid}

  @doc "Sends a signal to all processes of a group. Our own group is refused."
  @spec kill_process_group(pos_integer, signal) :: :ok | {:error, atom}
  def kill_process_group(pgid, signal \\ :sigterm)

  def kill_process_group(pgid, signal) when valid(pgid) do
    with {:ok, number} <- number(signal), do: result(Native.os_signal_group(pgid, number))
  end

  def kill_process_group(_pgid, _signal), do: {:error, :invalid_pid}

  @doc """
  SIGTERM, and SIGKILL if the process has not ended `timeout_ms` later. `:ok`
  when it is gone.
  """
  @spec kill_with_escalation(os_pid, non_neg_integer) :: :ok | {:error, atom}
  def kill_with_escalation(pid, timeout_ms \\ 2_000)

  def kill_with_escalation(pid, timeout_ms) when valid(pid) do
    start = OSProcess.start_time(pid) || 0
    there? = fn -> there?(pid, start) end
    escalate(there?, &Native.os_signal(pid, start, &1), timeout_ms)
  end

  def kill_with_escalation(_pid, _timeout_ms), do: {:error, :invalid_pid}

  @doc "The same for all processes of a group."
  @spec kill_process_group_with_escalation(pos_integer, non_neg_integer) :: :ok | {:error, atom}
  def kill_process_group_with_escalation(pgid, timeout_ms \\ 2_000)

  # The number of a group is not used again while anybody is in it.
  def kill_process_group_with_escalation(pgid, timeout_ms) when valid(pgid) do
    escalate(fn -> group?(pgid) end, &Native.os_signal_group(pgid, &1), timeout_ms)
  end

  def kill_process_group_with_escalation(_pgid, _timeout_ms), do: {:error, :invalid_pid}

  @doc """
  Ends the workers of one run: those that the registry knows, and the
  processes with `--snakepit-run-id` or `--run-id` and that identifier among
  their arguments. Returns how many have ended.

  Options: `:timeout_ms` from SIGTERM to SIGKILL (2000); `:instance_name` and
  `:instance_token`, which must then be on the command line as well.
  """
  @spec kill_by_run_id(String.t(), keyword) :: {:ok, non_neg_integer} | {:error, :invalid_run_id}
  def kill_by_run_id(run_id, opts \\ []) do
    if is_binary(run_id) and run_id =~ ~r/^[0-9a-z]{7}$/ do
      processes = Enum.uniq(registered(run_id, opts) ++ with_run_id(run_id, opts))
      timeout = Keyword.get(opts, :timeout_ms, 2_000)
      {:ok, end_all(processes, timeout)}
    else
      {:error, :invalid_run_id}
    end
  end

  @doc false
  # SIGTERM to all, then SIGKILL to those that are left and their families; how
  # many are gone at the end.
  @spec end_all([{os_pid, non_neg_integer}], non_neg_integer) :: non_neg_integer
  def end_all(processes, timeout_ms) do
    for {pid, start} <- processes, do: Native.os_signal(pid, start, @linux.sigterm)
    left? = fn -> Enum.any?(processes, fn {pid, start} -> there?(pid, start) end) end

    unless await_gone(left?, timeout_ms) do
      left = Enum.filter(processes, fn {pid, start} -> there?(pid, start) end)
      _ = Spawner.kill_processes(left)
      for {pid, start} <- left, do: Native.os_signal(pid, start, @linux.sigkill)
      await_gone(left?, @killed_ms)
    end

    Enum.count(processes, fn {pid, start} -> not there?(pid, start) end)
  end

  # ---- parts --------------------------------------------------------------

  defp registered(run_id, opts) do
    if Process.whereis(ProcessRegistry) && filters(opts) == [] do
      for {_id, %{beam_run_id: ^run_id, process_pid: pid, start_time: start}} <-
            ProcessRegistry.list_all_workers(),
          start != nil and alive?(pid, start),
          do: {pid, start}
    else
      []
    end
  end

  defp with_run_id(run_id, opts) do
    for pid <- Listing.pids(),
        pid > 1 and to_string(pid) != System.pid(),
        start = OSProcess.start_time(pid) || unknown_start(),
        args = Listing.args(pid),
        has?(args, ["--snakepit-run-id", "--run-id"], run_id),
        Enum.all?(filters(opts), fn {flag, value} -> has?(args, [flag], value) end),
        # Read again: the number may have changed hands in between.
        there?(pid, start),
        do: {pid, start}
  end

  # nil drops the process: it has ended by now.
  defp unknown_start, do: if(Listing.linux?(), do: nil, else: 0)

  defp filters(opts) do
    for {key, flag} <- [
          instance_name: "--snakepit-instance-name",
          instance_token: "--snakepit-instance-token"
        ],
        value = opts[key],
        do: {flag, value}
  end

  # Programs that put a title in place of their arguments have one long one.
  defp has?([one], flags, value) do
    if Enum.any?(flags, &(&1 =~ "run-id")),
      do: RunID.extract_from_command(one) == {:ok, value},
      else: Enum.any?(flags, &String.contains?(one, "#{&1} #{value}"))
  end

  defp has?(args, flags, value) do
    args
    |> Enum.chunk_every(2, 1, :discard)
    |> Enum.any?(fn [a, b] -> a in flags and b == value end)
  end

  defp escalate(there?, send, timeout_ms) do
    case result(send.(@linux.sigterm)) do
      {:error, :esrch} -> :ok
      {:error, why} -> {:error, why}
      :ok -> if await_gone(there?, timeout_ms), do: :ok, else: finish(there?, send)
    end
  end

  defp finish(there?, send) do
    case result(send.(@linux.sigkill)) do
      {:error, why} when why != :esrch -> {:error, why}
      _ -> if await_gone(there?, @killed_ms), do: :ok, else: {:error, :still_alive}
    end
  end

  defp await_gone(there?, timeout_ms),
    do: poll(there?, System.monotonic_time(:millisecond) + timeout_ms)

  defp poll(there?, until) do
    cond do
      not there?.() ->
        true

      System.monotonic_time(:millisecond) >= until ->
        false

      true ->
        Process.sleep(@poll_ms)
        poll(there?, until)
    end
  end

  defp there?(pid, 0), do: process_alive?(pid)
  defp there?(pid, start), do: alive?(pid, start)

  # Zombies stay in their group, but hear nothing.
  defp group?(pgid) do
    if Listing.linux?(),
      do: Enum.any?(Listing.pids(), &(Listing.pgid(&1) == pgid and process_alive?(&1))),
      else: Native.os_signal_group(pgid, 0) == 0
  end

  defp alive?(pid, start), do: OSProcess.alive?(pid, start)

  defp number(signal) when is_integer(signal) and signal in 1..64, do: {:ok, signal}

  defp number(signal) do
    signals = if Listing.linux?(), do: @linux, else: @bsd

    case signals do
      %{^signal => number} -> {:ok, number}
      _ -> {:error, :invalid_signal}
    end
  end

  defp result(0), do: :ok
  defp result(code), do: {:error, Map.get(@errors, code, :failed)}
end
