defmodule Snakepit.Bridge.InternalToolSpec do
  @moduledoc """
  A tool as `Snakepit.Bridge.ToolRegistry` keeps it: a function of this BEAM
  (`:local`) or of a worker (`:remote`). `:pool` is there for a tool that workers
  told of by themselves: any worker of that pool may run it.
  """

  @enforce_keys [:name, :type]
  defstruct [
    :name,
    :type,
    :handler,
    :worker_id,
    :pool,
    parameters: [],
    description: "",
    metadata: %{},
    exposed_to_python: false
  ]

  @type t :: %__MODULE__{
          name: String.t(),
          type: :local | :remote,
          handler: (map -> term) | nil,
          parameters: [map],
          description: String.t(),
          metadata: map,
          worker_id: String.t() | nil,
          pool: atom,
          exposed_to_python: boolean
        }
end
