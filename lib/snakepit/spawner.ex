defmodule Snakepit.Spawner do
  @moduledoc false
  # Owns the port program snakepit_spawner, which starts, watches and kills OS
  # processes. The grammar between the two is in c_src/spawner/proto.h.
  #
  # Who calls spawn/2 owns the child and gets
  #
  #   {:snakepit_os, id, {:output, :stdout | :stderr, bytes}}
  #   {:snakepit_os, id, {:exit, {:status, n} | {:signal, n}, usage}}
  #   {:snakepit_os, id, {:exit, :spawner_lost, %{}}}
  #   {:snakepit_os, id, {:zygote, :ready | {:unfit, why}}}
  #
  # with usage = %{utime_us: _, stime_us: _, max_rss_kb: _, core_dumped: boolean,
  # oom: :cgroup | :perhaps | nil, process_limit: boolean}: whether it wrote a
  # core; whether its cgroup's memory was used up, or somebody else's SIGKILL may
  # have been the kernel's for lack of memory; whether its cgroup refused a fork.
  # One :exit is the last message about an id; when it comes, the child and all
  # its descendants are gone. The owner gives output back with ack/3: a child whose window of
  # unacknowledged bytes is used up blocks in write(2). When the owner dies, the
  # child is stopped.
  use GenServer, shutdown: 15_000

  import Kernel, except: [spawn: 1]
  import Bitwise, only: [<<<: 2]

  alias Snakepit.Logger
  alias Snakepit.Spawner.{Frame, Program, Spec}

  @type server :: GenServer.server()
  @type id :: pos_integer
  @type text :: String.t() | charlist

  @typedoc """
  `args` and names are raw bytes (binaries) or text (charlists). `env` changes
  the environment of the BEAM; nil and false remove a variable. `grace_ms` is
  the time from SIGTERM to SIGKILL when the owner dies. `settings` are those of
  c_src/spawner/settings.h. `placement` is `{:spread, key, count}` or
  `{:compact, key, width}`: the child gets the lowest share that no other living
  child of that key has.
  """
  @type spec :: %{
          required(:program) => text,
          optional(:args) => [text],
          optional(:env) =>
            [{text | atom, text | nil | false}] | %{(text | atom) => text | nil | false},
          optional(:cd) => text | nil,
          optional(:grace_ms) => non_neg_integer,
          optional(:window) => pos_integer,
          optional(:settings) => [String.t()],
          optional(:placement) => nil | {:spread | :compact, term, pos_integer}
        }

  @type heir :: {pid :: pos_integer, start :: pos_integer, [Path.t()]}
  @type failure :: %{stage: atom, errno: atom, message: String.t()}

  @shutdown_ms 12_000
  @max_frame 64 * 1024 * 1024
  @max_u32 (1 <<< 32) - 2
  # ---- API ----------------------------------------------------------------

  @doc """
  Options: `:name` (default this module; nil for none), `:path` of the program,
  `:heir`, `{pid, start, directories}` to remove when that process is dead.
  """
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    opts = Keyword.validate!(opts, name: __MODULE__, path: default_path(), heir: nil)
    {name, opts} = Keyword.pop!(opts, :name)
    GenServer.start_link(__MODULE__, opts, if(name, do: [name: name], else: []))
  end

  @doc "Starts a program; the caller owns it."
  @spec spawn(server, spec) :: {:ok, id, os_pid :: pos_integer} | {:error, failure}
  def spawn(server \\ __MODULE__, spec), do: start_child(server, :program, spec)

  defp start_child(server, kind, spec) do
    case Spec.check(spec) do
      {:ok, checked} -> GenServer.call(server, {:spawn, kind, checked}, :infinity)
      {:error, message} -> {:error, refused(message)}
    end
  catch
    :exit, {_reason, {GenServer, :call, _args}} -> {:error, ended(spec.program)}
  end

  @doc """
  Starts a program that is to be forked: once it has said so, a message to its
  owner, `fork/3` makes children of it.
  """
  @spec spawn_zygote(server, spec) :: {:ok, id, os_pid :: pos_integer} | {:error, failure}
  def spawn_zygote(server \\ __MODULE__, spec), do: start_child(server, :zygote, spec)

  @doc """
  Starts a child as a copy of a zygote; the caller owns it. `env` are changes of
  the zygote's environment; program, arguments and directory are the zygote's.
  """
  @spec fork(server, zygote :: id, spec) :: {:ok, id, os_pid :: pos_integer} | {:error, failure}
  def fork(server \\ __MODULE__, zygote, spec), do: start_child(server, {:fork, zygote}, spec)

  @doc "SIGTERM to the child's process group, and SIGKILL to all its descendants after the grace time."
  @spec stop(server, id, grace_ms :: non_neg_integer) :: :ok
  def stop(server, id, grace_ms) when is_integer(grace_ms) and grace_ms >= 0 do
    GenServer.cast(server, {:order, id, {:stop, min(grace_ms, @max_u32)}})
  end

  @doc "Sends a signal to the child, or to its process group."
  @spec signal(server, id, signo :: 1..64, :child | :group) :: :ok
  def signal(server, id, signo, target \\ :child)
      when signo in 1..64 and target in [:child, :group] do
    GenServer.cast(server, {:order, id, {:signal, signo, target}})
  end

  @doc "Gives back room for so many bytes of output."
  @spec ack(server, id, bytes :: non_neg_integer) :: :ok
  def ack(server, id, bytes) when is_integer(bytes) and bytes >= 0 do
    GenServer.cast(server, {:order, id, {:credit, min(bytes, @max_u32)}})
  end

  @doc """
  The port program and its children. `held` says what a child is in besides its
  guard, and which of its limits are those of its cgroup.
  """
  @spec info(server) :: %{
          os_pid: pos_integer,
          children: [
            %{
              id: id,
              os_pid: pos_integer,
              owner: pid,
              program: binary,
              share: non_neg_integer | nil,
              held: [:cgroup | :pid_namespace | :memory | :processes | :cpus]
            }
          ]
        }
  def info(server \\ __MODULE__), do: GenServer.call(server, :info)

  @doc """
  Kills processes by number and start time (clock ticks since boot) with their
  sessions and descendants, without a running spawner. A number that means
  another process by now is left alone.
  """
  @spec kill_processes([{os_pid :: pos_integer, start_ticks :: pos_integer}], Path.t()) ::
          :ok | {:error, message :: String.t()}
  def kill_processes(processes, path \\ default_path()),
    do: Program.kill("--kill", processes, path)

  @doc "Where the build puts the program."
  @spec default_path() :: Path.t()
  def default_path, do: Program.default_path()

  # ---- server -------------------------------------------------------------

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)
    path = opts |> Keyword.fetch!(:path) |> to_string()
    # The port gets the environment as it is now; later changes of the BEAM's
    # are sent along with each child.
    # In a function, so that no report of a crash shows what is in there.
    at_start = Frame.os_env()
    env = fn -> at_start end

    with {:ok, port} <- Program.open(path, opts[:heir]),
         {:ok, os_pid} <- Program.hello(port, path) do
      {:ok, %{port: port, path: path, os_pid: os_pid, env: env, children: %{}, refs: %{}}}
    else
      {:error, message} -> {:stop, {:spawner_unavailable, message}}
    end
  end

  @impl true
  def handle_call({:spawn, kind, spec}, {owner, _tag} = from, state) do
    id = System.unique_integer([:positive, :monotonic])
    {share, setting} = place(spec.placement, state.children)
    spec = %{spec | settings: spec.settings ++ setting}
    frame = Frame.start(kind, id, spec, state.env)

    if byte_size(frame) > @max_frame do
      {:reply, {:error, refused("arguments and environment take more than 64 MiB")}, state}
    else
      ref = Process.monitor(owner)

      child = %{
        owner: owner,
        ref: ref,
        from: from,
        os_pid: nil,
        start: 0,
        program: spec.program,
        share: share,
        held: []
      }

      send_port(state, frame)

      {:noreply,
       %{
         state
         | children: Map.put(state.children, id, child),
           refs: Map.put(state.refs, ref, id)
       }}
    end
  end

  def handle_call(:info, _from, state) do
    children =
      for {id, child} <- state.children, child.os_pid != nil do
        shared = child.share && elem(child.share, 1)
        known = Map.take(child, [:os_pid, :owner, :program, :held])
        Map.merge(known, %{id: id, share: shared})
      end

    {:reply, %{os_pid: state.os_pid, children: Enum.sort_by(children, & &1.id)}, state}
  end

  @impl true
  def handle_cast({:order, id, order}, state) do
    if is_map_key(state.children, id), do: send_port(state, Frame.order(id, order))
    {:noreply, state}
  end

  @impl true
  def handle_info({port, {:data, frame}}, %{port: port} = state) do
    {:noreply, from_port(frame, state)}
  end

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    {:stop, {:spawner_lost, status}, %{state | port: nil}}
  end

  def handle_info({:EXIT, port, reason}, %{port: port} = state) do
    {:stop, {:spawner_lost, reason}, %{state | port: nil}}
  end

  def handle_info({:DOWN, ref, :process, _pid, _reason}, state)
      when is_map_key(state.refs, ref) do
    # The child keeps its entry; from now on its output is acknowledged here.
    id = Map.fetch!(state.refs, ref)
    send_port(state, Frame.order(id, {:stop, :default}))
    children = Map.update!(state.children, id, &%{&1 | owner: nil})
    {:noreply, %{state | children: children, refs: Map.delete(state.refs, ref)}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, %{port: nil} = state) do
    Logger.error(
      :lifecycle,
      "snakepit_spawner ended: #{inspect(reason)}; its children are killed"
    )

    # Its death has killed them already, unless the kernel was told otherwise.
    known =
      for {_id, %{start: start} = child} <- state.children, start > 0, do: {child.os_pid, start}

    with {:error, message} <- Program.kill("--kill-family", known, state.path) do
      Logger.error(:lifecycle, "children of snakepit_spawner may be left: #{message}")
    end

    lose_all(state)
  end

  def terminate(_reason, %{port: port} = state) do
    send_port(state, <<5>>)

    receive do
      {^port, {:exit_status, _status}} -> :ok
    after
      @shutdown_ms -> Logger.error(:lifecycle, "snakepit_spawner does not end; closing its port")
    end

    lose_all(state)
  end

  defp lose_all(state) do
    for {id, child} <- state.children do
      if child.from do
        GenServer.reply(child.from, {:error, ended(child.program)})
      else
        tell(child, id, {:exit, :spawner_lost, %{}})
      end
    end

    :ok
  end

  # ---- the port -----------------------------------------------------------

  defp from_port(<<66, id::64, os_pid::32, start::64, held::32>>, state) do
    child = Map.fetch!(state.children, id)
    GenServer.reply(child.from, {:ok, id, os_pid})

    put_in(state.children[id], %{
      child
      | from: nil,
        os_pid: os_pid,
        start: start,
        held: Frame.held(held)
    })
  end

  defp from_port(<<67, id::64, stage, _errno::32, rest::binary>>, state) do
    {child, state} = pop_child(state, id)

    GenServer.reply(child.from, {:error, Frame.failure(stage, rest)})
    state
  end

  defp from_port(<<68, id::64, stream, bytes::binary>>, state) do
    case Map.fetch!(state.children, id) do
      %{owner: nil} -> send_port(state, Frame.order(id, {:credit, byte_size(bytes)}))
      child -> tell(child, id, {:output, if(stream == 1, do: :stdout, else: :stderr), bytes})
    end

    state
  end

  defp from_port(<<69, id::64, kind, value::32, usage::binary-size(28)>>, state) do
    {child, state} = pop_child(state, id)
    how = {if(kind == 0, do: :status, else: :signal), value}
    tell(child, id, {:exit, how, Frame.usage(usage)})
    state
  end

  defp from_port(<<71, id::64, len::32, text::binary-size(len)>>, state) do
    said = if text == "", do: :ready, else: {:unfit, Frame.printable(text)}
    tell(Map.fetch!(state.children, id), id, {:zygote, said})
    state
  end

  defp from_port(<<70, len::32, text::binary-size(len)>>, state) do
    Logger.error(:lifecycle, "snakepit_spawner: #{Frame.printable(text)}")
    state
  end

  defp tell(%{owner: nil}, _id, _what), do: :ok
  defp tell(%{owner: owner}, id, what), do: send(owner, {:snakepit_os, id, what})

  defp pop_child(state, id) do
    {child, children} = Map.pop!(state.children, id)
    Process.demonitor(child.ref, [:flush])
    {child, %{state | children: children, refs: Map.delete(state.refs, child.ref)}}
  end

  # The port may have ended a moment ago; its last message is on the way then.
  defp send_port(state, frame) do
    Port.command(state.port, frame)
  rescue
    ArgumentError -> true
  end

  # The lowest number that no living child of that key has.
  defp place(nil, _children), do: {nil, []}

  defp place({how, key, of}, children) do
    taken = for {_id, %{share: {^key, n}}} <- children, do: n
    n = Enum.find(0..length(taken), &(&1 not in taken))
    {{key, n}, ["affinity=#{how}:#{n}/#{of}"]}
  end

  defp ended(program) do
    %{
      stage: :fork,
      errno: :esrch,
      message:
        "cannot start #{inspect(program)}: the spawner is not running; " <>
          "its supervisor starts it again, then try again"
    }
  end

  defp refused(message) do
    %{stage: :request, errno: :einval, message: "cannot start a program: " <> message}
  end
end
