defmodule Snakepit.PythonRuntime.Identity do
  @moduledoc false
  # Which interpreter a path is. It is found out once for each file: it takes a
  # process and a hash of some megabytes.

  alias Snakepit.PythonVersion

  @type t :: %{
          path: String.t(),
          version: String.t(),
          platform: String.t(),
          hash: String.t()
        }

  @spec of(String.t()) :: {:ok, t} | {:error, term}
  def of(path) do
    with {:ok, stat} <- File.stat(path) do
      key = {__MODULE__, path, stat.inode, stat.size, stat.mtime}

      case :persistent_term.get(key, nil) do
        nil -> once(key, path)
        identity -> {:ok, identity}
      end
    end
  end

  # Many workers may start at once. Terms are only added, which is cheap.
  defp once(key, path) do
    :global.trans(
      {key, self()},
      fn ->
        with nil <- :persistent_term.get(key, nil),
             {:ok, identity} <- find(path) do
          :persistent_term.put(key, identity)
          {:ok, identity}
        else
          {:error, reason} -> {:error, reason}
          identity -> {:ok, identity}
        end
      end,
      [node()]
    )
  end

  defp find(path) do
    with {:ok, {major, minor, patch}} <- PythonVersion.detect(path),
         {:ok, binary} <- File.read(path) do
      {:ok,
       %{
         path: path,
         version: "#{major}.#{minor}.#{patch}",
         platform: platform(),
         hash: :sha256 |> :crypto.hash(binary) |> Base.encode16(case: :lower)
       }}
    end
  end

  # "x86_64-pc-linux-gnu" is linux-x86_64.
  defp platform do
    [machine | _] = :erlang.system_info(:system_architecture) |> to_string() |> String.split("-")
    {_family, name} = :os.type()
    "#{name}-#{machine}"
  end

  @doc "As variables for a worker; none of what is not known."
  @spec environment(String.t()) :: %{String.t() => String.t()}
  def environment(path) do
    case of(path) do
      {:ok, identity} ->
        %{
          "SNAKEPIT_PYTHON_RUNTIME_HASH" => identity.hash,
          "SNAKEPIT_PYTHON_RUNTIME_VERSION" => identity.version,
          "SNAKEPIT_PYTHON_RUNTIME_PLATFORM" => identity.platform
        }

      {:error, _} ->
        %{}
    end
  end
end
