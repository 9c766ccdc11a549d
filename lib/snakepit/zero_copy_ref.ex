defmodule Snakepit.ZeroCopyRef do
  @moduledoc "An opaque handle of data that stays where it is. Only its owner can read it."

  @type kind :: :dlpack | :arrow
  @type device :: :cpu | :cuda | :mps
  @type t :: %__MODULE__{
          kind: kind,
          device: device | nil,
          dtype: atom | String.t() | nil,
          shape: tuple | list | nil,
          owner: :elixir | :python | nil,
          ref: reference | binary,
          copy: boolean | nil,
          bytes: non_neg_integer | nil,
          metadata: map | nil
        }

  @enforce_keys [:kind, :ref]
  defstruct [:kind, :device, :dtype, :shape, :owner, :ref, :copy, :bytes, :metadata]
end
