defmodule Snakepit.Spawner.Spec do
  @moduledoc false
  # Whether what is to be started makes sense: the type Snakepit.Spawner.spec.

  import Bitwise, only: [<<<: 2]

  @default_grace 6_000
  @max_path 4096
  @max_args 65_536
  @max_env 16_384
  @max_settings 256
  @max_u32 (1 <<< 32) - 2

  @doc "The specification with all its keys, as bytes."
  @spec check(term) :: {:ok, map} | {:error, message :: String.t()}
  def check(spec) when is_map(spec) do
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

  def check(spec), do: {:error, "expected a map with :program, got #{inspect(spec)}"}

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
end
