defmodule Snakepit.Pool.Inputs do
  @moduledoc false
  # The inputs of a call: an enumerable that is run in the process of the caller,
  # as far as the tool asks for them, between the messages of the call.

  alias Snakepit.{Encoder, Native}

  @typep t :: %{
           run: (Enumerable.acc() -> Enumerable.result()) | nil,
           started: boolean,
           # What it gave and was not sent: usually nothing.
           ready: list,
           wanted: non_neg_integer,
           sent: non_neg_integer,
           over: boolean
         }

  @type event ::
          {:message, term, t}
          | {:timeout, t}
          | {:error, term, t}
          | {:raised, {atom, term, Exception.stacktrace()}, t}

  @doc "Of a call's options."
  @spec valid(term) :: {:ok, t | nil} | :error
  def valid(nil), do: {:ok, nil}

  def valid(enumerable) do
    if Enumerable.impl_for(enumerable) do
      run = &Enumerable.reduce(enumerable, &1, fn item, given -> {:suspend, [item | given]} end)
      {:ok, %{run: run, started: false, ready: [], wanted: 0, sent: 0, over: false}}
    else
      :error
    end
  end

  @doc """
  The next message of the call that is not about inputs; until it comes, inputs
  are made and sent. `:raised` is what the enumerable raised, threw or exited with.
  The call goes on after all but a message that ends it.
  """
  @spec await(t, reference, Native.handle(), until :: integer | :infinity) :: event
  def await(inputs, ref, call, until) do
    receive do
      {^ref, {:want, n}} -> await(%{inputs | wanted: inputs.wanted + n}, ref, call, until)
      {^ref, message} -> {:message, message, inputs}
    after
      patience(inputs, until) -> idle(inputs, ref, call, until)
    end
  end

  # Chunks come first, so that those that are there are not kept waiting.
  defp patience(%{wanted: wanted, over: false}, _until) when wanted > 0, do: 0
  defp patience(_inputs, :infinity), do: :infinity
  defp patience(_inputs, until), do: max(until - System.monotonic_time(:millisecond), 0)

  defp idle(%{wanted: wanted, over: false} = inputs, ref, call, until) when wanted > 0 do
    with {:ok, inputs} <- make(inputs),
         {:ok, inputs} <- send_one(inputs, call),
         do: await(inputs, ref, call, until)
  end

  defp idle(inputs, _ref, _call, _until), do: {:timeout, inputs}

  defp make(%{ready: [], run: run} = inputs) when run != nil do
    case run.({:cont, []}) do
      {:suspended, given, run} ->
        {:ok, %{inputs | ready: Enum.reverse(given), run: run, started: true}}

      # The last item may come with the end.
      {_done_or_halted, given} ->
        {:ok, %{inputs | ready: Enum.reverse(given), run: nil}}
    end
  catch
    kind, reason -> {:raised, {kind, reason, __STACKTRACE__}, %{inputs | run: nil}}
  end

  defp make(inputs), do: {:ok, inputs}

  defp send_one(%{ready: [item | rest]} = inputs, call) do
    case encoded(call, item) do
      :ok ->
        {:ok, %{inputs | ready: rest, wanted: inputs.wanted - 1, sent: inputs.sent + 1}}

      # Its end is in the mailbox, or about to be.
      {:error, :ended} ->
        {:ok, %{inputs | wanted: 0}}

      {:error, {:encode, path, text}} ->
        {:error, {:encode, ["inputs", inputs.sent | path], text}, inputs}

      {:error, reason} ->
        {:error, reason, inputs}
    end
  end

  defp send_one(%{run: nil} = inputs, call) do
    :ok = Native.call_input_end(call)
    {:ok, %{inputs | over: true}}
  end

  # It gave nothing this time.
  defp send_one(inputs, _call), do: {:ok, inputs}

  defp encoded(call, item) do
    case Native.call_input(call, item) do
      {:error, {:encode_struct, _path}} -> Native.call_input(call, Encoder.plain(item))
      result -> result
    end
  end

  @doc "No more will be made: an enumerable that has begun cleans up after itself."
  @spec halt(t | nil) :: :ok
  def halt(%{run: run, started: true}) when run != nil do
    _ = run.({:halt, []})
    :ok
  end

  def halt(_none_or_over), do: :ok
end
