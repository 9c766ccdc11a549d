defmodule Snakepit.Pool.ProcessRegistry.Disk do
  @moduledoc false
  # The file of one BEAM: a DETS table that no other writes, named
  #
  #   process_registry_<key>@<host>-<pid>-<start>.dets
  #
  # after its owner, so that nobody has to open it to know whether that lives.
  # The file of a dead owner is claimed by renaming it, which only one can do:
  #
  #   process_registry_<key>@<host>-<pid>-<start>+<pid>-<start>.dets
  #
  # A claim of a dead BEAM can be claimed again.

  alias Snakepit.Logger
  alias Snakepit.Pool.ProcessRegistry.{Owner, Salvage}

  @version 1
  @header :snakepit_process_registry

  @type t :: %{table: term, path: Path.t()}
  @type entry :: {String.t(), map}

  # ---- our own ------------------------------------------------------------

  @doc "Opens this BEAM's file, making it where there is none."
  @spec open(Path.t(), String.t(), Owner.t()) :: {:ok, t} | {:error, String.t()}
  def open(dir, key, owner) do
    path = Path.join(dir, "process_registry_#{key}@#{owner.host}-#{identity(owner)}.dets")

    with :ok <- make_dir(dir),
         {:ok, disk} <- open_or_new(path),
         :ok <- insert(disk, {@header, %{version: @version, owner: Owner.to_text(owner)}}),
         :ok <- flush(disk) do
      {:ok, disk}
    else
      {:error, why} -> {:error, "#{path}: #{reason(why)}"}
    end
  end

  @spec put(t, String.t(), map) :: :ok | {:error, term}
  def put(disk, id, entry), do: insert(disk, {id, entry})

  @spec delete(t, String.t()) :: :ok | {:error, term}
  def delete(disk, id), do: safely(fn -> :dets.delete(disk.table, id) end)

  @doc """
  Hands what was written to the kernel, where it survives our death. That of
  the machine ends the workers as well, so that nothing waits for the device,
  as :dets.sync/1 does: asking for the size writes out what the table keeps.
  """
  @spec flush(t) :: :ok | {:error, term}
  def flush(disk) do
    case safely(fn -> :dets.info(disk.table, :size) end) do
      size when is_integer(size) -> :ok
      {:error, why} -> {:error, why}
      other -> {:error, other}
    end
  end

  @spec entries(t) :: [entry]
  def entries(disk) do
    case read(disk) do
      {:ok, entries} -> entries
      {:error, _} -> []
    end
  end

  @spec size(t) :: non_neg_integer
  def size(disk) do
    case safely(fn -> :dets.info(disk.table, :size) end) do
      size when is_integer(size) and size > 0 -> size - 1
      _ -> 0
    end
  end

  @spec close(t) :: :ok
  def close(disk) do
    _ = safely(fn -> :dets.close(disk.table) end)
    :ok
  end

  @doc "Closes it and deletes the file."
  @spec remove(t) :: :ok
  def remove(disk) do
    :ok = close(disk)
    _ = File.rm(disk.path)
    :ok
  end

  # ---- those of the dead --------------------------------------------------

  @doc "Claims the files of this instance whose BEAM is dead."
  @spec claim(Path.t(), String.t(), Owner.t()) :: [Path.t()]
  def claim(dir, key, this) do
    set_aside_garbage(Path.join(dir, "process_registry_#{key}.dets"))

    case File.ls(dir) do
      {:ok, names} -> Enum.flat_map(names, &claim_one(dir, &1, key, this))
      {:error, _} -> []
    end
  end

  @doc "Reads a claimed file. What cannot be read is set aside."
  @spec read_claimed(Path.t()) :: {:ok, [entry]} | :error
  def read_claimed(path) do
    case read_file(path) do
      {:ok, entries} ->
        {:ok, entries}

      {:error, {:version, version}} ->
        Logger.warning(
          :startup,
          "#{path} is of a newer version (#{inspect(version)}): left alone"
        )

        :error

      {:error, why} ->
        set_aside(path, why)
        :error
    end
  end

  defp read_file(path) do
    case open_file(path) do
      {:ok, disk} ->
        result = read(disk)
        :ok = close(disk)
        result

      {:error, why} ->
        case Salvage.read(path) do
          {:ok, [_ | _] = objects} -> entries_of(objects)
          _ -> {:error, why}
        end
    end
  end

  defp claim_one(dir, name, key, this) do
    pattern = ~r/^process_registry_(.+)@([0-9a-f]{12})-(\d+)-(\d+)(?:\+(\d+)-(\d+))?\.dets$/
    path = Path.join(dir, name)

    case Regex.run(pattern, name) do
      [_, ^key, host, pid, start | claim] ->
        cond do
          host != this.host -> old_foreign(path)
          not Owner.dead?(process(host, pid, start), this) -> []
          true -> rename(path, claim, host, this)
        end

      _ ->
        []
    end
  end

  defp rename(path, [], _host, this) do
    claimed = String.replace_suffix(path, ".dets", "+#{identity(this)}.dets")
    if File.rename(path, claimed) == :ok, do: [claimed], else: []
  end

  defp rename(path, [pid, start], host, this) do
    claimer = process(host, pid, start)

    cond do
      "#{pid}-#{start}" == identity(this) -> [path]
      Owner.dead?(claimer, this) -> rename_claim(path, this)
      true -> []
    end
  end

  defp rename_claim(path, this) do
    claimed = String.replace(path, ~r/\+[^+]*\.dets$/, "+#{identity(this)}.dets")
    if File.rename(path, claimed) == :ok, do: [claimed], else: []
  end

  # Of another boot, or of a machine or container that shares the directory:
  # nothing of it can be judged here. Those that live touch their file.
  @foreign_seconds 7 * 24 * 3600

  defp old_foreign(path) do
    with {:ok, %{mtime: mtime}} <- File.stat(path, time: :posix),
         true <- System.os_time(:second) - mtime > @foreign_seconds do
      _ = File.rm(path)
    end

    []
  end

  defp process(host, pid, start),
    do: %{host: host, pid: String.to_integer(pid), start: String.to_integer(start)}

  defp identity(owner), do: "#{owner.pid}-#{owner.start}"

  # ---- DETS ---------------------------------------------------------------

  defp open_or_new(path) do
    case open_file(path) do
      {:ok, disk} ->
        {:ok, disk}

      # This VM's, whose table went down without closing it.
      {:error, {:needs_repair, _}} ->
        with {:ok, entries} <- Salvage.read(path),
             :ok <- File.rm(path),
             {:ok, disk} <- open_file(path),
             :ok <- insert(disk, entries),
             do: {:ok, disk},
             else: (_ -> open_anew(path, "it was not closed"))

      {:error, why} ->
        # Ours, as its name says, but not what we wrote.
        if File.regular?(path) and not permission?(why),
          do: open_anew(path, why),
          else: {:error, why}
    end
  end

  defp open_anew(path, why) do
    set_aside(path, why)
    open_file(path)
  end

  # DETS would say on the console that it repairs a file which a SIGKILL left
  # open. That it is marked as complete soon after each write makes it rare.
  defp open_file(path) do
    table = {__MODULE__, path}
    options = [file: String.to_charlist(path), auto_save: 100, repair: false]

    case safely(fn -> :dets.open_file(table, options) end) do
      {:ok, table} -> {:ok, %{table: table, path: path}}
      {:error, why} -> {:error, why}
    end
  end

  defp insert(disk, objects), do: safely(fn -> :dets.insert(disk.table, objects) end)

  defp read(disk) do
    collect = fn object, all -> [object | all] end

    case safely(fn -> {:read, :dets.foldl(collect, [], disk.table)} end) do
      {:read, objects} when is_list(objects) -> entries_of(objects)
      {:read, {:error, why}} -> {:error, why}
      {:error, why} -> {:error, why}
    end
  end

  defp entries_of(objects) do
    case List.keyfind(objects, @header, 0) do
      {_, %{version: version}} when version != @version -> {:error, {:version, version}}
      _ -> {:ok, for({id, entry} <- objects, is_binary(id), is_map(entry), do: {id, entry})}
    end
  end

  # The table's server may have given up on the file.
  defp safely(fun) do
    fun.()
  rescue
    error -> {:error, Exception.message(error)}
  catch
    kind, why -> {:error, {kind, why}}
  end

  # ---- the file -----------------------------------------------------------

  defp make_dir(dir) do
    case File.mkdir_p(dir) do
      :ok -> :ok
      {:error, why} -> {:error, why}
    end
  end

  # What somebody else wrote under the plain name of the instance is only
  # looked at.
  defp set_aside_garbage(path) do
    if File.regular?(path) and :dets.is_dets_file(String.to_charlist(path)) == false,
      do: set_aside(path, :not_a_dets_file)
  end

  defp set_aside(path, why) do
    aside = "#{path}.corrupt.#{System.os_time(:second)}"

    what =
      case File.rename(path, aside) do
        :ok -> "set aside as #{aside}"
        {:error, error} -> "it cannot be set aside either (#{:file.format_error(error)})"
      end

    Logger.warning(:startup, "#{path} cannot be read (#{reason(why)}): #{what}")
  end

  defp permission?({:file_error, _path, why}), do: why in [:eacces, :eperm, :erofs, :enospc]
  defp permission?(_why), do: false

  defp reason({:file_error, _path, why}), do: reason(why)
  defp reason({kind, _path}) when is_atom(kind), do: inspect(kind)
  defp reason(why) when is_binary(why), do: why
  defp reason(why) when is_atom(why), do: "#{:file.format_error(why)} (#{why})"
  defp reason(why), do: inspect(why)
end
