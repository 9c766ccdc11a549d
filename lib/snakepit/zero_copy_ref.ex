defmodule Snakepit.ZeroCopyRef do
  @moduledoc """
  A handle of a tensor (`:dlpack`) or a table (`:arrow`).

  `Snakepit.ZeroCopy` makes them and gives back what they stand for. As an argument, also
  inside of lists and maps, a handle arrives in Python as `snakepit_bridge.ZeroCopyRef`; one
  in a result arrives here. The fields tell what it is:

    * `kind` - `:dlpack` or `:arrow`
    * `device` - where the data is
    * `dtype` - NumPy's name of the elements' type, or what was given
    * `shape` - the sizes of the dimensions
    * `owner` - the side that made it
    * `ref` - what holds the data, and means nothing to anybody else: copying or inspecting
      the handle costs nothing, whatever its size
    * `copy` - whether handing it over copies the data
    * `bytes` - the size of the data
    * `metadata` - what its maker added

  The memory is held until `Snakepit.ZeroCopy.close/1`, or until no process has the handle any
  more.
  """

  @type kind :: :dlpack | :arrow
  @type device :: :cpu | :cuda | :mps
  @type t :: %__MODULE__{
          kind: kind,
          device: device | nil,
          dtype: atom | String.t() | nil,
          shape: tuple | list | nil,
          owner: :elixir | :python | nil,
          ref: reference,
          copy: boolean | nil,
          bytes: non_neg_integer | nil,
          metadata: map | nil
        }

  @enforce_keys [:kind, :ref]
  defstruct [:kind, :device, :dtype, :shape, :owner, :ref, :copy, :bytes, :metadata]
end
