# Structs that some versions of snakepit have and others have not.
unless Code.ensure_loaded?(Snakepit.PyRef) do
  defmodule Snakepit.PyRef do
    @moduledoc false
    defstruct [:id, :session_id, :type]
  end
end

defmodule Downstream.Types do
  @moduledoc false

  @spec handle?(term) :: boolean
  def handle?(%Snakepit.ZeroCopyRef{}), do: true
  def handle?(%struct{}) when struct == Snakepit.PyRef, do: true
  def handle?(_other), do: false
end
