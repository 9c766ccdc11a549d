defmodule Snakepit.Bridge.Session do
  @moduledoc """
  A session: what belongs together across calls. Plain data; the living ones
  are in `Snakepit.Bridge.SessionStore`.

      iex> session = Snakepit.Bridge.Session.new("s1", ttl: 60, metadata: %{user: "ann"})
      iex> Snakepit.Bridge.Session.get_metadata(session, :user)
      "ann"
      iex> Snakepit.Bridge.Session.expired?(session, session.last_accessed + 59)
      false
      iex> Snakepit.Bridge.Session.expired?(session, session.last_accessed + 60)
      true

  Times are monotonic and in seconds; add `System.time_offset(:second)` for the
  time of day.
  """

  @default_ttl 3600

  defstruct [
    :id,
    :created_at,
    :last_accessed,
    :last_worker_id,
    programs: %{},
    metadata: %{},
    ttl: @default_ttl,
    stats: %{program_count: 0}
  ]

  @type t :: %__MODULE__{
          id: String.t(),
          programs: %{optional(term) => term},
          metadata: %{optional(term) => term},
          created_at: integer,
          last_accessed: integer,
          last_worker_id: String.t() | nil,
          ttl: non_neg_integer,
          stats: %{optional(atom) => term}
        }

  @doc "A session that begins now. Options: `:ttl` (seconds), `:metadata`, `:programs`."
  @spec new(String.t(), keyword | map) :: t
  def new(id, opts \\ []) do
    opts = Map.new(opts)
    now = System.monotonic_time(:second)

    count(%__MODULE__{
      id: id,
      created_at: now,
      last_accessed: now,
      programs: Map.get(opts, :programs, %{}),
      metadata: Map.get(opts, :metadata, %{}),
      ttl: Map.get(opts, :ttl, @default_ttl)
    })
  end

  @doc "Whether the fields are what they should be, or the first that is not: `:invalid_id` and so on."
  @spec validate(term) :: :ok | {:error, atom}
  def validate(%__MODULE__{} = session) do
    checks = [
      id: is_binary(session.id) and session.id != "" and String.valid?(session.id),
      programs: is_map(session.programs),
      metadata: is_map(session.metadata),
      created_at: is_integer(session.created_at),
      last_accessed: is_integer(session.last_accessed),
      ttl: is_integer(session.ttl) and session.ttl >= 0
    ]

    case Enum.find(checks, fn {_field, valid?} -> not valid? end) do
      nil -> :ok
      {field, _} -> {:error, invalid(field)}
    end
  end

  def validate(_other), do: {:error, :not_a_session}

  defp invalid(:id), do: :invalid_id
  defp invalid(:programs), do: :invalid_programs
  defp invalid(:metadata), do: :invalid_metadata
  defp invalid(:created_at), do: :invalid_created_at
  defp invalid(:last_accessed), do: :invalid_last_accessed
  defp invalid(:ttl), do: :invalid_ttl

  @doc "Its life begins anew."
  @spec touch(t) :: t
  def touch(%__MODULE__{} = session),
    do: %{session | last_accessed: System.monotonic_time(:second)}

  @doc "Whether it has not been used for its ttl; `current_time` is monotonic, in seconds."
  @spec expired?(t, integer | nil) :: boolean
  def expired?(%__MODULE__{} = session, current_time \\ nil) do
    now = current_time || System.monotonic_time(:second)
    now - session.last_accessed >= session.ttl
  end

  @spec put_metadata(t, term, term) :: t
  def put_metadata(%__MODULE__{} = session, key, value),
    do: %{session | metadata: Map.put(session.metadata, key, value)}

  @spec get_metadata(t, term, term) :: term
  def get_metadata(%__MODULE__{} = session, key, default \\ nil),
    do: Map.get(session.metadata, key, default)

  @spec put_program(t, term, term) :: t
  def put_program(%__MODULE__{} = session, program_id, data),
    do: count(%{session | programs: Map.put(session.programs, program_id, data)})

  @spec get_program(t, term) :: {:ok, term} | {:error, :not_found}
  def get_program(%__MODULE__{} = session, program_id) do
    with :error <- Map.fetch(session.programs, program_id), do: {:error, :not_found}
  end

  @spec delete_program(t, term) :: t
  def delete_program(%__MODULE__{} = session, program_id),
    do: count(%{session | programs: Map.delete(session.programs, program_id)})

  @doc "Its statistics with its age and idle time in seconds."
  @spec get_stats(t) :: map
  def get_stats(%__MODULE__{} = session) do
    now = System.monotonic_time(:second)

    Map.merge(session.stats, %{
      session_age: now - session.created_at,
      time_since_access: now - session.last_accessed,
      metadata_count: map_size(session.metadata)
    })
  end

  defp count(session) when is_map(session.programs),
    do: %{session | stats: Map.put(session.stats, :program_count, map_size(session.programs))}

  defp count(session), do: session
end
