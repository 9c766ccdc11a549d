defmodule Mix.Tasks.Snakepit.Setup do
  @shortdoc "Makes the Python environment that workers run in"

  @moduledoc """
  Makes `.venv` in the current project and installs what Python workers need:
  grpcio, protobuf and numpy.

      mix snakepit.setup

  The interpreter is what `config :snakepit, :python_executable` or the
  environment variable `SNAKEPIT_PYTHON` names, else that of an environment
  nearby (`.venv`, `../.venv`, `$VIRTUAL_ENV`), else the first `python3` or
  `python` on the PATH that is 3.9 or newer. With [uv](https://docs.astral.sh/uv)
  on the PATH the environment is made by uv, else by `python -m venv` and pip.

  Run again, it does nothing unless the requirements or the chosen interpreter
  changed.

  ## Options

    * `--dev` - also install what Snakepit's own tests and checks need
    * `--force` - install again though nothing changed

  """

  use Mix.Task

  @impl true
  @spec run([String.t()]) :: :ok
  def run(args) do
    {opts, rest, invalid} = OptionParser.parse(args, strict: [dev: :boolean, force: :boolean])

    if rest != [] or invalid != [] do
      Mix.raise("mix snakepit.setup takes --dev and --force, and nothing else")
    end

    Mix.Task.run("app.config")

    names = ["requirements.txt"] ++ if opts[:dev], do: ["requirements-dev.txt"], else: []
    folder = Application.app_dir(:snakepit, "priv/python")

    result =
      Snakepit.PythonEnv.setup(
        requirements: Enum.map(names, &Path.join(folder, &1)),
        force: opts[:force] || false,
        say: fn line -> Mix.shell().info(line) end
      )

    case result do
      # For what runs after this in the same `mix do`.
      {:ok, env} -> System.put_env("SNAKEPIT_PYTHON", env.python)
      {:error, message} -> Mix.raise(message)
    end
  end
end
