defmodule Snakepit.GRPC.TLS do
  @moduledoc false
  # The option `tls:` of listeners and clients: read, and judged before gRPC sees
  # it, which says nothing of what is wrong.

  @keys %{
    server: [:cert, :key, :ca, :verify],
    client: [:cert, :key, :ca, :verify, :server_name]
  }

  @private [:RSAPrivateKey, :ECPrivateKey, :PrivateKeyInfo, :DSAPrivateKey]

  @type side :: :server | :client
  @type texts :: %{optional(:ca | :cert | :key | :name | :verify) => String.t() | boolean}

  @doc "What `Snakepit.Native` wants, or what is wrong."
  @spec load(term, side) :: {:ok, texts} | {:error, String.t()}
  def load(options, side) do
    with {:ok, options} <- options(options, side),
         {:ok, files} <- read(options),
         :ok <- pair(files, side),
         {:ok, more} <- verify(options[:verify], files, side),
         {:ok, name} <- name(options[:server_name]),
         do: {:ok, files |> Map.merge(more) |> Map.merge(name)}
  end

  defp options(true, :client), do: {:ok, []}

  defp options(options, side) when is_map(options) or is_list(options) do
    known = @keys[side]

    cond do
      is_list(options) and not Keyword.keyword?(options) ->
        {:error, "it is a keyword list or a map"}

      wrong = Enum.find(options, fn {key, _} -> key not in known end) ->
        {:error,
         "#{inspect(elem(wrong, 0))} is none of #{Enum.map_join(known, ", ", &inspect/1)}"}

      true ->
        {:ok, Map.new(options)}
    end
  end

  defp options(_other, _side), do: {:error, "it is a keyword list or a map"}

  # ---- files --------------------------------------------------------------

  defp read(options) do
    Enum.reduce_while([:ca, :cert, :key], {:ok, %{}}, fn key, {:ok, files} ->
      case options[key] && pem(key, options[key]) do
        nil -> {:cont, {:ok, files}}
        {:ok, text} -> {:cont, {:ok, Map.put(files, key, text)}}
        {:error, text} -> {:halt, {:error, "#{inspect(key)} #{text}"}}
      end
    end)
  end

  defp pem(key, "-----BEGIN" <> _ = text), do: check(key, text, "the text")

  defp pem(key, path) when is_binary(path) do
    case File.read(path) do
      {:ok, text} -> check(key, text, path)
      {:error, why} -> {:error, "cannot be read: #{path}: #{:file.format_error(why)}"}
    end
  end

  defp pem(_key, _other), do: {:error, "is the path of a PEM file, or its text"}

  defp check(key, text, where) do
    entries = entries(text)

    cond do
      key == :key and Enum.any?(entries, &encrypted?/1) ->
        {:error, "is encrypted: #{where}; gRPC takes keys without a passphrase"}

      Enum.any?(entries, &fits?(key, &1)) ->
        {:ok, text}

      true ->
        {:error, "has no #{what(key)}: #{where}"}
    end
  end

  # It raises on what only begins like PEM.
  defp entries(text) do
    :public_key.pem_decode(text)
  rescue
    _ -> []
  end

  defp encrypted?({type, _der, cipher}),
    do: type in [:EncryptedPrivateKeyInfo | @private] and cipher != :not_encrypted

  defp fits?(:key, {type, _der, :not_encrypted}), do: type in @private
  defp fits?(_certificate, {type, _der, _cipher}), do: type == :Certificate

  defp what(:key), do: "private key"
  defp what(_certificate), do: "certificate"

  # ---- together -----------------------------------------------------------

  defp pair(%{cert: cert, key: key}, _side) do
    if same_key?(cert, key), do: :ok, else: {:error, ":key is not the key of :cert"}
  end

  defp pair(files, _side) when is_map_key(files, :cert), do: {:error, ":cert wants its :key"}
  defp pair(files, _side) when is_map_key(files, :key), do: {:error, ":key wants its :cert"}
  defp pair(_files, :server), do: {:error, "a listener wants :cert and :key"}
  defp pair(_files, :client), do: :ok

  # Whether the certificate verifies what the key signs.
  defp same_key?(cert, key) do
    {:Certificate, der, _} = cert |> :public_key.pem_decode() |> Enum.find(&fits?(:cert, &1))
    key = key |> :public_key.pem_decode() |> Enum.find(&fits?(:key, &1))
    key = :public_key.pem_entry_decode(key)
    public = public_key(der)
    digest = digest(key)
    signature = :public_key.sign("snakepit", digest, key)
    :public_key.verify("snakepit", digest, signature, public)
  rescue
    # Of a kind that is not known here: gRPC judges.
    _ -> true
  end

  defp digest({:ECPrivateKey, _, _, {:namedCurve, curve}, _, _})
       when curve in [{1, 3, 101, 112}, {1, 3, 101, 113}],
       do: :none

  defp digest(_key), do: :sha256

  defp public_key(der) do
    info = der |> :public_key.pkix_decode_cert(:otp) |> elem(1) |> elem(7)
    {:OTPSubjectPublicKeyInfo, {:PublicKeyAlgorithm, _algorithm, parameters}, key} = info
    if elem(key, 0) == :ECPoint, do: {key, parameters}, else: key
  end

  defp verify(nil, files, :server), do: {:ok, %{verify: is_map_key(files, :ca)}}
  defp verify(:verify_none, _files, :server), do: {:ok, %{verify: false}}

  defp verify(:verify_peer, %{ca: _}, :server), do: {:ok, %{verify: true}}

  defp verify(:verify_peer, _files, :server),
    do: {:error, ":verify_peer wants a :ca that the clients' certificates come from"}

  defp verify(verify, _files, :client) when verify in [nil, :verify_peer], do: {:ok, %{}}

  defp verify(:verify_none, _files, :client),
    do: {:error, "a client always verifies; give the server's certificate as :ca"}

  defp verify(_other, _files, _side),
    do: {:error, ":verify is :verify_peer or :verify_none"}

  defp name(nil), do: {:ok, %{}}
  defp name(name) when is_binary(name) and name != "", do: {:ok, %{name: name}}
  defp name(_other), do: {:error, ":server_name is a text"}
end
