defmodule Snakepit.Pool.RunDir do
  @moduledoc false
  # The temporary directory of a run: sockets and ready files of its workers. It
  # is named
  #
  #   snakepit-<host>-<pid>-<start>-<random>
  #
  # after the BEAM that made it, so that anybody can tell whether that lives. The
  # one with "-open" behind it is made only where workers of another user need it.
  #
  # The BEAM removes it when the application stops, the spawner when the BEAM is
  # killed, and the next start of a BEAM of this user what is left of those whose
  # spawner was killed with them.

  alias Snakepit.Pool.ProcessRegistry.Owner

  @name ~r/^snakepit-([0-9a-f]{12})-(\d{1,10})-(\d{1,19})-[A-Za-z0-9_-]{6}(-open)?$/

  # What the address of a Unix socket has room for, without the final zero and the
  # longest name of a socket in the directory.
  @longest 107 - byte_size("/local")

  @doc """
  Makes one of this BEAM's, for its user alone, in the first of `parents` where
  that is possible and a socket in it has a name that is short enough.
  """
  @spec make([Path.t()]) :: {:ok, Path.t()} | {:error, String.t()}
  def make(parents \\ parents()) do
    this = this()
    random = Base.url_encode64(:crypto.strong_rand_bytes(9)) |> binary_part(0, 6)
    name = "snakepit-#{this.host}-#{this.pid}-#{this.start}-#{random}"
    {short, long} = parents |> Enum.map(&Path.join(&1, name)) |> Enum.split_with(&short?/1)
    # Without sockets there is gRPC.
    first_made(short ++ long, [])
  end

  defp short?(dir), do: byte_size(dir) <= @longest

  defp first_made([], refused) do
    {:error,
     "no temporary directory can be made: #{refused |> Enum.reverse() |> Enum.join(", ")}. " <>
       "Set TMPDIR to a directory that this user can write to"}
  end

  defp first_made([dir | rest], refused) do
    with :ok <- File.mkdir(dir),
         :ok <- File.chmod(dir, 0o700) do
      {:ok, dir}
    else
      {:error, why} ->
        first_made(rest, ["#{Path.dirname(dir)}: #{:file.format_error(why)}" | refused])
    end
  end

  # TMPDIR may be deep, and /tmp read-only in a container.
  defp parents do
    for(name <- ["TMPDIR", "TEMP", "TMP"], do: System.get_env(name))
    |> Enum.concat(["/tmp", System.get_env("XDG_RUNTIME_DIR"), "/var/tmp", "/dev/shm"])
    |> Enum.filter(&(is_binary(&1) and &1 != ""))
    |> Enum.map(&Path.expand/1)
    |> Enum.uniq()
  end

  @doc "The directory beside it that everybody may write to, and nobody but us may list."
  @spec open(Path.t()) :: Path.t()
  def open(dir), do: dir <> "-open"

  @spec make_open(Path.t()) :: Path.t()
  def make_open(dir) do
    dir = open(dir)
    _ = File.mkdir(dir)
    :ok = File.chmod(dir, 0o733)
    dir
  end

  @doc "Removes it with all that is in it."
  @spec remove(Path.t()) :: :ok
  def remove(dir) do
    _ = File.rm_rf(dir)
    _ = File.rm_rf(open(dir))
    :ok
  end

  @doc "What the spawner needs to know to do so; nil where a dead BEAM cannot be told from others."
  @spec heir(Path.t()) :: {pid :: pos_integer, start :: pos_integer, [Path.t()]} | nil
  def heir(dir) do
    case this() do
      %{start: start, pid: pid} when start > 0 and pid > 1 -> {pid, start, [dir, open(dir)]}
      _ -> nil
    end
  end

  @doc """
  Removes those of dead BEAMs of this user that lie beside `own`. Only files that
  lie in them directly go with them.
  """
  @spec sweep(Path.t()) :: [Path.t()]
  def sweep(own) do
    this = this()
    parent = Path.dirname(own)

    with {:ok, %File.Stat{uid: uid}} <- File.lstat(own),
         {:ok, names} <- File.ls(parent) do
      for name <- names,
          dead?(name, this),
          path = Path.join(parent, name),
          ours?(path, uid),
          removed?(path),
          do: path
    else
      _ -> []
    end
  end

  defp dead?(name, this) do
    case Regex.run(@name, name) do
      [_, host, pid, start | _open] ->
        owner = %{host: host, pid: String.to_integer(pid), start: String.to_integer(start)}
        Owner.dead?(owner, this)

      nil ->
        false
    end
  end

  # A directory itself, not a link to one.
  defp ours?(path, uid) do
    case File.lstat(path) do
      {:ok, %File.Stat{type: :directory, uid: ^uid}} -> true
      _ -> false
    end
  end

  # Nobody else can put a link in its place: it is ours. A link in it is removed,
  # not what it leads to.
  defp removed?(path) do
    with {:ok, names} <- File.ls(path), do: Enum.each(names, &File.rm(Path.join(path, &1)))
    File.rmdir(path) == :ok
  end

  # Neither the run nor the instance matters here.
  defp this, do: Owner.this("0000000", "", "")
end
