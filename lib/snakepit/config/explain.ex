defmodule Snakepit.Config.Explain do
  @moduledoc false
  # What is wrong with the configuration, in words: the key, its value, what is
  # allowed, and what was probably meant.

  alias Snakepit.Config.Values

  @profiles [:process, :thread]
  @strategies [:pool, :profile, :hybrid]
  @affinities [:hint, :strict_queue, :strict_fail_fast]
  @listener_modes [:internal, :external, :external_pool]

  # As far as Jaro's distance goes, a slip of the hand is above this.
  @close 0.8

  @doc "The key that was probably meant, or nil."
  @spec nearest(atom | String.t(), [atom]) :: atom | nil
  def nearest(word, known) do
    word = to_string(word)

    scored = for atom <- known, do: {atom, String.jaro_distance(word, Atom.to_string(atom))}
    {best, distance} = Enum.max_by([{nil, 0.0} | scored], &elem(&1, 1))
    if distance >= @close, do: best
  end

  @doc "`Did you mean ...?` with a blank before it, or nothing."
  @spec hint(term, [atom]) :: String.t()
  def hint(word, known) when is_binary(word) or (is_atom(word) and word != nil) do
    case nearest(word, known) do
      nil -> ""
      best -> " Did you mean #{inspect(best)}?"
    end
  end

  def hint(_word, _known), do: ""

  @doc "All of it for one key of `config :snakepit`."
  @spec text(atom, term) :: String.t()
  def text(key, reason), do: "config :snakepit, #{inspect(key)} is wrong: #{reason(reason)}"

  defp reason({:invalid_pool_config, reason}), do: reason(reason)

  defp reason({:validation_failed, reasons}),
    do: "of #{length(reasons)} pools: " <> Enum.map_join(reasons, "; ", &reason/1)

  defp reason({:duplicate_pool_names, names}), do: "two pools have the name #{list(names)}."

  defp reason({:missing_required_fields, fields}),
    do: "a pool needs #{list(fields)}, as in %{name: :default}."

  defp reason({:invalid_pools_config, value}),
    do: "a pool is a map or a keyword list, and :pools a list of them, not #{show(value)}."

  defp reason({:invalid_affinity, value}), do: one_of(:affinity, value, @affinities)

  defp reason({:invalid_capacity_strategy, value}),
    do: one_of(:capacity_strategy, value, @strategies)

  defp reason({:invalid_timeout_profile, value, profiles}),
    do: one_of(:timeout_profile, value, profiles)

  defp reason({:invalid_profile, value, text}),
    do: "#{text}, not #{show(value)}.#{hint(value, @profiles)}"

  defp reason({:invalid_grpc_listener_config, :missing_host}),
    do: ":host is the name or address that workers are told, as a text."

  defp reason({:invalid_grpc_listener_config, :missing_port}),
    do: ":port is a number from 1 to 65535."

  defp reason({:invalid_grpc_listener_config, :missing_base_port}),
    do: ":base_port is a number from 1 to 65535."

  defp reason({:invalid_grpc_listener_config, :invalid_pool_size}),
    do: ":pool_size is the positive number of ports from :base_port on, up to 65535."

  defp reason({:invalid_grpc_listener_config, :invalid_mode}),
    do: ":mode is one of #{list(@listener_modes)}."

  defp reason({:invalid_grpc_listener_config, :invalid_auth}),
    do: ":auth is :token or :none."

  defp reason({:invalid_grpc_listener_config, :invalid_token}),
    do: ":token is a text of 16 to 2048 visible characters of ASCII."

  defp reason({:invalid_grpc_listener_config, {:tls, text}}), do: ":tls: #{text}."

  defp reason({:invalid_grpc_listener_config, value}),
    do: "it is a map or a keyword list, not #{show(value)}."

  defp reason({kind, key, value, text})
       when kind in [:invalid_pool_option, :invalid_heartbeat, :invalid_crash_barrier],
       do: "#{text}, but #{inspect(key)} is #{show(value)}."

  defp reason({:invalid_value, key, value, text}),
    do: "#{text}, not #{show(value)}.#{hint(value, Values.allowed(key))}"

  defp reason({kind, value, text}) when is_atom(kind) and is_binary(text),
    do: "#{text}, not #{show(value)}."

  defp reason(other), do: show(other)

  defp one_of(key, value, allowed),
    do: "#{inspect(key)} is one of #{list(allowed)}, not #{show(value)}.#{hint(value, allowed)}"

  defp list(values), do: Enum.map_join(values, ", ", &inspect/1)
  defp show(value), do: inspect(value, limit: 10, printable_limit: 200)
end
