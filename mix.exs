Code.require_file("mix_native.exs", __DIR__)

defmodule Snakepit.MixProject do
  use Mix.Project

  @version "0.13.1"

  def project do
    [
      app: :snakepit,
      version: @version,
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      # The native part first: see mix_native.exs.
      compilers: [:snakepit_native] ++ Mix.compilers(),
      start_permanent: Mix.env() == :prod,
      test_paths: ["test/elixir"],
      deps: [],
      description: "Supervised pools of worker processes, Python first, called from the BEAM",
      package: package()
    ]
  end

  def application do
    [mod: {Snakepit.Application, []}, extra_applications: [:logger, :crypto, :public_key]]
  end

  defp elixirc_paths(:test), do: ["lib", "test/elixir/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp package do
    [
      licenses: ["MIT"],
      links: %{},
      files: ~w(lib priv proto c_src guides mix.exs mix_native.exs .formatter.exs
           README.md CHANGELOG.md LICENSE),
      exclude_patterns: ["__pycache__"]
    ]
  end
end
