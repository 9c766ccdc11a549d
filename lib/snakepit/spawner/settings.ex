defmodule Snakepit.Spawner.Settings do
  @moduledoc false
  # What a pool's workers may use, and who and where they are: from the keys of
  # a pool to the settings of c_src/spawner/settings.h.

  alias Snakepit.Defaults

  @type problem :: {:invalid_pool_option, atom, term, String.t()}

  @typedoc """
  Settings in the spawner's words, and the share of the machine that depends on
  how many others of the pool run.
  """
  @type t :: %{settings: [String.t()], placement: nil | {:spread | :compact, term, pos_integer}}

  @resources %{
    address_space: "as",
    core_size: "core",
    cpu_seconds: "cpu",
    data_size: "data",
    file_size: "fsize",
    locked_memory: "memlock",
    open_files: "nofile",
    stack_size: "stack"
  }
  @limits [:memory, :processes, :cpus | Map.keys(@resources)] |> Enum.sort()
  # Between the signal that says so and the one that ends it.
  @cpu_grace_s 5
  @containments [:auto, :pid_namespace, :cgroup, :none]
  @most_cpus 1024
  @size ~r/\A\d{1,15}[KMGT]?\z/

  @doc "What is wrong with these keys of a pool; nil when nothing is."
  @spec problem(map) :: problem | nil
  def problem(config) do
    Enum.find_value(
      [
        {:limits, &limits_problem/1},
        {:nice, &range(&1, -20..19, "an integer from -20 (first) to 19 (last)")},
        {:umask, &range(&1, 0..0o777, "an integer from 0 to 0o777")},
        {:user, &name/1},
        {:group, &name/1},
        {:cpu_affinity, &affinity_problem/1},
        {:containment, &one_of(&1, @containments)},
        {:cgroup, &directory/1}
      ],
      fn {key, check} ->
        value = Map.get(config, key)
        text = if value != nil, do: check.(value)
        text && {:invalid_pool_option, key, value, "#{key} is #{text}"}
      end
    ) || transport_problem(config)
  end

  @doc "Of a pool without problems."
  @spec build(map) :: t
  def build(config) do
    limits = Enum.flat_map(limits(config), &limit/1)

    plain =
      for {key, name, text} <- [
            {:nice, "nice", &to_string/1},
            {:umask, "umask", &Integer.to_string(&1, 8)},
            {:user, "user", &to_string/1},
            {:group, "group", &to_string/1},
            {:containment, "containment", &to_string/1},
            {:cgroup, "cgroup", &to_string/1}
          ],
          value = Map.get(config, key),
          do: name <> "=" <> text.(value)

    {affinity, placement} = affinity(config)
    %{settings: limits ++ plain ++ affinity, placement: placement}
  end

  @doc "Whether the workers run as somebody else."
  @spec other_user?(map) :: boolean
  def other_user?(config), do: Map.get(config, :user) != nil

  @doc "What no process can be given from outside once it runs, of what the pool sets."
  @spec of_start_only(map) :: [String.t()]
  def of_start_only(config) do
    sets? = &(Map.get(config, &1) != nil)

    for {text, true} <- [
          {"user", sets?.(:user)},
          {"group", sets?.(:group)},
          {"umask", sets?.(:umask)},
          {"containment: :pid_namespace", Map.get(config, :containment) == :pid_namespace},
          # Threads get stacks of the size that was in force at the start.
          {"limits: [stack_size: ...]", limit_of(config, :stack_size) != nil}
        ],
        do: text
  end

  @doc "The value that a pool sets for a limit, for texts."
  @spec limit_of(map, atom) :: term
  def limit_of(config, name), do: config |> limits() |> Enum.find_value(&of(&1, name))

  defp of({name, value}, name), do: value
  defp of(_, _), do: nil

  # ---- limits -------------------------------------------------------------

  defp limits(config), do: config |> Map.get(:limits) |> List.wrap() |> to_list()

  # A map is wrapped, a keyword list is not.
  defp to_list([%{} = map]), do: Map.to_list(map)
  defp to_list(list), do: list

  defp limit({:memory, value}), do: ["memory=#{value}"]
  defp limit({:processes, value}), do: ["processes=#{value}"]
  defp limit({:cpus, value}), do: ["cpus=" <> decimal(value)]

  defp limit({:cpu_seconds, seconds}) when is_integer(seconds),
    do: limit({:cpu_seconds, {seconds, seconds + @cpu_grace_s}})

  defp limit({name, {soft, hard}}),
    do: ["limit=#{@resources[name]}=#{word(soft)}:#{word(hard)}"]

  defp limit({name, value}), do: limit({name, {value, value}})

  defp word(value) when value in [:infinity, :unlimited], do: "unlimited"
  defp word(value), do: to_string(value)

  defp decimal(value) when is_integer(value), do: Integer.to_string(value)
  defp decimal(value), do: :erlang.float_to_binary(value, decimals: 3)

  defp limits_problem(limits) when is_map(limits) and not is_struct(limits),
    do: limits |> Map.to_list() |> limits_problem()

  defp limits_problem(limits) do
    if is_list(limits) and Enum.all?(limits, &match?({_, _}, &1)),
      do: Enum.find_value(limits, &limit_problem/1),
      else: "a keyword list or map with keys of #{inspect(@limits)}"
  end

  defp limit_problem({:memory, value}) do
    if size?(value) and bytes(value) >= 1_048_576,
      do: nil,
      else: "wrong: memory is a number of bytes, at least 1 MiB, as 2_000_000_000 or \"2G\""
  end

  defp limit_problem({:processes, n}) when is_integer(n) and n in 1..4_194_304, do: nil

  defp limit_problem({:processes, _}),
    do: "wrong: processes is the number of processes and threads of a worker, from 1"

  defp limit_problem({:cpus, n}) when is_number(n) and n >= 0.01 and n <= 4096, do: nil

  defp limit_problem({:cpus, _}),
    do: "wrong: cpus is how many processors' time a worker may take, from 0.01"

  defp limit_problem({name, value}) when is_map_key(@resources, name) do
    {soft, hard} = if is_tuple(value) and tuple_size(value) == 2, do: value, else: {value, value}

    cond do
      not (size?(soft) or endless?(soft)) or not (size?(hard) or endless?(hard)) ->
        "wrong: #{name} is a number, a text like \"2G\", :infinity, or {soft, hard} of these"

      bytes(soft) > bytes(hard) ->
        "wrong: the soft limit of #{name} is above its hard limit"

      true ->
        nil
    end
  end

  defp limit_problem({name, _value}),
    do: "wrong: there is no limit #{inspect(name)}; there are #{inspect(@limits)}"

  defp endless?(value), do: value in [:infinity, :unlimited]

  defp size?(value) when is_integer(value), do: value >= 0 and value < 1_000_000_000_000_000_000
  defp size?(value) when is_binary(value), do: value =~ @size
  defp size?(_), do: false

  defp bytes(value) when is_integer(value), do: value
  # More than any number, as atoms are.
  defp bytes(value) when value in [:infinity, :unlimited], do: :infinity

  defp bytes(text) do
    {number, unit} = Integer.parse(text)
    shift = %{"" => 0, "K" => 10, "M" => 20, "G" => 30, "T" => 40}
    Bitwise.bsl(number, Map.fetch!(shift, unit))
  end

  # ---- processors ---------------------------------------------------------

  defp affinity(config) do
    case Map.get(config, :cpu_affinity) do
      how when how in [nil, :none] ->
        {[], nil}

      :spread ->
        {[], {:spread, config[:name], config[:pool_size] || 1}}

      :compact ->
        {[], {:compact, config[:name], width(config)}}

      cpus ->
        {["affinity=" <> Enum.map_join(cpus, ",", &cpu_text/1)], nil}
    end
  end

  # As many processors as it has threads for calls.
  defp width(config) do
    if config[:worker_profile] in [:thread, "thread"],
      do: config[:threads_per_worker] || Defaults.config_default_threads_per_worker(),
      else: 1
  end

  defp cpu_text(%Range{first: first, last: last}), do: "#{first}-#{last}"
  defp cpu_text(cpu), do: to_string(cpu)

  defp affinity_problem(how) when how in [:none, :spread, :compact], do: nil

  defp affinity_problem([_ | _] = cpus) do
    if Enum.all?(cpus, &cpu?/1), do: nil, else: affinity_text()
  end

  defp affinity_problem(_), do: affinity_text()

  defp cpu?(%Range{first: first, last: last, step: 1}),
    do: first in 0..(@most_cpus - 1) and last in first..(@most_cpus - 1)//1

  defp cpu?(cpu), do: is_integer(cpu) and cpu in 0..(@most_cpus - 1)

  defp affinity_text, do: ":none, :spread, :compact, or a list of processors like [0, 1, 4..7]"

  # ---- small parts --------------------------------------------------------

  defp range(value, range, text),
    do: if(is_integer(value) and value in range, do: nil, else: text)

  defp name(value) when is_integer(value) and value >= 0 and value < 0xFFFFFFFF, do: nil

  defp name(value) when is_binary(value) do
    if value =~ ~r/\A[^\s\0:=]{1,63}\z/, do: nil, else: "a name of at most 63 characters"
  end

  defp name(_), do: "a name or a number"

  defp one_of(value, words),
    do: if(value in words, do: nil, else: "one of #{inspect(words)}")

  defp directory(value) do
    if is_binary(value) and String.starts_with?(value, "/") and byte_size(value) < 900 and
         not String.contains?(value, "\0"),
       do: nil,
       else: "the absolute path of a cgroup v2 directory"
  end

  defp transport_problem(config) do
    if other_user?(config) and config[:transport] == :local do
      {:invalid_pool_option, :user, config.user,
       "user is set, which does not go with transport: :local, whose socket is open to the BEAM's own user " <>
         "only; use :grpc or :auto"}
    end
  end
end
