defmodule Snakepit.GRPC.Peer do
  @moduledoc false
  # Whether a connection comes from a worker's process, or a descendant of one,
  # by what the kernel says. That is how a client in a worker that was generated
  # from the proto, and knows nothing of a token, gets in.
  #
  # /proc/net/tcp has the socket at the other end of a connection of this host,
  # and its inode; the descriptors of the spawner's descendants say whether it is
  # theirs. What cannot be found out is no.

  alias Snakepit.OSProcess
  alias Snakepit.OSProcess.Listing
  alias Snakepit.Spawner

  # A row's state for a connection that both ends hold.
  @established "01"
  # Sockets that were looked at before, at most.
  @remembered 1_000
  @deepest 1_000

  @doc "For `worker?/3`, owned by the caller."
  @spec new_memory() :: :ets.table()
  def new_memory, do: :ets.new(__MODULE__, [:set, :public])

  @doc "`peer` as gRPC names it, say `ipv4:127.0.0.1:40000`; `address` is where it connected to."
  @spec worker?(String.t(), {:inet.ip_address(), :inet.port_number()}, :ets.table()) :: boolean
  def worker?(peer, address, memory) do
    with true <- Listing.linux?(),
         {:ok, from} <- parse(peer),
         true <- loopback?(elem(from, 0)),
         {:ok, inode} <- inode(from, address) do
      remembered?(memory, {from, inode}) or found?(memory, {from, inode})
    else
      _ -> false
    end
  end

  # An inode is not used for another socket while its connection is there.
  defp remembered?(memory, key), do: :ets.member(memory, key)

  defp found?(memory, {_from, inode} = key) do
    with true <- of_worker?(inode) do
      if :ets.info(memory, :size) >= @remembered, do: :ets.delete_all_objects(memory)
      :ets.insert(memory, {key})
    end
  end

  # ---- the connection -----------------------------------------------------

  @doc false
  @spec parse(String.t()) :: {:ok, {:inet.ip_address(), :inet.port_number()}} | :error
  def parse("ipv4:" <> rest), do: address(rest)
  def parse("ipv6:" <> rest), do: rest |> URI.decode() |> address()
  def parse(_other), do: :error

  defp address(text) do
    with [_, host, port] <- Regex.run(~r/^\[?([^\]]+)\]?:(\d+)$/, text),
         {:ok, ip} <- :inet.parse_address(String.to_charlist(host)),
         {port, ""} when port in 1..65_535 <- Integer.parse(port) do
      {:ok, {unmapped(ip), port}}
    else
      _ -> :error
    end
  end

  # An IPv4 client of a socket for both.
  defp unmapped({0, 0, 0, 0, 0, 0xFFFF, a, b}),
    do: {div(a, 256), rem(a, 256), div(b, 256), rem(b, 256)}

  defp unmapped(ip), do: ip

  @doc false
  @spec loopback?(:inet.ip_address()) :: boolean
  def loopback?({127, _, _, _}), do: true
  def loopback?({0, 0, 0, 0, 0, 0, 0, 1}), do: true
  def loopback?(_ip), do: false

  # The client's row has its address as the local one and ours as the remote one.
  defp inode(from, to) do
    pairs = for form <- [&short/1, &long/1], do: {form.(from), form.(to)}

    Enum.find_value(["/proc/net/tcp", "/proc/net/tcp6"], :error, fn path ->
      with {:ok, text} <- File.read(path), do: find_row(text, pairs), else: (_ -> nil)
    end)
  end

  defp find_row(text, pairs) do
    text
    |> String.split("\n")
    |> Enum.find_value(fn line ->
      with [_, local, remote, @established, _, _, _, _uid, _, inode | _] <- String.split(line),
           true <- {local, remote} in pairs,
           true <- inode != "0" do
        {:ok, inode}
      else
        _ -> nil
      end
    end)
  end

  # As the kernel writes them: words of 32 bits in its own byte order.
  defp short({ip, port}) when tuple_size(ip) == 4, do: words(ip, 8) <> port(port)
  defp short(_address), do: nil

  defp long({{a, b, c, d}, port}),
    do: long({{0, 0, 0, 0, 0, 0xFFFF, a * 256 + b, c * 256 + d}, port})

  defp long({ip, port}), do: words(ip, 16) <> port(port)

  defp words(ip, bits) do
    bytes = for part <- Tuple.to_list(ip), into: <<>>, do: <<part::size(bits)>>
    for <<word::32-big <- bytes>>, into: "", do: Base.encode16(<<word::32-native>>)
  end

  defp port(port), do: ":" <> Base.encode16(<<port::16>>)

  # ---- its process --------------------------------------------------------

  defp of_worker?(inode) do
    with pid when is_pid(pid) <- Process.whereis(Spawner) do
      link = "socket:[#{inode}]"
      parents = Map.new(Listing.pids(), &{&1, parent(&1)})
      root = Spawner.info().os_pid
      Enum.any?(Map.keys(parents), &(below?(&1, root, parents) and holds?(&1, link)))
    else
      _ -> false
    end
  catch
    # It ends.
    :exit, _ -> false
  end

  defp parent(pid) do
    with [_state, parent | _] <- OSProcess.fields("/proc/#{pid}/stat"),
         do: String.to_integer(parent)
  end

  # They were not all read at one moment, so there may be a circle.
  defp below?(pid, root, parents, deep \\ @deepest) do
    case parents do
      %{^pid => ^root} ->
        true

      %{^pid => parent} when is_integer(parent) and parent > 1 and deep > 0 ->
        below?(parent, root, parents, deep - 1)

      _ ->
        false
    end
  end

  # Those of another user's process are not shown.
  defp holds?(pid, link) do
    dir = "/proc/#{pid}/fd"

    with {:ok, names} <- File.ls(dir) do
      Enum.any?(names, &(File.read_link(Path.join(dir, &1)) == {:ok, link}))
    else
      _ -> false
    end
  end
end
