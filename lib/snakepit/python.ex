defmodule Snakepit.Python do
  @moduledoc """
  Any Python, without an adapter: functions by name, expressions, statements,
  and objects that stay in their worker.

      {:ok, 4.0} = Snakepit.Python.call("math.sqrt", [16])

  The pool has to allow it, as whoever may call this may do in the worker what
  the worker's user may: `python_calls: true` in the pool, or in `config
  :snakepit` for all pools.

  Results that are plain data (numbers, texts, bytes, None, dates, decimals, and
  lists, tuples, dicts and sets of them) are copied. Anything else stays where
  it is and comes back as a `Snakepit.PyRef`:

      {:ok, counter} = Snakepit.Python.call("collections.Counter", ["mississippi"])
      {:ok, [{"i", 4}]} = Snakepit.Python.call({counter, "most_common"}, [1])
      {:ok, 4} = Snakepit.Python.len(counter)

  A call with refs, as its target or anywhere in its arguments, runs in the
  worker that has them; refs of two workers cannot be in one call. An object
  lives as long as its term, and not longer than its session and worker.

  Exceptions are those of `Snakepit.execute/3`: `{:error,
  %Snakepit.Error.ValueError{}}` and so on. Options of all functions are those
  of `Snakepit.execute/3`, where `:session_id` binds to the worker of the session
  (`affinity: :strict_queue` unless it is given), and:

    * `:return` - `:auto`; `:ref` for a reference also of plain data; `:value`
      for a copy of anything, as tools return it (arrays become lists, what
      has no plain form a marker, see the guide *Values*)
  """

  alias Snakepit.PyRef
  alias Snakepit.Python.{Refs, Stored, Wire}

  @type target :: String.t() | PyRef.t() | {PyRef.t(), method :: String.t()}
  @type result :: {:ok, term | PyRef.t()} | {:error, Snakepit.error()}

  @doc """
  Calls a function by its full name, a ref, or a method of a ref.

  `args` is a list; a map or a keyword list in its place are keyword arguments.
  A name without a dot is a builtin. Coroutines are awaited.

      Snakepit.Python.call("datetime.timedelta", hours: 2)
      Snakepit.Python.call("json.dumps", [%{a: 1}], indent: 2)
      Snakepit.Python.call({frame, "head"}, [5], %{}, return: :value)

  Names that begin with `stored.`, and all names in a pool that does not allow any
  Python, go to the adapter's tool `call`, if it has one: it gets `target`, `args` and
  `kwargs`, and what the option `:store_as` says. `store/3` and `retrieve/2` are
  its tools of those names.

      Snakepit.Python.call("dspy.Predict", %{signature: "question -> answer"}, %{}, store_as: "qa")
      Snakepit.Python.call("stored.qa.__call__", %{question: "Why?"})
  """
  @spec call(target, list | map | keyword, map | keyword, keyword) :: result
  def call(target, args \\ [], kwargs \\ %{}, opts \\ [])

  def call(target, args, kwargs, opts) do
    with {:ok, {args, kwargs}} <- Wire.arguments(args, kwargs) do
      if Stored.meant?(target, opts),
        do: Stored.call(target, args, kwargs, opts),
        else: call_any(target, %{"args" => args, "kwargs" => kwargs}, opts)
    end
  end

  defp call_any(target, arguments, opts) do
    with {:ok, target} <- Wire.target(target),
         do: Wire.run("call", Map.merge(target, arguments), opts)
  end

  @doc "Has the adapter keep a value under a name: its tool `store`, with `id` and `value`."
  @spec store(String.t(), term, keyword) :: :ok | {:error, Snakepit.error()}
  def store(id, value, opts \\ []), do: Stored.store(id, value, opts)

  @doc "What the adapter keeps under that name: its tool `retrieve`, with `id`."
  @spec retrieve(String.t(), keyword) :: result
  def retrieve(id, opts \\ []), do: Stored.retrieve(id, opts)

  @doc """
  The value of an expression, with `vars` as names in it.

      {:ok, 3} = Snakepit.Python.eval("x + 1", %{x: 2})

  In a session it sees what `exec/3` left there. `in: ref` evaluates it in a
  module, or in what `exec/3` returned.
  """
  @spec eval(String.t(), map | keyword, keyword) :: result
  def eval(code, vars \\ %{}, opts \\ []), do: run_code("eval", code, vars, opts)

  @doc """
  Runs statements, with `vars` as names. The result is a ref to the module that
  they ran in, a new one for each call, or that of the session.

      {:ok, module} = Snakepit.Python.exec("def double(x): return 2 * x")
      {:ok, 42} = Snakepit.Python.call({module, "double"}, [21])
  """
  @spec exec(String.t(), map | keyword, keyword) :: {:ok, PyRef.t()} | {:error, Snakepit.error()}
  def exec(code, vars \\ %{}, opts \\ []),
    do: run_code("exec", code, vars, Keyword.put(opts, :return, :ref))

  defp run_code(op, code, vars, opts) do
    with {:ok, vars} <- Wire.names(vars, "variables"),
         {:ok, where} <- Wire.namespace(opts[:in]),
         :ok <- Wire.text(code, "code"),
         do: Wire.run(op, Map.merge(where, %{"code" => code, "vars" => vars}), opts)
  end

  @doc "A module, as a ref: `{:ok, np} = import_module(\"numpy\")`."
  @spec import_module(String.t(), keyword) :: {:ok, PyRef.t()} | {:error, Snakepit.error()}
  def import_module(name, opts \\ []),
    do: call("importlib.import_module", [name], %{}, Keyword.put(opts, :return, :ref))

  @doc "An attribute of the object."
  @spec get(PyRef.t(), String.t() | atom, keyword) :: result
  def get(ref, name, opts \\ []), do: call("getattr", [ref, to_string(name)], %{}, opts)

  @doc "Sets an attribute."
  @spec put(PyRef.t(), String.t() | atom, term, keyword) :: :ok | {:error, Snakepit.error()}
  def put(ref, name, value, opts \\ []),
    do: "setattr" |> call([ref, to_string(name), value], %{}, opts) |> done()

  @doc "An item, `object[key]`; a tuple is a key of several dimensions."
  @spec item(PyRef.t(), term, keyword) :: result
  def item(ref, key, opts \\ []), do: call("operator.getitem", [ref, key], %{}, opts)

  @doc "Sets an item."
  @spec put_item(PyRef.t(), term, term, keyword) :: :ok | {:error, Snakepit.error()}
  def put_item(ref, key, value, opts \\ []),
    do: "operator.setitem" |> call([ref, key, value], %{}, opts) |> done()

  @doc "Deletes an item."
  @spec delete_item(PyRef.t(), term, keyword) :: :ok | {:error, Snakepit.error()}
  def delete_item(ref, key, opts \\ []),
    do: "operator.delitem" |> call([ref, key], %{}, opts) |> done()

  @doc "The object as text, as `str()` gives it."
  @spec str(PyRef.t(), keyword) :: {:ok, String.t()} | {:error, Snakepit.error()}
  def str(ref, opts \\ []), do: call("str", [ref], %{}, Keyword.put(opts, :return, :value))

  @doc "The object as `repr()` shows it."
  @spec repr(PyRef.t(), keyword) :: {:ok, String.t()} | {:error, Snakepit.error()}
  def repr(ref, opts \\ []), do: call("repr", [ref], %{}, Keyword.put(opts, :return, :value))

  @doc "The number of its items."
  @spec len(PyRef.t(), keyword) :: {:ok, non_neg_integer} | {:error, Snakepit.error()}
  def len(ref, opts \\ []), do: call("len", [ref], %{}, opts)

  @doc "A copy of the object, as a tool would return it."
  @spec value(PyRef.t(), keyword) :: {:ok, term} | {:error, Snakepit.error()}
  def value(%PyRef{} = ref, opts \\ []),
    do: Wire.run("value", %{"target" => ref}, Keyword.put(opts, :return, :value))

  @doc """
  What the object iterates over, as a lazy stream; generators go on only as far
  as the stream is read. Objects with `__aiter__` are iterated as `async for` does.
  What goes wrong is raised.

  `:batch` items are fetched at a time, 1 unless it is given: more is quicker,
  and makes more than are read.

      {:ok, lines} = Snakepit.Python.call("open", ["/etc/hosts"])
      lines |> Snakepit.Python.stream(batch: 100) |> Enum.take(3)
  """
  @spec stream(PyRef.t(), keyword) :: Enumerable.t()
  def stream(%PyRef{} = ref, opts \\ []) do
    {batch, opts} = Keyword.pop(opts, :batch, 1)

    if not (is_integer(batch) and batch in 1..100),
      do: raise(ArgumentError, "batch: is a number from 1 to 100, not #{inspect(batch)}")

    Stream.resource(
      fn -> {:next, iterator!(ref, opts)} end,
      fn
        {:done, iterator} -> {:halt, {:done, iterator}}
        {:next, iterator} -> next!(iterator, batch, opts)
      end,
      fn {_state, iterator} -> Refs.drop(iterator.worker_id, iterator.token) end
    )
  end

  defp iterator!(ref, opts) do
    case Wire.run("iter", %{"target" => ref}, Keyword.put(opts, :return, :ref)) do
      {:ok, iterator} -> iterator
      {:error, error} -> Wire.raise_error(error)
    end
  end

  defp next!(iterator, batch, opts) do
    case Wire.run("next", %{"iterator" => iterator}, Keyword.put(opts, :batch, batch)) do
      {:ok, {items, more}} -> {items, {more, iterator}}
      {:error, error} -> Wire.raise_error(error)
    end
  end

  @doc "Lets the object go now, not only with its last term."
  @spec release(PyRef.t(), keyword) :: :ok | {:error, Snakepit.error()}
  def release(%PyRef{} = ref, opts \\ []),
    do: Wire.release(ref.worker_id, [ref.token], [], opts)

  defp done({:ok, _none}), do: :ok
  defp done(error), do: error
end
