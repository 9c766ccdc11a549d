defmodule Snakepit.Spawner.Frame do
  @moduledoc false
  # What is said to and by the port program: see c_src/spawner/proto.h.

  import Bitwise, only: [&&&: 2]

  alias Snakepit.Spawner

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

  # ---- to the program -----------------------------------------------------

  @doc "An order about a child."
  @spec order(Spawner.id(), tuple) :: binary
  def order(id, {:stop, :default}), do: order(id, {:stop, 0xFFFFFFFF})
  def order(id, {:stop, grace_ms}), do: <<2, id::64, grace_ms::32>>
  def order(id, {:signal, signo, :child}), do: <<3, id::64, signo::32, 0>>
  def order(id, {:signal, signo, :group}), do: <<3, id::64, signo::32, 1>>
  def order(id, {:credit, bytes}), do: <<4, id::64, bytes::32>>

  @doc """
  Starts a child. `at_start` is a function that returns the environment the
  program has. A zygote has that of the BEAM already.
  """
  @spec start(:program | :zygote | {:fork, Spawner.id()}, Spawner.id(), map, (() -> map)) ::
          binary
  def start({:fork, zygote}, id, spec, _at_start),
    do: encode(<<6, id::64, zygote::64, 1::32>>, spec, assignments(spec.env))

  def start(kind, id, spec, at_start) do
    flags = if kind == :zygote, do: 3, else: 1
    encode(<<1, id::64, flags::32>>, spec, changes(at_start.(), spec.env))
  end

  defp encode(head, spec, env) do
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

  defp list(items), do: [<<length(items)::32>> | Enum.map(items, &string/1)]
  defp string(bytes), do: [<<byte_size(bytes)::32>>, bytes]

  # ---- environment --------------------------------------------------------

  @doc "The environment of this BEAM."
  @spec os_env() :: map
  def os_env, do: Map.new(:os.env())

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

  # ---- from the program ---------------------------------------------------

  @doc "Why a child was not started: what follows the stage and the errno."
  @spec failure(byte, binary) :: Spawner.failure()
  def failure(stage, rest) do
    <<len::32, name::binary-size(len), len2::32, text::binary-size(len2)>> = rest

    %{
      stage: Map.get(@stages, stage, :unknown),
      errno: Map.get(@errnos, name, :unknown),
      message: printable(text)
    }
  end

  @spec held(non_neg_integer) :: [atom]
  def held(held), do: for({name, bit} <- @held, (held &&& bit) != 0, do: name)

  @doc "What an EXIT says besides how."
  @spec usage(<<_::224>>) :: map
  def usage(<<utime::64, stime::64, rss::64, flags::32>>) do
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

  @doc "Bytes that may not be text."
  @spec printable(binary) :: String.t()
  def printable(text) do
    if String.valid?(text), do: text, else: inspect(text, binaries: :as_strings)
  end
end
