defmodule Snakepit.GRPCWorker.Local do
  @moduledoc false
  # The local carrier as one worker sees it: what its OS process is told, so that
  # it may come by shared memory instead of gRPC.

  alias Snakepit.Native
  alias Snakepit.Pool.ApplicationCleanup

  @type offer :: %{link: reference, ref: reference}

  @doc """
  Expects a worker and adds to `spec` what tells it so; nil for one that is to
  come by gRPC. The calling process gets `{:snakepit_local, ref, event}`.
  """
  @spec offer(:auto | :local | :grpc, spec) :: {:ok, offer | nil, spec} | {:error, String.t()}
        when spec: map
  def offer(:grpc, spec), do: {:ok, nil, spec}

  def offer(transport, spec) do
    path = Path.join(run_dir(), "local")

    case Native.local_start(path) do
      :ok ->
        {offer, env} = expect(path)
        {:ok, offer, %{spec | env: spec.env ++ env}}

      {:error, why} when transport == :local ->
        {:error, unavailable(why)}

      {:error, why} ->
        Snakepit.Logger.warning(:worker, fn -> unavailable(why) <> "; gRPC is used instead" end)
        {:ok, nil, spec}
    end
  end

  defp expect(path) do
    token = :crypto.strong_rand_bytes(32)
    ref = make_ref()

    {%{link: Native.local_expect(token, ref), ref: ref},
     [
       {"SNAKEPIT_LOCAL_SOCKET", path},
       {"SNAKEPIT_LOCAL_TOKEN", Base.encode16(token, case: :lower)}
     ]}
  end

  @doc "The worker is no longer expected, or its connection ends."
  @spec withdraw(offer | nil) :: :ok
  def withdraw(nil), do: :ok
  def withdraw(offer), do: Native.local_close(offer.link)

  defp unavailable(why), do: "the local transport cannot listen in #{run_dir()}: #{why}"
  defp run_dir, do: ApplicationCleanup.run_dir()

  @doc "Why a worker that had to come by shared memory came by gRPC."
  @spec refused(String.t()) :: String.t()
  def refused(program) do
    "transport: :local is asked for, but #{program} cannot load the native part of " <>
      "snakepit_bridge (_snakepit_native): it is built with the package when the headers of " <>
      "Python are there (Debian: python3-dev), and once more for each free-threaded Python " <>
      "(SNAKEPIT_PYTHON=#{program} mix compile). With transport: :auto gRPC is used instead"
  end

  @doc "Why a worker cannot join workers that take the other encoding."
  @spec mixed(offer | nil) :: String.t()
  def mixed(nil) do
    "it came by gRPC and takes arguments as JSON only, the pool's other workers take CBOR, and " <>
      "a pool's workers all get the same. #{remedy()}"
  end

  def mixed(_offer) do
    "it came by shared memory, where arguments are CBOR, the pool's other workers by gRPC take " <>
      "JSON only, and a pool's workers all get the same. #{remedy()}"
  end

  defp remedy,
    do: "Ask for one way with transport: :grpc or :local, or restart the application"
end
