defmodule Snakepit.Bridge.ToolContext do
  @moduledoc """
  What an Elixir tool knows of the call from Python (or another client) that it
  runs for: `current/0` in the tool's own process.

      ToolRegistry.register_elixir_tool("whoami", fn _params ->
        context = Snakepit.Bridge.ToolContext.current()
        %{session: context.session_id, worker: context.worker_id}
      end, %{})

  Calls of `Snakepit.execute/3` and its siblings by the tool's process inherit
  from it: they end with its deadline, they carry its correlation id, and they
  count as one level deeper.
  """

  alias Snakepit.{Defaults, Native}

  @key :"$snakepit_tool_context"
  # A path has as many pools as there are in it, and no worker invents more.
  @max_path_bytes 4096

  @typedoc """
  `deadline` is on the scale of `System.monotonic_time(:millisecond)`; `path`
  says how many calls of which pool wait for this one.
  """
  @type t :: %__MODULE__{
          tool: String.t(),
          session_id: String.t(),
          correlation_id: String.t(),
          worker_id: String.t() | nil,
          deadline: integer | :infinity,
          path: %{String.t() => pos_integer}
        }

  @enforce_keys [:tool, :session_id, :correlation_id]
  defstruct [
    :tool,
    :session_id,
    :correlation_id,
    worker_id: nil,
    deadline: :infinity,
    path: %{}
  ]

  @doc "The context of the tool that this process runs, or nil."
  @spec current() :: t | nil
  def current, do: Process.get(@key)

  @doc "Milliseconds until the caller gives up; `:infinity` when it does not, or outside of a tool."
  @spec time_left() :: timeout
  def time_left do
    case current() do
      nil -> :infinity
      %{deadline: :infinity} -> :infinity
      %{deadline: deadline} -> max(deadline - System.monotonic_time(:millisecond), 0)
    end
  end

  @doc false
  @spec put(t) :: :ok
  def put(context) do
    _ = Process.put(@key, context)
    :ok
  end

  # ---- calls that a tool makes --------------------------------------------

  @doc false
  # The options of a call, with what it inherits; or why it cannot be made.
  @spec inherit(keyword, Snakepit.Pool.Call.target()) :: {:ok, keyword} | {:error, term}
  def inherit(opts, target) do
    case current() do
      nil -> {:ok, opts}
      context -> inherit(opts, target, context)
    end
  end

  defp inherit(opts, target, context) do
    pool = Atom.to_string(target.name)
    depth = context.path |> Map.values() |> Enum.sum()
    waiting = Map.get(context.path, pool, 0)
    max = Defaults.max_call_depth()

    cond do
      depth >= max -> {:error, {:call_depth_exceeded, max}}
      waiting > 0 and stuck?(target, waiting) -> {:error, :nested_call_deadlock}
      true -> {:ok, opts |> inherited(context) |> Keyword.put(:call_path, path(context, pool))}
    end
  end

  # All that runs there are calls that wait for this one.
  defp stuck?(target, waiting) do
    %{running: running, slots: slots, slots_available: free} = Native.pool_stats(target.handle)
    slots > 0 and free == 0 and running <= waiting
  end

  defp inherited(opts, context) do
    opts
    |> Keyword.put(:inherited_correlation_id, context.correlation_id)
    |> deadline(context.deadline)
  end

  defp deadline(opts, :infinity), do: opts

  defp deadline(opts, deadline) do
    # An atom is more than any number.
    Keyword.update(opts, :deadline_ms, deadline, &min(&1 || :infinity, deadline))
  end

  # ---- how deep it is -----------------------------------------------------

  defp path(context, pool) do
    context.path
    |> Map.update(pool, 1, &(&1 + 1))
    |> Enum.map_join(",", fn {name, count} -> "#{name}:#{count}" end)
  end

  @doc false
  # Of the metadata that the call of the tool came with. Without a path it is
  # the first call back from a worker of `pool`.
  @spec parse_path(String.t() | nil, String.t() | nil) :: %{String.t() => pos_integer}
  def parse_path(text, _pool) when is_binary(text) and byte_size(text) <= @max_path_bytes do
    for part <- String.split(text, ",", trim: true),
        {name, count} <- [entry(String.split(part, ":"))],
        into: %{},
        do: {name, count}
  end

  def parse_path(_none, nil), do: %{}
  def parse_path(_none, pool), do: %{pool => 1}

  # Pools' names may have colons.
  defp entry(parts) do
    {name, [count]} = Enum.split(parts, -1)

    case Integer.parse(count) do
      {count, ""} when count > 0 and count < 1_000_000 -> {Enum.join(name, ":"), count}
      _ -> nil
    end
  end
end
