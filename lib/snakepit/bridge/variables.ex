# The variables of a session had messages in older versions; in the protocol of
# 0.13 there are none, and these are plain data.

defmodule Snakepit.Bridge.Variable do
  @moduledoc """
  A variable of a session, as `Snakepit.Bridge.SessionStore.list_variables/1`
  gives it. A value that is a binary but no text is in `:binary_value` besides.
  """

  alias Snakepit.Bridge.SessionVariable

  defstruct [:name, :type, :value, :binary_value, constraints: %{}]

  @type t :: %__MODULE__{
          name: String.t(),
          type: SessionVariable.type(),
          value: term,
          binary_value: binary | nil,
          constraints: %{optional(atom) => term}
        }

  @doc false
  @spec new(SessionVariable.t()) :: t
  def new(%{value: value} = variable) do
    bytes? = is_binary(value) and not String.valid?(value)
    struct!(%__MODULE__{binary_value: if(bytes?, do: value)}, variable)
  end
end

defmodule Snakepit.Bridge.RegisterVariableRequest do
  @moduledoc """
  What `Snakepit.Bridge.SessionStore.register_variable/5` is asked, as data:
  `Snakepit.Bridge.SessionStore.apply_request/1` does it. `:initial_binary_value`
  is the value where it is there.
  """

  defstruct [:session_id, :name, :type, :initial_value, :initial_binary_value, constraints: %{}]

  @type t :: %__MODULE__{
          session_id: String.t(),
          name: String.t() | atom,
          type: atom,
          initial_value: term,
          initial_binary_value: binary | nil,
          constraints: map | keyword
        }
end

defmodule Snakepit.Bridge.SetVariableRequest do
  @moduledoc """
  What `Snakepit.Bridge.SessionStore.update_variable/3` is asked, as data;
  `:binary_value` is the value where it is there.
  """

  defstruct [:session_id, :name, :value, :binary_value]

  @type t :: %__MODULE__{
          session_id: String.t(),
          name: String.t() | atom,
          value: term,
          binary_value: binary | nil
        }
end

defmodule Snakepit.Bridge.BatchSetVariablesRequest do
  @moduledoc """
  New values for several variables of a session, by their names; those of
  `:binary_updates` are binaries. One that is refused leaves the others.
  """

  defstruct [:session_id, updates: %{}, binary_updates: %{}]

  @type t :: %__MODULE__{
          session_id: String.t(),
          updates: %{optional(String.t() | atom) => term},
          binary_updates: %{optional(String.t() | atom) => binary}
        }
end
