defmodule Snakepit.Test.Structs do
  @moduledoc false
  # Compiled with the library, so that its protocol is consolidated with them.

  defmodule Money do
    defstruct [:amount]

    defimpl Snakepit.Encodable do
      def to_wire(%{amount: amount}), do: {amount, ~D[2024-01-01]}
    end
  end

  defmodule User do
    @derive {Snakepit.Encodable, only: [:name]}
    defstruct [:name, :password]
  end

  defmodule Account do
    @derive {Snakepit.Encodable, except: [:secret]}
    defstruct [:id, :secret]
  end

  defmodule Endless do
    defstruct []

    defimpl Snakepit.Encodable do
      def to_wire(endless), do: [endless]
    end
  end

  defmodule Itself do
    defstruct []

    defimpl Snakepit.Encodable do
      def to_wire(itself), do: itself
    end
  end
end
