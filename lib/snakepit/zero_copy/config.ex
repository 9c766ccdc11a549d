defmodule Snakepit.ZeroCopy.Config do
  @moduledoc false
  # `zero_copy: [...]` of the configuration and of pools.

  alias Snakepit.Config.Explain

  @mib 1024 * 1024
  @gib 1024 * @mib

  # {key, value without configuration, kind}
  @keys [
    {:enabled, false, :boolean},
    {:dlpack, true, :boolean},
    {:arrow, true, :boolean},
    {:allow_fallback, true, :boolean},
    {:strict, false, :boolean},
    {:threshold, 65_536, :threshold},
    {:max_bytes, :share, :bytes},
    {:node_max_bytes, :share, :bytes},
    {:idle_bytes, 64 * @mib, :bytes},
    {:idle_ms, 5_000, :count},
    {:descriptors, :share, :count},
    {:device, Snakepit.ZeroCopy.Device.Nx, :module}
  ]
  @names Enum.map(@keys, &elem(&1, 0))
  @node_only [:node_max_bytes, :descriptors, :device]

  @type settings :: %{atom => term}

  @spec names() :: [atom]
  def names, do: @names

  @doc "The settings of the node, or of a pool with `own` ones."
  @spec settings(term) :: settings
  def settings(own \\ nil) do
    @keys
    |> Map.new(fn {key, value, _kind} -> {key, value} end)
    |> Map.merge(given(Application.get_env(:snakepit, :zero_copy)))
    |> Map.merge(given(own))
  end

  @doc "What was given as a map or keyword list with keys that are known; of another form nothing."
  @spec given(term) :: map
  def given(own) do
    if is_map(own) or Keyword.keyword?(own),
      do: for({key, value} <- own, value != nil, name = known(key), into: %{}, do: {name, value}),
      else: %{}
  end

  defp known(key), do: Enum.find(@names, &(&1 == key or Atom.to_string(&1) == key))

  @doc "A line for each key that means nothing; `where` says whose they are."
  @spec unknown(term, String.t()) :: [String.t()]
  def unknown(own, where) do
    pairs = if is_map(own) or Keyword.keyword?(own), do: own, else: []

    for {key, _value} <- pairs, known(key) == nil do
      "#{where}: zero_copy: #{inspect(key)} is not known and has no effect." <>
        Explain.hint(key, @names)
    end
  end

  @doc "The first value that none may have: `{key, value, text}`, or nil."
  @spec problem(term, :node | :pool) :: nil | {atom, term, String.t()}
  def problem(nil, _whose), do: nil

  def problem(own, whose) do
    if is_map(own) or Keyword.keyword?(own) do
      given = given(own)
      Enum.find_value(@keys, fn {key, _, kind} -> wrong(key, kind, given, whose) end)
    else
      {:zero_copy, own, form()}
    end
  end

  defp form, do: "zero_copy is a map or a keyword list, such as [threshold: 65_536]"

  defp wrong(key, kind, given, whose) do
    case given do
      %{^key => value} when whose == :pool and key in @node_only ->
        {key, value, "zero_copy: #{key} is of the whole node, in config :snakepit, zero_copy"}

      %{^key => value} ->
        if not valid?(kind, value), do: {key, value, "zero_copy: #{key} is #{allowed(kind)}"}

      _ ->
        nil
    end
  end

  defp valid?(:boolean, value), do: is_boolean(value)
  defp valid?(:threshold, value), do: value == :infinity or positive?(value)
  defp valid?(:bytes, value), do: is_integer(value) and value >= 0
  defp valid?(:count, value), do: is_integer(value) and value >= 0
  defp valid?(:module, value), do: is_atom(value) and Code.ensure_loaded?(value)

  defp positive?(value), do: is_integer(value) and value > 0

  defp allowed(:boolean), do: "true or false"
  defp allowed(:threshold), do: "a positive number of bytes, or :infinity for none"
  defp allowed(:bytes), do: "a number of bytes of at least 0"
  defp allowed(:count), do: "an integer of at least 0"
  defp allowed(:module), do: "a module with the functions of Snakepit.ZeroCopy.Device"

  # ---- what others are told -----------------------------------------------

  @doc "A threshold for the native part and for workers: 0 turns segments off."
  @spec threshold(settings) :: non_neg_integer
  def threshold(%{threshold: :infinity}), do: 0
  def threshold(%{threshold: bytes}), do: bytes

  @doc "What the native part is told of a pool."
  @spec of_pool(map) :: %{
          threshold: pos_integer | :infinity,
          max_bytes: non_neg_integer,
          idle_bytes: non_neg_integer,
          idle_ms: non_neg_integer
        }
  def of_pool(config) do
    settings = settings(config[:zero_copy])

    %{
      threshold: settings.threshold,
      max_bytes: or_share(settings.max_bytes, fn -> min(div(memory(), 4), 4 * @gib) end),
      idle_bytes: settings.idle_bytes,
      idle_ms: settings.idle_ms
    }
  end

  @doc "The node's limits, in bytes and in descriptors."
  @spec of_node() :: {non_neg_integer, non_neg_integer}
  def of_node do
    settings = settings()

    {or_share(settings.node_max_bytes, fn -> div(memory(), 2) end),
     or_share(settings.descriptors, fn -> div(open_files(), 8) end)}
  end

  defp or_share(:share, fun), do: fun.()
  defp or_share(value, _fun), do: value

  @doc "Variables of a worker's environment."
  @spec environment(map) :: %{String.t() => String.t()}
  def environment(config) do
    settings = settings(config[:zero_copy])

    Map.merge(
      %{"SNAKEPIT_ZERO_COPY_THRESHOLD" => Integer.to_string(threshold(settings))},
      if(settings.enabled, do: %{"SNAKEPIT_ZERO_COPY" => "1"}, else: %{})
    )
  end

  # Where the system does not say, as little as a small machine has.
  defp memory, do: 1024 * number("/proc/meminfo", ~r/^MemTotal:\s+(\d+) kB/m, 4 * @mib)
  defp open_files, do: number("/proc/self/limits", ~r/^Max open files\s+(\d+)/m, 1024)

  defp number(path, pattern, default) do
    with {:ok, text} <- File.read(path), [_, digits] <- Regex.run(pattern, text) do
      String.to_integer(digits)
    else
      _ -> default
    end
  end
end
