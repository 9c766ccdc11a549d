defmodule Snakepit.Test.Pools do
  @moduledoc false
  # Starts the application with pools for a test or a module of tests, and puts
  # everything back: configuration, the application without pools, and no OS
  # process of ours.

  import ExUnit.Assertions
  import ExUnit.Callbacks, only: [on_exit: 1]

  alias Snakepit.OSProcess
  alias Snakepit.Pool.ProcessRegistry

  # Far more than anything takes; only what hangs comes near it.
  @patience 120_000

  @doc "Pools of the tools in support/python; `settings` are keys of :snakepit."
  def start_pools(settings) do
    start_app(Keyword.merge(defaults(), settings))
    :ok = Snakepit.Pool.await_init_complete(Snakepit.Pool, @patience)
  end

  @doc "Only starts the application, which may fail."
  def start_app(settings) do
    stop_app()
    restore_on_exit(Process.put(__MODULE__, :restored))
    configure(settings)
    Application.ensure_all_started(:snakepit)
  end

  # Once for each test: what it found, not what it changed.
  defp restore_on_exit(:restored), do: :ok

  defp restore_on_exit(nil) do
    before = Application.get_all_env(:snakepit)

    on_exit(fn ->
      left = stop_app()
      configure(before)
      {:ok, _} = Application.ensure_all_started(:snakepit)
      assert left == [], "OS processes are left: #{inspect(left)}"
    end)
  end

  defp configure(settings) do
    for {key, _} <- Application.get_all_env(:snakepit), do: Application.delete_env(:snakepit, key)
    Application.put_all_env(snakepit: settings)
  end

  @doc "Stops the application; which of its processes are still there?"
  def stop_app do
    processes = if Process.whereis(ProcessRegistry), do: os_processes(), else: []
    _ = Application.stop(:snakepit)
    Enum.filter(processes, fn {pid, time} -> OSProcess.alive?(pid, time) end)
  end

  @doc "Number and start time of each worker process."
  def os_processes do
    for {_id, %{process_pid: pid, start_time: time}} <- ProcessRegistry.current_run_entries(),
        do: {pid, time}
  end

  @doc "Settings for one pool of test tools."
  # The suite runs once for each carrier and way to start: see `make test`.
  def defaults do
    [
      prefork: System.get_env("SNAKEPIT_TEST_PREFORK", "1") == "1",
      transport: String.to_atom(System.get_env("SNAKEPIT_TEST_TRANSPORT", "auto")),
      pooling_enabled: true,
      pool_size: 1,
      adapter_args: ["--adapter", "snakepit_test_tools.TestTools"],
      adapter_env: test_env()
    ]
  end

  @doc "The pool in the profile that the suite runs for: see `make test`."
  def in_profile(pool) do
    if System.get_env("SNAKEPIT_TEST_PROFILE") == "thread",
      do: Map.merge(%{worker_profile: :thread, threads_per_worker: 1}, pool),
      else: pool
  end

  def test_env do
    dirs = [
      Path.expand("python", __DIR__),
      Application.app_dir(:snakepit, "priv/python")
    ]

    [{"PYTHONPATH", Enum.join(dirs, ":")}]
  end

  @doc "A path of this test's own, for the files that steer tools."
  def signal_path do
    dir = Path.join(System.tmp_dir!(), "snakepit-test-#{System.pid()}-#{unique()}")
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf(dir) end)
    Path.join(dir, "signal")
  end

  defp unique, do: System.unique_integer([:positive])

  def go(path), do: File.write!(path <> ".go", "")

  @doc "Occupies one worker until go/1; returns when the tool runs."
  def occupy(path, opts \\ []) do
    task =
      Task.async(fn ->
        Snakepit.execute("hold", %{path: path}, Keyword.put_new(opts, :timeout, @patience))
      end)

    await_file(path <> ".started")
    task
  end

  @doc """
  Makes a call that is to time out while its tool runs, which `file` is the sign of.
  Where its time in ms was over before that, it is made again with more.
  """
  def timed_out_running(file, ms, call) do
    result = call.(ms)

    cond do
      File.exists?(file) -> result
      ms > @patience -> flunk("the tool does not begin within #{ms} ms")
      true -> timed_out_running(file, 2 * ms, call)
    end
  end

  @doc "The OS process that is occupied."
  def holder(path), do: String.to_integer(File.read!(path <> ".started"))

  def await_file(path), do: eventually(fn -> File.exists?(path) end)

  @doc "Polls until the condition holds."
  def eventually(condition, until \\ nil) do
    until = until || System.monotonic_time(:millisecond) + @patience

    cond do
      condition.() ->
        :ok

      System.monotonic_time(:millisecond) > until ->
        flunk("it did not come true within #{@patience} ms")

      true ->
        Process.sleep(5)
        eventually(condition, until)
    end
  end

  @doc "How many messages the calling process has not received."
  def waiting_messages do
    # Those that came since the last receive are counted only after another.
    receive do
      {__MODULE__, :never_sent} -> :ok
    after
      0 -> :ok
    end

    {:message_queue_len, count} = Process.info(self(), :message_queue_len)
    count
  end

  @doc "The OS process that answers."
  def worker_pid(opts \\ []) do
    {:ok, pid} = Snakepit.execute("pid", %{}, opts)
    pid
  end

  def kill(os_pid, signal \\ "KILL") do
    {_, 0} = System.cmd("/bin/kill", ["-#{signal}", Integer.to_string(os_pid)])
    :ok
  end
end
