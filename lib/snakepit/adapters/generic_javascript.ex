defmodule Snakepit.Adapters.GenericJavaScript do
  @moduledoc """
  JavaScript workers: `priv/javascript/worker.js`, run by Node.js 16 or later,
  without any package.

      config :snakepit,
        adapter_module: Snakepit.Adapters.GenericJavaScript,
        adapter_args: ["--adapter", "/path/to/tools.js"]

      // tools.js
      module.exports = {double: ({value}) => 2 * value}

  Tools that are always there: `ping`, `echo`, `compute` (`operation` of `add`,
  `subtract`, `multiply`, `divide`, `power`, `sqrt`, with `a` and `b`), `info`
  and `random` (`type` `"uniform"` or `"integer"`, `min`, `max`).

  A tool returns a value that JSON can hold, a promise of one, or a `Buffer`.
  Numbers are JavaScript's: integers beyond 2^53 lose digits. Workers of this
  kind answer calls over gRPC, from whoever shows the token of their BEAM (see the
  guide on gRPC), and do not stream.
  """

  @behaviour Snakepit.Adapter

  @impl true
  def executable_path, do: System.find_executable("node")

  @impl true
  def script_path, do: Application.app_dir(:snakepit, "priv/javascript/worker.js")

  @impl true
  def script_args, do: []

  @impl true
  def supported_commands, do: ~w(ping echo compute info random)

  @doc "Always 0: the worker chooses, and says which it took."
  @impl true
  def get_port, do: 0
end
