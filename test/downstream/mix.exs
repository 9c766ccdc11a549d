defmodule Downstream.MixProject do
  use Mix.Project

  # A library on top of snakepit as they are written for the published 0.13: it
  # uses what its documents name, in their forms, and nothing else. Run by
  # test/elixir/downstream_test.exs; `mix test` here builds its own snakepit.
  def project do
    [
      app: :downstream,
      version: "0.1.0",
      elixir: "~> 1.14",
      start_permanent: false,
      deps: [{:snakepit, [path: "../.."] ++ built()}]
    ]
  end

  def application, do: [extra_applications: [:logger]]

  # With the build of the tests around it.
  defp built do
    if System.get_env("DOWNSTREAM_SNAKEPIT_IS_BUILT"), do: [compile: false], else: []
  end
end
