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
  import Bitwise, only: [<<<: 2, &&&: 2]

  alias Snakepit.Logger

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

  @type failure :: %{stage: atom, errno: atom, message: String.t()}

  @version 2
  @hello_ms 10_000
  @shutdown_ms 12_000
  @default_grace 6_000
  @max_path 4096
  @max_args 65_536
  @max_env 16_384
  @max_settings 256
  @max_frame 64 * 1024 * 1024
  @max_u32 (1 <<< 32) - 2

  @stages %{
    1 => :request,
    2 => :pipe,
    3 => :fork,
    4 => :session,
    5 => :stdio,
    6 => :chdir,
    7 => :exec,
    8 => :limit,
    9 => :affinity,
    10 => :user,
    11 => :cgroup,
    12 => :namespace
  }

  @held [cgroup: 1, pid_namespace: 2, memory: 4, processes: 8, cpus: 16]

  @errnos Map.new(
            ~w(e2big eacces eagain echild eexist einval eio eisdir eloop emfile enfile
               enametoolong enoent enoexec enomem enotdir eperm esrch etxtbsy enospc ebusy
               eopnotsupp erofs eusers)a,
            &{&1 |> Atom.to_string() |> String.upcase(), &1}
          )

  # ---- API ----------------------------------------------------------------

  @doc "Options: `:name` (default this module; nil for none) and `:path` of the program."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    opts = Keyword.validate!(opts, name: __MODULE__, path: default_path())
    {name, opts} = Keyword.pop!(opts, :name)
    GenServer.start_link(__MODULE__, opts, if(name, do: [name: name], else: []))
  end

  @doc "Starts a program; the caller owns it."
  @spec spawn(server, spec) :: {:ok, id, os_pid :: pos_integer} | {:error, failure}
  def spawn(server \\ __MODULE__, spec), do: start_child(server, :program, spec)

  defp start_child(server, kind, spec) do
    case check(spec) do
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
  def kill_processes(processes, path \\ default_path()), do: kill("--kill", processes, path)

  defp kill(_how, [], _path), do: :ok

  defp kill(how, processes, path) do
    args = for {pid, start} <- processes, do: "#{pid}:#{start}"

    case System.cmd(path, [how | args], stderr_to_stdout: true) do
      {_output, 0} -> :ok
      {output, _status} -> {:error, String.trim(output)}
    end
  rescue
    error in ErlangError -> {:error, unavailable(path, error.original)}
  end

  @doc "Where the build puts the program."
  @spec default_path() :: Path.t()
  def default_path do
    # As Snakepit.Native.ebin/0, which would load the NIF.
    ebin =
      case :code.which(__MODULE__) do
        path when is_list(path) -> :filename.dirname(path)
        _ -> :filename.join(:code.lib_dir(:snakepit), ~c"ebin")
      end

    Path.join(to_string(ebin), "snakepit_spawner")
  end

  # ---- server -------------------------------------------------------------

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)
    path = opts |> Keyword.fetch!(:path) |> to_string()
    # The port gets the environment as it is now; later changes of the BEAM's
    # are sent along with each child.
    # In a function, so that no report of a crash shows what is in there.
    at_start = os_env()
    env = fn -> at_start end

    with {:ok, port} <- open(path),
         {:ok, os_pid} <- hello(port, path) do
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
    frame = spawn_frame(kind, id, spec, state.env)

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
    if is_map_key(state.children, id), do: send_port(state, order_frame(id, order))
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
    send_port(state, order_frame(id, {:stop, :default}))
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

    with {:error, message} <- kill("--kill-family", known, state.path) do
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

  defp open(path) do
    options = [:binary, :nouse_stdio, :exit_status, :hide, packet: 4, args: ["--port"]]

    # A directory would be "executed" and end with an obscure status.
    if File.dir?(path),
      do: {:error, unavailable(path, :eisdir)},
      else: {:ok, Port.open({:spawn_executable, path}, options)}
  rescue
    error in ErlangError -> {:error, unavailable(path, error.original)}
    error in ArgumentError -> {:error, unavailable(path, Exception.message(error))}
  end

  defp hello(port, path) do
    receive do
      {^port, {:data, <<65, @version::32, os_pid::32>>}} ->
        {:ok, os_pid}

      {^port, {:data, _other}} ->
        close(port)
        {:error, "#{path} speaks another protocol than this code: run mix compile --force"}

      {^port, {:exit_status, status}} ->
        {:error,
         "#{path} ended with status #{status} before it was ready: " <>
           "run it by hand with --help to see why, or build it again with mix compile --force"}
    after
      @hello_ms ->
        close(port)
        {:error, "#{path} did not answer within #{@hello_ms} ms; is the machine overloaded?"}
    end
  end

  # It may have ended by itself meanwhile.
  defp close(port) do
    Port.close(port)
  rescue
    ArgumentError -> true
  end

  defp unavailable(path, reason) do
    why =
      case {reason, File.stat(path)} do
        {_, {:error, :enoent}} ->
          "there is no such file: build it with mix compile"

        {_, {:error, posix}} ->
          "#{:file.format_error(posix)}: check the directories of this path"

        {_, {:ok, %{type: type}}} when type != :regular ->
          "it is not a file but a #{type}: build it again with mix compile --force"

        {_, {:ok, %{mode: mode}}} when Bitwise.band(mode, 0o111) == 0 ->
          "it lacks the permission to be executed: chmod +x it, or mix compile --force"

        {:eacces, _} ->
          "permission denied: is its file system mounted noexec? " <>
            "Then set MIX_BUILD_PATH to a place on another one"

        _ ->
          "#{inspect(reason)}: build it again with mix compile --force"
      end

    "cannot execute #{path}: #{why}"
  end

  defp from_port(<<66, id::64, os_pid::32, start::64, held::32>>, state) do
    child = Map.fetch!(state.children, id)
    GenServer.reply(child.from, {:ok, id, os_pid})
    held = for {name, bit} <- @held, (held &&& bit) != 0, do: name
    put_in(state.children[id], %{child | from: nil, os_pid: os_pid, start: start, held: held})
  end

  defp from_port(<<67, id::64, stage, _errno::32, rest::binary>>, state) do
    <<len::32, name::binary-size(len), len2::32, text::binary-size(len2)>> = rest
    {child, state} = pop_child(state, id)

    failure = %{
      stage: Map.get(@stages, stage, :unknown),
      errno: Map.get(@errnos, name, :unknown),
      message: printable(text)
    }

    GenServer.reply(child.from, {:error, failure})
    state
  end

  defp from_port(<<68, id::64, stream, bytes::binary>>, state) do
    case Map.fetch!(state.children, id) do
      %{owner: nil} -> send_port(state, order_frame(id, {:credit, byte_size(bytes)}))
      child -> tell(child, id, {:output, if(stream == 1, do: :stdout, else: :stderr), bytes})
    end

    state
  end

  defp from_port(<<69, id::64, kind, value::32, usage::binary-size(28)>>, state) do
    {child, state} = pop_child(state, id)
    how = {if(kind == 0, do: :status, else: :signal), value}
    tell(child, id, {:exit, how, usage(usage)})
    state
  end

  defp from_port(<<71, id::64, len::32, text::binary-size(len)>>, state) do
    said = if text == "", do: :ready, else: {:unfit, printable(text)}
    tell(Map.fetch!(state.children, id), id, {:zygote, said})
    state
  end

  defp from_port(<<70, len::32, text::binary-size(len)>>, state) do
    Logger.error(:lifecycle, "snakepit_spawner: #{printable(text)}")
    state
  end

  defp usage(<<utime::64, stime::64, rss::64, flags::32>>) do
    %{
      utime_us: utime,
      stime_us: stime,
      max_rss_kb: rss,
      core_dumped: (flags &&& 1) != 0,
      oom: oom(flags),
      process_limit: (flags &&& 8) != 0
    }
  end

  defp oom(flags) when (flags &&& 2) != 0, do: :cgroup
  defp oom(flags) when (flags &&& 4) != 0, do: :perhaps
  defp oom(_flags), do: nil

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

  defp order_frame(id, {:stop, :default}), do: order_frame(id, {:stop, 0xFFFFFFFF})
  defp order_frame(id, {:stop, grace_ms}), do: <<2, id::64, grace_ms::32>>
  defp order_frame(id, {:signal, signo, :child}), do: <<3, id::64, signo::32, 0>>
  defp order_frame(id, {:signal, signo, :group}), do: <<3, id::64, signo::32, 1>>
  defp order_frame(id, {:credit, bytes}), do: <<4, id::64, bytes::32>>

  # A zygote has the environment of the BEAM already.
  defp spawn_frame({:fork, zygote}, id, spec, _at_start),
    do: spawn_frame(<<6, id::64, zygote::64, 1::32>>, spec, assignments(spec.env))

  defp spawn_frame(kind, id, spec, at_start) do
    flags = if kind == :zygote, do: 3, else: 1
    spawn_frame(<<1, id::64, flags::32>>, spec, changes(at_start.(), spec.env))
  end

  defp spawn_frame(head, spec, env) do
    IO.iodata_to_binary([
      head,
      <<spec.grace_ms::32, spec.window::32>>,
      string(spec.program),
      list(spec.args),
      list(env),
      string(spec.cd),
      list(spec.settings)
    ])
  end

  # The lowest number that no living child of that key has.
  defp place(nil, _children), do: {nil, []}

  defp place({how, key, of}, children) do
    taken = for {_id, %{share: {^key, n}}} <- children, do: n
    n = Enum.find(0..length(taken), &(&1 not in taken))
    {{key, n}, ["affinity=#{how}:#{n}/#{of}"]}
  end

  defp list(items), do: [<<length(items)::32>> | Enum.map(items, &string/1)]
  defp string(bytes), do: [<<byte_size(bytes)::32>>, bytes]

  # ---- environment --------------------------------------------------------

  defp os_env, do: Map.new(:os.env())

  # What has to be changed in the environment the spawner was started with.
  defp changes(at_start, wanted) do
    now = os_env()
    set = for {key, value} <- now, at_start[key] != value, do: {bytes!(key), bytes!(value)}
    gone = for {key, _value} <- at_start, not is_map_key(now, key), do: {bytes!(key), nil}

    (set ++ gone)
    |> Map.new()
    |> Map.merge(wanted)
    |> assignments()
  end

  defp assignments(changes) do
    Enum.map(changes, fn
      {key, nil} -> key
      {key, value} -> key <> "=" <> value
    end)
  end

  # What :os.env/0 could not decode as text it gives as bytes.
  defp bytes!(charlist) do
    case :unicode.characters_to_binary(charlist) do
      bytes when is_binary(bytes) -> bytes
      _ -> :erlang.list_to_binary(charlist)
    end
  end

  # ---- checks -------------------------------------------------------------

  defp check(spec) when is_map(spec) do
    with :ok <- known_keys(spec),
         {:ok, program} <- path_text(Map.get(spec, :program), :program),
         {:ok, cd} <- path_text(Map.get(spec, :cd) || "", :cd),
         {:ok, args} <- args(Map.get(spec, :args, [])),
         {:ok, env} <- env(Map.get(spec, :env, [])),
         {:ok, grace_ms} <- number(spec, :grace_ms, @default_grace, 0),
         {:ok, window} <- number(spec, :window, 256 * 1024, 1),
         {:ok, settings} <- settings(Map.get(spec, :settings, [])),
         {:ok, placement} <- placement(Map.get(spec, :placement)) do
      if program == "" do
        {:error, ":program is empty; name the program to start"}
      else
        {:ok,
         %{
           program: program,
           cd: cd,
           args: args,
           env: env,
           grace_ms: grace_ms,
           window: window,
           settings: settings,
           placement: placement
         }}
      end
    end
  end

  defp check(spec), do: {:error, "expected a map with :program, got #{inspect(spec)}"}

  @keys [:program, :args, :env, :cd, :grace_ms, :window, :settings, :placement]

  defp known_keys(spec) do
    case Map.keys(spec) -- @keys do
      [] -> :ok
      extra -> {:error, "unknown keys #{inspect(extra)}; the keys are #{inspect(@keys)}"}
    end
  end

  defp path_text(value, where) do
    case text(value, where) do
      {:ok, bytes} when byte_size(bytes) > @max_path ->
        {:error, "#{inspect(where)} is longer than #{@max_path} bytes"}

      result ->
        result
    end
  end

  defp args(args) when is_list(args) and length(args) <= @max_args do
    collect(args, &text(&1, :args))
  end

  defp args(args) when is_list(args), do: {:error, ":args has more than #{@max_args} entries"}
  defp args(args), do: {:error, ":args is not a list: #{inspect(args)}"}

  defp settings(items) when is_list(items) and length(items) <= @max_settings,
    do: collect(items, &text(&1, :settings))

  defp settings(other),
    do: {:error, ":settings is not a list of at most #{@max_settings}: #{inspect(other)}"}

  defp placement(nil), do: {:ok, nil}

  defp placement({how, _key, of} = placement)
       when how in [:spread, :compact] and of in 1..65_536,
       do: {:ok, placement}

  defp placement(other), do: {:error, ":placement is #{inspect(other)}; see Snakepit.Spawner"}

  defp env(env) when is_list(env) or is_map(env) do
    with {:ok, pairs} <- collect(env, &variable/1) do
      if length(pairs) > @max_env,
        do: {:error, ":env has more than #{@max_env} entries"},
        else: {:ok, Map.new(pairs)}
    end
  end

  defp env(env), do: {:error, ":env is neither a list of pairs nor a map: #{inspect(env)}"}

  defp variable({key, value}) do
    key = if is_atom(key) and key not in [nil, true, false], do: Atom.to_string(key), else: key

    with {:ok, key} <- text(key, :env),
         {:ok, value} <- if(value in [nil, false], do: {:ok, nil}, else: text(value, :env)) do
      if key == "" or String.contains?(key, "="),
        do: {:error, ":env has the name #{inspect(key)}; a name is not empty and has no \"=\""},
        else: {:ok, {key, value}}
    end
  end

  defp variable(other), do: {:error, ":env has #{inspect(other)}; expected {name, value}"}

  defp text(value, where) when is_list(value) do
    case :unicode.characters_to_binary(value) do
      bytes when is_binary(bytes) -> text(bytes, where)
      _ -> {:error, "#{inspect(where)} has #{inspect(value)}, which is not text"}
    end
  rescue
    ArgumentError -> {:error, "#{inspect(where)} has #{inspect(value)}, which is not text"}
  end

  defp text(value, where) when is_binary(value) do
    if :binary.match(value, <<0>>) == :nomatch,
      do: {:ok, value},
      else: {:error, "#{inspect(where)} has a NUL byte in #{inspect(value)}; remove it"}
  end

  defp text(value, where) do
    {:error, "#{inspect(where)} has #{inspect(value)}; expected a string"}
  end

  defp number(spec, key, default, least) do
    case Map.get(spec, key, default) do
      n when is_integer(n) and n >= least and n <= @max_u32 -> {:ok, n}
      other -> {:error, "#{inspect(key)} is #{inspect(other)}; expected an integer from #{least}"}
    end
  end

  defp collect(items, fun) do
    items
    |> Enum.reduce_while([], fn item, done ->
      case fun.(item) do
        {:ok, value} -> {:cont, [value | done]}
        error -> {:halt, error}
      end
    end)
    |> case do
      done when is_list(done) -> {:ok, Enum.reverse(done)}
      error -> error
    end
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

  defp printable(text) do
    if String.valid?(text), do: text, else: inspect(text, binaries: :as_strings)
  end
end
