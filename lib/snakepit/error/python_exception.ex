defmodule Snakepit.Error.PythonException do
  @moduledoc """
  An exception that a tool raised. The usual classes have structs of their own
  (`Snakepit.Error.ValueError`, ...), with the same fields:

    * `:message` - what `str(exception)` says
    * `:python_type` - the name of its class
    * `:python_traceback` - the traceback as one text, or nil
    * `:stacktrace` - the traceback as a list of lines
    * `:context` - the tool, the session and the like
  """

  @fields [:message, :python_type, :python_traceback, stacktrace: [], context: %{}]

  @type t :: %__MODULE__{
          message: String.t(),
          python_type: String.t() | nil,
          python_traceback: String.t() | nil,
          stacktrace: [String.t()],
          context: map
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
              context: map
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
  # "stacktrace", "traceback", "context", "bases".
  @spec from_wire(map) :: Exception.t()
  def from_wire(%{"type" => type, "message" => message} = info) do
    stacktrace = lines(info["stacktrace"])

    fields = %{
      message: text(message),
      python_type: text(type),
      python_traceback: traceback(info["traceback"], stacktrace),
      stacktrace: stacktrace,
      context: if(is_map(info["context"]), do: info["context"], else: %{})
    }

    struct(module([type | List.wrap(info["bases"])]), fields)
  end

  defp module(names), do: Enum.find_value(names, __MODULE__, &Map.get(@modules, &1))

  defp traceback(text, _stacktrace) when is_binary(text), do: text
  defp traceback(_, []), do: nil
  defp traceback(_, stacktrace), do: Enum.join(stacktrace)

  defp lines(list) when is_list(list), do: Enum.filter(list, &is_binary/1)
  defp lines(_), do: []

  defp text(text) when is_binary(text), do: text
  defp text(other), do: inspect(other)
end
