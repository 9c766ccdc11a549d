defmodule Snakepit.Error.PythonException do
  @moduledoc """
  An exception that a tool raised. The usual classes have structs of their own
  (`Snakepit.Error.ValueError`, ...), with the same fields:

    * `:message` - what `str(exception)` says
    * `:python_type` - the name of its class
    * `:python_traceback` - the traceback as one text, or nil
    * `:stacktrace` - the traceback as a list of lines
    * `:context` - the tool, the session and the like
    * `:module` - where its class is from, such as `"builtins"`; nil if unknown
    * `:bases` - the names of the classes that it derives from, from near to far
    * `:frames` - the traceback as maps, the innermost last: `:file`, `:line`,
      `:function`, and `:code`, the text of that line, or nil
    * `:cause` - the exception that it was raised from, or while that was
      handled, as another such struct; or nil
    * `:exceptions` - the members of an `ExceptionGroup`
    * `:notes` - what `add_note` added
    * `:attributes` - its attributes that are text, numbers, lists or maps, such
      as `"errno"` and `"filename"` of an `OSError`; long text is cut

  A class without a struct of its own is the nearest of its bases that has one:
  `ModuleNotFoundError` is a `Snakepit.Error.ImportError`, with its own name in
  `:python_type`. Exceptions in streams come over gRPC with 5 KB at most: what
  does not fit is left out, the lists above first.
  """

  alias Snakepit.Telemetry

  @fields [
    :message,
    :python_type,
    :python_traceback,
    stacktrace: [],
    context: %{},
    module: nil,
    bases: [],
    frames: [],
    cause: nil,
    exceptions: [],
    notes: [],
    attributes: %{}
  ]

  # Workers send fewer; nobody else may make this recurse for long.
  @max_chain 32

  @typedoc "A line of a traceback."
  @type frame :: %{
          file: String.t(),
          line: non_neg_integer,
          function: String.t(),
          code: String.t() | nil
        }

  @type t :: %__MODULE__{
          message: String.t(),
          python_type: String.t() | nil,
          python_traceback: String.t() | nil,
          stacktrace: [String.t()],
          context: map,
          module: String.t() | nil,
          bases: [String.t()],
          frames: [frame],
          cause: Exception.t() | nil,
          exceptions: [Exception.t()],
          notes: [String.t()],
          attributes: %{optional(String.t()) => term}
        }

  defexception @fields

  @impl true
  def message(%{python_type: type, message: message}), do: "#{type}: #{message}"

  @classes ~w(ValueError KeyError IndexError TypeError AttributeError ImportError RuntimeError
              NotImplementedError FileNotFoundError PermissionError ZeroDivisionError)

  fields = @fields

  for name <- @classes do
    defmodule Module.concat(Snakepit.Error, name) do
      @moduledoc "Python's `#{name}`. Its fields are those of `Snakepit.Error.PythonException`."

      @type t :: %__MODULE__{
              message: String.t(),
              python_type: String.t() | nil,
              python_traceback: String.t() | nil,
              stacktrace: [String.t()],
              context: map,
              module: String.t() | nil,
              bases: [String.t()],
              frames: [Snakepit.Error.PythonException.frame()],
              cause: Exception.t() | nil,
              exceptions: [Exception.t()],
              notes: [String.t()],
              attributes: %{optional(String.t()) => term}
            }

      defexception fields

      @impl true
      def message(%{message: message}), do: to_string(message)
    end
  end

  # NotImplementedError and ModuleNotFoundError are what they are before they
  # are what they derive from: `bases` goes from near to far.
  @modules Map.new(@classes, &{&1, Module.concat(Snakepit.Error, &1)})

  @doc false
  # What a worker sends about an exception: "type" and "message", and maybe
  # the others of the fields under their names.
  @spec from_wire(map) :: Exception.t()
  def from_wire(%{"type" => _, "message" => _} = info),
    do: info |> from_wire(@max_chain) |> told()

  # Whether its class has a struct of its own.
  defp told(%module{python_type: type, context: context} = exception) do
    how = if module == __MODULE__, do: :unmapped, else: :mapped

    about = %{python_type: type, library: context["library"], function: context["function"]}
    Telemetry.execute([:snakepit, :python, :exception, how], %{}, about)
    about = Map.put(about, :error_message, exception.message)
    Telemetry.execute([:snakepit, :error, :python_exception], %{}, about)

    exception
  end

  defp from_wire(%{"type" => type, "message" => message} = info, room) do
    stacktrace = lines(info["stacktrace"])
    bases = lines(info["bases"])

    fields = %{
      message: text(message),
      python_type: text(type),
      python_traceback: traceback(info["traceback"], stacktrace),
      stacktrace: stacktrace,
      context: map(info["context"]),
      module: if(is_binary(info["module"]), do: info["module"]),
      bases: bases,
      frames: for(%{} = frame <- List.wrap(info["frames"]), do: frame(frame)),
      cause: inner(info["cause"], room),
      exceptions:
        for(%{} = member <- List.wrap(info["exceptions"]), e = inner(member, room), do: e),
      notes: lines(info["notes"]),
      attributes: map(info["attributes"])
    }

    struct(module([type | bases]), fields)
  end

  defp inner(%{"type" => _, "message" => _} = info, room) when room > 0,
    do: from_wire(info, room - 1)

  defp inner(_none, _room), do: nil

  defp frame(frame) do
    %{
      file: text(frame["file"]),
      line: if(is_integer(frame["line"]), do: max(frame["line"], 0), else: 0),
      function: text(frame["function"]),
      code: if(is_binary(frame["code"]), do: frame["code"])
    }
  end

  defp map(%{} = map), do: map
  defp map(_other), do: %{}

  defp module(names), do: Enum.find_value(names, __MODULE__, &Map.get(@modules, &1))

  defp traceback(text, _stacktrace) when is_binary(text), do: text
  defp traceback(_, []), do: nil
  defp traceback(_, stacktrace), do: Enum.join(stacktrace)

  defp lines(list) when is_list(list), do: Enum.filter(list, &is_binary/1)
  defp lines(_), do: []

  defp text(text) when is_binary(text), do: text
  defp text(other), do: inspect(other)
end
