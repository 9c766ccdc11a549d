defmodule Snakepit.PyRef do
  @moduledoc """
  A Python object that stayed in its worker; see `Snakepit.Python`. It can also be
  an argument of the tools of that worker's adapter.

  The object lives as long as a term for it, unless its session ends or it is
  released before: then, and when its worker has ended, calls with it are
  `{:error, %Snakepit.Error{category: :validation}}` with the reason
  `:ref_released`, `:ref_unknown` or `:worker_gone`.

    * `:type` - the name of the object's class, as `"collections.Counter"`
    * `:session_id` - the session that it belongs to, or nil
    * `:pool`, `:worker_id` - where it is

  The other fields are not for use; who does not have the whole term cannot
  name the object. Written to disk or sent to another node, a term keeps no
  object alive.
  """

  defstruct [:type, :session_id, :pool, :worker_id, :process, :token, :guard]

  @type t :: %__MODULE__{
          type: String.t(),
          session_id: String.t() | nil,
          pool: atom,
          worker_id: String.t(),
          process: String.t(),
          token: String.t(),
          guard: reference
        }

  # Without the token: a log is no place for what opens the object.
  defimpl Inspect do
    def inspect(ref, _opts), do: "#Snakepit.PyRef<#{ref.type} in #{ref.worker_id}>"
  end

  # In the arguments of a call it has been replaced; anywhere else nobody could do
  # anything with it.
  defimpl Snakepit.Encodable do
    @spec to_wire(Snakepit.PyRef.t()) :: no_return
    def to_wire(ref) do
      raise ArgumentError,
            "#{inspect(ref)} can be an argument of a tool, or of Snakepit.Python.call/4, eval/3 " <>
              "and exec/3; Snakepit.Python.value/2 gives a copy of the object for other places"
    end
  end
end
