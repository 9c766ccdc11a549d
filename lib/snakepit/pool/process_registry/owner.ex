defmodule Snakepit.Pool.ProcessRegistry.Owner do
  @moduledoc false
  # Which BEAM a worker belongs to. A number and a start time mean one process
  # only within one boot and one PID namespace, hence the host; the scope is
  # the instance and its data directory. Each worker has all of this in its
  # environment, so that it can be told from others even without a file.

  alias Snakepit.{Config, OSProcess}

  @enforce_keys [:host, :scope, :pid, :start, :run_id]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          host: String.t(),
          scope: String.t(),
          pid: pos_integer,
          start: non_neg_integer,
          run_id: String.t()
        }

  @doc "The environment variable that carries it."
  @spec variable() :: String.t()
  def variable, do: "SNAKEPIT_OWNER"

  @doc "This BEAM. The start is 0 where the kernel does not say."
  @spec this(String.t(), Path.t(), String.t()) :: t
  def this(run_id, dir, key) do
    pid = String.to_integer(System.pid())
    start = OSProcess.start_time(pid) || 0

    %__MODULE__{
      host: host(),
      scope: digest([dir, 0, key]),
      pid: pid,
      start: start,
      run_id: run_id
    }
  end

  @doc "The name of the instance's files."
  @spec key() :: String.t()
  def key do
    parts = [Config.instance_name_identifier(), Config.instance_token_identifier()]

    case Enum.reject(parts, &is_nil/1) do
      [] -> String.replace(Atom.to_string(node()), ~r/[^a-zA-Z0-9_-]/, "_")
      parts -> Enum.join(parts, "__")
    end
  end

  @spec to_text(t) :: String.t()
  def to_text(owner),
    do: "1:#{owner.host}:#{owner.scope}:#{owner.pid}:#{owner.start}:#{owner.run_id}"

  @spec from_text(String.t() | nil) :: t | nil
  def from_text(nil), do: nil

  def from_text(text) do
    pattern = ~r/^1:([0-9a-f]{12}):([0-9a-f]{12}):([0-9]{1,10}):([0-9]{1,19}):([0-9a-z]{7})$/

    with [_, host, scope, pid, start, run_id] <- Regex.run(pattern, text) do
      number = &String.to_integer/1

      %__MODULE__{
        host: host,
        scope: scope,
        pid: number.(pid),
        start: number.(start),
        run_id: run_id
      }
    end
  end

  @doc "Known to be dead: it was here, and is not any more."
  @spec dead?(t | map, t) :: boolean
  def dead?(%{host: host, pid: pid, start: start}, this) do
    host == this.host and start > 0 and this.start > 0 and not OSProcess.alive?(pid, start)
  end

  defp host do
    digest([
      read("/proc/sys/kernel/random/boot_id"),
      0,
      case File.read_link("/proc/self/ns/pid") do
        {:ok, name} -> name
        _ -> ""
      end
    ])
  end

  defp read(path) do
    case File.read(path) do
      {:ok, text} -> text
      _ -> ""
    end
  end

  defp digest(parts),
    do: :sha256 |> :crypto.hash(parts) |> binary_part(0, 6) |> Base.encode16(case: :lower)
end
