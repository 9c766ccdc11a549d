defmodule Bench.Options do
  @moduledoc false

  @switches [quick: :boolean, only: :keep, transport: :string, out: :string]
  @transports [:auto, :local, :grpc]

  @type t :: %{
          quick: boolean,
          only: [atom],
          transport: :auto | :local | :grpc,
          out: Path.t()
        }

  @spec parse([String.t()], [atom]) :: {:ok, t} | {:error, String.t()}
  def parse(argv, groups) do
    {given, rest, invalid} = OptionParser.parse(argv, strict: @switches)

    with :ok <- nothing_else(rest, invalid),
         {:ok, only} <- all_of(Keyword.get_values(given, :only), groups),
         {:ok, transport} <- one_of("--transport", given[:transport] || "auto", @transports) do
      out = Path.expand(given[:out] || "_build/bench")
      only = if only == [], do: groups, else: only
      {:ok, %{quick: given[:quick] || false, only: only, transport: transport, out: out}}
    end
  end

  defp nothing_else([], []), do: :ok
  defp nothing_else([word | _], []), do: {:error, "#{word}: not an option. #{known()}"}

  defp nothing_else(_rest, [{name, nil} | _]),
    do: {:error, "#{name}: unknown or empty. #{known()}"}

  defp nothing_else(_rest, [{name, value} | _]), do: {:error, "#{name} #{value}: #{known()}"}

  defp known, do: "The options are --quick, --only NAME, --transport NAME and --out DIR"

  defp all_of(names, known) do
    Enum.reduce_while(names, {:ok, []}, fn name, {:ok, list} ->
      case one_of("--only", name, known) do
        {:ok, atom} -> {:cont, {:ok, list ++ [atom]}}
        error -> {:halt, error}
      end
    end)
  end

  defp one_of(option, name, known) do
    case Enum.find(known, &(Atom.to_string(&1) == name)) do
      nil -> {:error, "#{option} #{name}: it is one of #{Enum.join(known, ", ")}"}
      atom -> {:ok, atom}
    end
  end
end
