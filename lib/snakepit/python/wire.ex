defmodule Snakepit.Python.Wire do
  @moduledoc false
  # What Snakepit.Python says to workers, and what they answer: see
  # priv/python/snakepit_bridge/remote.py.

  alias Snakepit.Bridge.SessionStore
  alias Snakepit.{Error, GRPCWorker, Native, Pool, PyRef}
  alias Snakepit.Pool.{Call, Targets}
  alias Snakepit.Python.Refs

  @prefix "snakepit.python."
  @end_sessions "snakepit.sessions.end"
  @secret {__MODULE__, :secret}
  @variable "SNAKEPIT_PYTHON_KEY"
  @marker "__snakepit_ref__"
  @returns [:auto, :ref, :value]
  @own_options [:return, :in, :batch, :store_as, :inputs, :binary_parameters]

  @doc "What a worker needs in its environment: nothing where the pool does not allow it."
  @spec environment(map) :: %{String.t() => String.t()}
  def environment(config) do
    if config[:python_calls] == true,
      do: %{@variable => key(config[:pool_name] || :direct)},
      else: %{}
  end

  @doc "What the keys are made of: once for each VM."
  @spec make_secret() :: :ok
  def make_secret do
    if secret() == "", do: :persistent_term.put(@secret, :crypto.strong_rand_bytes(32))
    :ok
  end

  defp secret, do: :persistent_term.get(@secret, "")

  # Of this VM and the pool. Others that can reach a worker's port do not know
  # it; who has it of a worker, which has the rights of its pool's user, can do
  # nothing with it in another pool.
  defp key(pool) do
    :hmac
    |> :crypto.mac(:sha256, secret(), :erlang.term_to_binary(pool))
    |> Base.url_encode64(padding: false)
  end

  defp random(bytes), do: Base.url_encode64(:crypto.strong_rand_bytes(bytes), padding: false)

  # ---- what is said -------------------------------------------------------

  @spec arguments(term, term) :: {:ok, {list, map}} | {:error, Error.t()}
  def arguments([], kwargs), do: arguments({:list, []}, kwargs)

  def arguments(args, kwargs) when is_list(args) do
    if Keyword.keyword?(args),
      do: arguments(Map.new(args), kwargs),
      else: arguments({:list, args}, kwargs)
  end

  def arguments({:list, args}, kwargs) do
    with {:ok, kwargs} <- names(kwargs, "keyword arguments"), do: {:ok, {args, kwargs}}
  end

  def arguments(args, kwargs) when is_map(args) and not is_struct(args) do
    with {:ok, first} <- names(args, "keyword arguments"),
         {:ok, more} <- names(kwargs, "keyword arguments"),
         do: {:ok, {[], Map.merge(first, more)}}
  end

  def arguments(args, _kwargs),
    do: invalid("arguments are a list, or keyword arguments a map, not #{show(args)}")

  @spec names(term, String.t()) :: {:ok, map} | {:error, Error.t()}
  def names(names, what) do
    pairs = if is_map(names) and not is_struct(names), do: Map.to_list(names), else: names
    pair? = &match?({name, _} when is_binary(name) or is_atom(name), &1)

    if is_list(pairs) and Enum.all?(pairs, pair?),
      do: {:ok, Map.new(pairs, fn {name, value} -> {to_string(name), value} end)},
      else: invalid("#{what} are a map or a keyword list, not #{show(names)}")
  end

  @spec target(term) :: {:ok, map} | {:error, Error.t()}
  def target(%PyRef{} = ref), do: {:ok, %{"target" => ref}}
  def target(name) when is_binary(name) and name != "", do: {:ok, %{"name" => name}}

  def target({%PyRef{} = ref, method})
      when is_binary(method) or (is_atom(method) and method != nil),
      do: {:ok, %{"target" => ref, "method" => to_string(method)}}

  def target(other) do
    invalid("what is called is a full name, a ref, or {ref, method}, not #{show(other)}")
  end

  @spec namespace(term) :: {:ok, map} | {:error, Error.t()}
  def namespace(nil), do: {:ok, %{}}
  def namespace(%PyRef{} = ref), do: {:ok, %{"in" => ref}}
  def namespace(other), do: invalid("in: is a ref, not #{show(other)}")

  @spec text(term, String.t()) :: :ok | {:error, Error.t()}
  def text(text, _what) when is_binary(text), do: :ok
  def text(other, what), do: invalid("#{what} is a text, not #{show(other)}")

  # ---- a call -------------------------------------------------------------

  @spec run(String.t(), map, keyword) :: {:ok, term} | {:error, Snakepit.error()}
  def run(op, payload, opts) do
    {payload, refs} = mark(payload)

    with {:ok, return} <- return(opts[:return] || :auto),
         {:ok, place} <- place(refs, opts) do
      session = opts[:session_id] || session(refs)
      tokens = for _ <- 1..(opts[:batch] || 1), do: random(16)
      # Whatever becomes of this process: an object whose ref never came here
      # is released as well.
      guard = Refs.guard(place, tokens)

      args =
        Map.merge(payload, %{
          "as" => tokens,
          "return" => return,
          "refs" => refs != [],
          "process" => place.process,
          "session" => session
        })

      known = %{tokens: tokens, session_known?: begin_session(session)}
      answer = send_to(place, @prefix <> op, args, options(opts, session))
      result = read(answer, Map.merge(place, known), session)
      :ok = Native.guard_disarm(guard)
      # Until now the call names objects of which the caller may have no term left.
      :ok = Refs.keep(refs)
      result
    end
  end

  defp options(opts, session) do
    opts = Keyword.drop(opts, @own_options)

    if session,
      do: opts |> Keyword.put(:session_id, session) |> Keyword.put_new(:affinity, :strict_queue),
      else: opts
  end

  # A session that is in use does not end; one that is new is there from now on,
  # unless there are too many.
  defp begin_session(session) do
    is_binary(session) and Process.whereis(SessionStore) != nil and
      match?({:ok, _}, SessionStore.create_session(session))
  end

  defp return(return) when return in @returns, do: {:ok, Atom.to_string(return)}

  defp return(other),
    do: invalid("return: is one of #{inspect(@returns)}, not #{show(other)}")

  @doc "With refs as their worker knows them; and the refs."
  @spec mark(term) :: {term, [PyRef.t()]}
  def mark(term), do: mark(term, [])

  defp mark(%PyRef{} = ref, refs), do: {%{@marker => ref.token}, [ref | refs]}
  defp mark(%_{} = struct, refs), do: {struct, refs}
  defp mark(list, refs) when is_list(list), do: mark_list(list, refs)

  defp mark(map, refs) when is_map(map) do
    {values, refs} = mark_list(Map.values(map), refs)
    {Map.new(Enum.zip(Map.keys(map), values)), refs}
  end

  defp mark(tuple, refs) when is_tuple(tuple) do
    {items, refs} = mark_list(Tuple.to_list(tuple), refs)
    {List.to_tuple(items), refs}
  end

  defp mark(other, refs), do: {other, refs}

  defp mark_list([head | tail], refs) do
    {head, refs} = mark(head, refs)
    {tail, refs} = mark_list(tail, refs)
    {[head | tail], refs}
  end

  defp mark_list(end_of_list, refs), do: {end_of_list, refs}

  # ---- where it runs ------------------------------------------------------

  defp place([], opts) do
    case Targets.find(opts[:pool_name] || opts[:pool]) do
      {:ok, %{python_calls: true} = target} ->
        {:ok, %{pool: target.name, target: target, worker_id: nil, process: nil}}

      {:ok, target} ->
        not_allowed(target.name)

      {:error, _reason, _name} ->
        # With the error that any call has.
        Pool.execute(@prefix <> "call", %{}, opts)
    end
  end

  defp place([ref | others], _opts) do
    if other = Enum.find(others, &(&1.process != ref.process or &1.worker_id != ref.worker_id)),
      do:
        invalid("#{show(ref)} and #{show(other)} are in two processes and cannot be in one call"),
      else: {:ok, %{pool: ref.pool, target: nil, worker_id: ref.worker_id, process: ref.process}}
  end

  defp session([]), do: nil
  defp session([ref | others]), do: ref.session_id || session(others)

  defp not_allowed(pool) do
    invalid(
      "pool #{inspect(pool)} does not allow calls of any Python: set python_calls: true in it, " <>
        "or in config :snakepit for all pools. Who may make them may do in its workers what " <>
        "their user may",
      %{reason: :python_calls_not_allowed, pool: pool}
    )
  end

  defp send_to(%{target: %{} = target}, command, args, opts),
    do: target |> execute(command, args, opts) |> Targets.counted(target)

  defp send_to(%{worker_id: worker_id} = place, command, args, opts) do
    case GRPCWorker.direct_target(worker_id) do
      {:ok, %{name: pool} = target} when place.pool in [nil, pool] ->
        case execute(target, command, args, opts) do
          # It has ended since.
          {:error, %Error{details: %{reason: :pool_closed}}} -> worker_gone(place)
          answer -> answer
        end

      {:error, :timeout} ->
        busy(worker_id)

      # Or another one has that name.
      _not_there ->
        worker_gone(place)
    end
  end

  # What an adapter's module does with commands is not for these.
  defp execute(target, command, args, opts) do
    args = Map.put(args, "key", key(target.name))
    Call.execute(%{target | hooks: []}, command, args, opts)
  end

  defp busy(worker_id) do
    message = "worker #{worker_id} could not be asked for: its process in Elixir does not answer"
    {:error, Error.worker_error(message, %{reason: :timeout, worker_id: worker_id})}
  end

  @doc "Objects, and all that there is of sessions, go."
  @spec release(String.t(), [String.t()], [String.t()], keyword) :: :ok | {:error, term}
  def release(worker_id, tokens, sessions, opts) do
    args = %{"tokens" => tokens, "sessions" => sessions}
    place = %{pool: nil, target: nil, worker_id: worker_id, process: nil}

    case send_to(place, @prefix <> "release", args, opts) do
      {:ok, _count} -> :ok
      {:error, %Error{details: %{reason: :worker_gone}}} -> :ok
      error -> error
    end
  end

  @doc "Adapters that the worker keeps for these sessions end: worker/requests.py."
  @spec end_sessions(String.t(), [String.t()]) :: {:ok, term} | {:error, term}
  def end_sessions(worker_id, sessions) do
    case GRPCWorker.direct_target(worker_id) do
      {:ok, target} ->
        args = %{"sessions" => sessions}
        Call.execute(%{target | hooks: []}, @end_sessions, args, timeout: :infinity)

      # Its process in Elixir has too much to do.
      {:error, :timeout} ->
        end_sessions(worker_id, sessions)

      gone ->
        gone
    end
  end

  # ---- what is answered ---------------------------------------------------

  defp read({:ok, %{"value" => value} = answer}, place, session) do
    note(answer, place, session)
    {:ok, value}
  end

  defp read({:ok, %{"ref" => _} = answer}, place, session), do: ref(answer, place, session)

  defp read({:ok, %{"items" => items, "more" => more}}, place, session) when is_list(items) do
    Enum.reduce_while(items, {:ok, []}, fn item, {:ok, done} ->
      case read({:ok, item}, place, session) do
        {:ok, value} -> {:cont, {:ok, [value | done]}}
        error -> {:halt, error}
      end
    end)
    |> case do
      {:ok, done} -> {:ok, {Enum.reverse(done), if(more == true, do: :next, else: :done)}}
      error -> error
    end
  end

  defp read({:ok, %{"refused" => why}}, place, _session), do: refused(why, place)

  defp read({:ok, other}, place, _session) do
    message = "a call of Python was answered with #{show(other)}, which means nothing"
    {:error, Error.worker_error(message, %{reason: :invalid_answer, pool: place.pool})}
  end

  defp read(error, _place, _session), do: error

  defp ref(%{"ref" => ref} = answer, place, session) do
    # A name that was not made for this call may be that of another object.
    own? = is_map(ref) and ref["token"] in place.tokens

    case if(own?, do: ref, else: :not_ours) do
      %{"type" => type, "worker" => worker, "process" => process, "token" => token}
      when is_binary(type) and is_binary(worker) and byte_size(worker) <= 1_024 and
             is_binary(process) ->
        note(answer, place, session)
        place = %{place | worker_id: worker, process: process}

        {:ok,
         %PyRef{
           type: type,
           session_id: session,
           pool: place.pool,
           worker_id: worker,
           process: process,
           token: token,
           guard: Refs.guard(place, [token])
         }}

      _other ->
        read({:ok, %{"malformed" => ref}}, place, session)
    end
  end

  # The worker keeps something for the session: it is told of its end, which may
  # have come while the call ran.
  defp note(%{"worker" => worker}, _place, session)
       when is_binary(session) and is_binary(worker) do
    :ok = Refs.note_session(session, worker)
    ended? = Process.whereis(SessionStore) != nil and not SessionStore.session_exists?(session)
    if ended?, do: Refs.session_ended(session), else: :ok
  end

  defp note(_answer, _place, _session), do: :ok

  defp refused("process", place), do: worker_gone(place)

  defp refused("released", place) do
    invalid("the Python object was released, or its session has ended", %{
      reason: :ref_released,
      worker_id: place.worker_id,
      pool: place.pool
    })
  end

  defp refused("unknown", place) do
    invalid(
      "worker #{place.worker_id} has no such Python object: the ref is not one that it gave, " <>
        "or was released long ago",
      %{reason: :ref_unknown, worker_id: place.worker_id, pool: place.pool}
    )
  end

  defp refused(other, place), do: read({:ok, other}, place, nil)

  defp worker_gone(place) do
    invalid(
      "the process that held the Python object has ended (it was in worker #{place.worker_id}); " <>
        "make the object again",
      %{reason: :worker_gone, worker_id: place.worker_id, pool: place.pool}
    )
  end

  @spec raise_error(Snakepit.error()) :: no_return
  def raise_error(%{__exception__: true} = error), do: raise(error)

  def raise_error(reason),
    do: raise(Error.normalize_public_error(reason, %{command: @prefix <> "next"}))

  defp invalid(message, details \\ %{}), do: {:error, Error.validation_error(message, details)}
  defp show(term), do: inspect(term, limit: 5, printable_limit: 200)
end
