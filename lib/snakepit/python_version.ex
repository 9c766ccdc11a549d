defmodule Snakepit.PythonVersion do
  @moduledoc """
  Which Python there is, and which worker profile suits it.

      iex> Snakepit.PythonVersion.recommend_profile({3, 13, 0})
      :thread
      iex> Snakepit.PythonVersion.recommend_profile({3, 11, 0})
      :process
  """

  alias Snakepit.PythonRuntime

  @type version :: {major :: non_neg_integer, minor :: non_neg_integer, patch :: non_neg_integer}

  @least {3, 9, 0}
  @patience_ms 10_000

  @doc "The version of the interpreter that workers would run on."
  @spec detect() :: {:ok, version} | {:error, term}
  def detect do
    with {:ok, path, _meta} <- PythonRuntime.resolve_executable(), do: detect(path)
  end

  @doc """
  The version of the interpreter at `path`, or of that name on the `PATH`. It is
  asked: `path --version`.
  """
  @spec detect(String.t()) :: {:ok, version} | {:error, term}
  def detect(path) when is_binary(path) do
    case System.find_executable(path) do
      nil -> {:error, {:python_not_found, path}}
      program -> ask(program)
    end
  end

  # The port ends with the task that opened it.
  defp ask(program) do
    task =
      Task.async(fn ->
        try do
          System.cmd(program, ["--version"], stderr_to_stdout: true)
        rescue
          error -> {:raised, error}
        end
      end)

    case Task.yield(task, @patience_ms) || Task.shutdown(task, :brutal_kill) do
      {:ok, {:raised, error}} -> {:error, {:not_runnable, program, Exception.message(error)}}
      {:ok, {output, 0}} -> parse(output)
      {:ok, {output, status}} -> {:error, {:exit_status, status, output}}
      _ -> {:error, {:no_answer, program}}
    end
  end

  defp parse(output) do
    case Regex.run(~r/\bPython (\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?/, output) do
      [_ | numbers] ->
        [major, minor | patch] = Enum.map(numbers, &String.to_integer/1)
        {:ok, {major, minor, List.first(patch) || 0}}

      nil ->
        {:error, {:no_python_version, output}}
    end
  end

  @doc """
  Whether a build of this version can run without the global interpreter lock
  (3.13 and later). That does not say that the one that is installed does: what a
  worker runs on its metadata tell, as `:free_threaded`
  (`Snakepit.Pool.Registry.get_worker_metadata/1`).
  """
  @spec supports_free_threading?(version) :: boolean
  def supports_free_threading?({major, minor, _patch}), do: {major, minor} >= {3, 13}

  @doc "The profile for the interpreter that is there; `:process` when there is none."
  @spec recommend_profile() :: :process | :thread
  def recommend_profile do
    case detect() do
      {:ok, version} -> recommend_profile(version)
      {:error, _} -> :process
    end
  end

  @doc "`:thread` for versions that support free threading, else `:process`."
  @spec recommend_profile(version) :: :process | :thread
  def recommend_profile(version),
    do: if(supports_free_threading?(version), do: :thread, else: :process)

  @doc "Whether there is a Python that is recent enough (3.9)."
  @spec validate() :: :ok | {:error, term}
  def validate do
    with {:ok, version} <- detect() do
      if version >= @least,
        do: :ok,
        else: {:error, {:unsupported_python_version, version, @least}}
    end
  end
end
