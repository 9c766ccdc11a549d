defmodule Snakepit.GRPC.Reflection do
  @moduledoc false
  # grpc.reflection.v1 and v1alpha, whose messages are the same: what this server
  # serves, for tools that have no proto files.

  alias Snakepit.GRPC.{BridgeServer, Descriptors, Incoming, Served}
  alias Snakepit.Native

  @services ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]

  @invalid_argument 3
  @not_found 5

  @spec services() :: [String.t()]
  def services, do: @services

  @spec methods() :: [String.t()]
  def methods, do: for(service <- @services, do: "/#{service}/ServerReflectionInfo")

  @doc "A stream of questions, each with one answer."
  @spec handle(String.t(), binary, Incoming.t()) :: :done | BridgeServer.failure()
  def handle(method, bytes, call) do
    with {:ok, request} <- Native.message_decode(:ServerReflectionRequest, bytes),
         {:ok, reply} <- reply(request),
         :ok <- Incoming.send(call, reply),
         {:ok, bytes} <- Incoming.read(call) do
      handle(method, bytes, call)
    else
      nil -> :done
      {:error, :cancelled} -> :done
      {:error, {:decode, text}} -> {:error, @invalid_argument, text}
    end
  end

  defp reply(request) do
    reply = Map.merge(answer(request), %{valid_host: request.host, original_request: request})
    Native.message_encode(:ServerReflectionResponse, reply)
  end

  defp answer(%{list_services: _}) do
    names = for name <- Enum.sort(Served.services()), do: %{name: name}
    %{list_services_response: %{service: names}}
  end

  defp answer(%{file_by_filename: name}) do
    index = Descriptors.get()
    if is_map_key(index.files, name), do: files(index, name), else: unknown("file", name)
  end

  defp answer(%{file_containing_symbol: symbol}) do
    index = Descriptors.get()

    case index.symbols do
      %{^symbol => name} -> files(index, name)
      _ -> unknown("symbol", symbol)
    end
  end

  # Nothing here is of proto2.
  defp answer(%{file_containing_extension: %{containing_type: type}}),
    do: unknown("extension of", type)

  defp answer(%{all_extension_numbers_of_type: type}) do
    if MapSet.member?(Descriptors.get().messages, type),
      do: %{all_extension_numbers_response: %{base_type_name: type, extension_number: []}},
      else: unknown("message", type)
  end

  defp answer(_request),
    do: error(@invalid_argument, "the request asks for nothing that is known")

  defp files(index, name) do
    %{file_descriptor_response: %{file_descriptor_proto: Descriptors.with_imports(index, name)}}
  end

  defp unknown(what, name), do: error(@not_found, "there is no #{what} #{inspect(name)}")

  defp error(status, text), do: %{error_response: %{error_code: status, error_message: text}}
end
