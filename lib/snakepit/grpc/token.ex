defmodule Snakepit.GRPC.Token do
  @moduledoc false
  # What a client shows to be let in: a secret of this run, or one that the
  # listener was given.

  @run {__MODULE__, :run}
  @variable "SNAKEPIT_GRPC_TOKEN"
  @header "authorization"
  @scheme "Bearer "

  @doc "The variable in a worker's environment."
  @spec variable() :: String.t()
  def variable, do: @variable

  @doc "This run's; made when it is first asked for."
  @spec run() :: String.t()
  def run do
    case :persistent_term.get(@run, nil) do
      nil -> :global.trans({@run, self()}, &make/0, [node()])
      token -> token
    end
  end

  defp make do
    with nil <- :persistent_term.get(@run, nil) do
      token = Base.url_encode64(:crypto.strong_rand_bytes(32), padding: false)
      :persistent_term.put(@run, token)
      token
    end
  end

  @doc "The value of the header for a token."
  @spec header(String.t()) :: String.t()
  def header(token), do: @scheme <> token

  @doc "Whether the metadata show it. The time it takes says nothing of the token."
  @spec shown?([{String.t(), binary}], String.t()) :: boolean
  def shown?(headers, token) do
    case List.keyfind(headers, @header, 0) do
      {_, @scheme <> shown} -> :crypto.hash_equals(digest(shown), digest(token))
      _ -> false
    end
  end

  # Of one size, whatever is shown.
  defp digest(text), do: :crypto.hash(:sha256, text)
end
