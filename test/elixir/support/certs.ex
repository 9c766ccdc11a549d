defmodule Snakepit.Test.Certs do
  @moduledoc false
  # Certificates of authorities of a test's own, as PEM files in its folder.

  @local [dNSName: ~c"localhost", iPAddress: <<127, 0, 0, 1>>]
  # OTP makes EC certificates of a form that not every library takes.
  @rsa {:rsa, 2048, 65_537}

  @doc "Paths: `:ca`, `:cert` and `:key` of a server, `:client_cert` and `:client_key`."
  def make(dir, name, server_names \\ @local, kind \\ @rsa) do
    names = {:Extension, {2, 5, 29, 17}, false, server_names}
    key = :public_key.generate_key(kind)
    root = [key: key, digest: :sha256]
    peer = &[key: key, digest: :sha256, extensions: &1]

    # Each side is told to trust what the other one's certificate comes from.
    %{server_config: server, client_config: client} =
      :public_key.pkix_test_data(%{
        server_chain: %{root: root, intermediates: [], peer: peer.([names])},
        client_chain: %{root: root, intermediates: [], peer: peer.([])}
      })

    File.mkdir_p!(dir)
    write = &write(Path.join(dir, "#{name}-#{&1}.pem"), &2)

    %{
      ca: write.("ca", for(der <- client[:cacerts], do: {:Certificate, der})),
      client_ca: write.("client-ca", for(der <- server[:cacerts], do: {:Certificate, der})),
      cert: write.("cert", [{:Certificate, server[:cert]}]),
      key: write.("key", [server[:key]]),
      client_cert: write.("client-cert", [{:Certificate, client[:cert]}]),
      client_key: write.("client-key", [client[:key]])
    }
  end

  defp write(path, entries) do
    pem = for {type, der} <- entries, do: {type, der, :not_encrypted}
    File.write!(path, :public_key.pem_encode(pem))
    path
  end
end
