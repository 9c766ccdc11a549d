defmodule Snakepit.ZeroCopy.Wire do
  @moduledoc false
  # Handles and tensors as the map that stands for them on the wire.

  alias Snakepit.{Encoder, ZeroCopyRef}
  alias Snakepit.ZeroCopy.{DType, Handles, Source}

  @doc "`:error` for a handle that is closed, or holds nothing that could be handed over."
  @spec handle(ZeroCopyRef.t()) :: {:ok, map} | :error
  def handle(%ZeroCopyRef{} = ref) do
    case Handles.fetch(ref) do
      {:ok, data, token} when data != nil or ref.device not in [nil, :cpu] ->
        {:ok,
         map(
           kind: Atom.to_string(ref.kind),
           device: ref.device && Atom.to_string(ref.device),
           dtype: dtype(ref.dtype),
           shape: sizes(ref.shape),
           owner: ref.owner && Atom.to_string(ref.owner),
           ref: token,
           copy: ref.copy,
           bytes: ref.bytes,
           metadata: ref.metadata && Encoder.plain(ref.metadata),
           data: data && {:binary, data}
         )}

      _ ->
        :error
    end
  end

  @doc "A tensor that is an argument by itself: Python gets an array. `:error`: it is none."
  @spec tensor(struct) :: {:ok, map} | :error
  def tensor(struct) do
    case Source.tensor(struct, []) do
      {:ok, %{data: data} = tensor} when data != nil ->
        {:ok,
         map(
           kind: "dlpack",
           device: "cpu",
           dtype: tensor.dtype,
           shape: sizes(tensor.shape),
           owner: "elixir",
           bytes: byte_size(data),
           metadata: %{"as" => "numpy"},
           data: {:binary, data}
         )}

      _ ->
        :error
    end
  end

  defp map(fields) do
    for {key, value} <- fields,
        value != nil,
        into: %{"__snakepit_zero_copy__" => true},
        do: {Atom.to_string(key), value}
  end

  # In Python's words, where it is known here.
  defp dtype(nil), do: nil

  defp dtype(given) do
    case DType.name(given) do
      {:ok, name} -> name
      :error when is_atom(given) -> Atom.to_string(given)
      :error when is_binary(given) -> given
      :error -> nil
    end
  end

  defp sizes(shape) when is_tuple(shape), do: Tuple.to_list(shape)
  defp sizes(shape), do: shape
end
