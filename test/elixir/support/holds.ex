defmodule Snakepit.Test.Holds do
  @moduledoc false
  # Other interleavings than the usual ones: processes of the application are
  # held up at random, as a machine with much else to do would, one in a while
  # for long.

  @doc "Begins, for as long as the VM runs. Each holder holds up one at a time."
  @spec start(pos_integer) :: :ok
  def start(holders) do
    for n <- 1..holders, do: spawn(fn -> hold_on(n) end)
    :ok
  end

  defp hold_on(n) do
    _ = :rand.seed(:exsss, {n, System.os_time(), 0})
    (&hold_one/0) |> Stream.repeatedly() |> Stream.run()
  end

  defp hold_one do
    # One that is alone goes on between two holds.
    Process.sleep(5)

    case Enum.filter(Process.list(), &ours?/1) do
      [] -> :ok
      pids -> suspend(Enum.random(pids))
    end
  end

  defp suspend(pid) do
    true = :erlang.suspend_process(pid)
    Process.sleep(a_while())
    true = :erlang.resume_process(pid)
  rescue
    # It has ended meanwhile.
    ArgumentError -> :ok
  end

  defp a_while do
    case :rand.uniform(20) do
      1 -> 400
      n when n < 6 -> :rand.uniform(80)
      _ -> :rand.uniform(5)
    end
  end

  defp ours?(pid) do
    case Process.info(pid, [:status, :dictionary, :registered_name]) do
      [status: status, dictionary: dictionary, registered_name: name] ->
        status != :suspended and
          (ours_by_name?(name) or initially_ours?(dictionary[:"$initial_call"]))

      nil ->
        false
    end
  end

  defp initially_ours?({module, _function, _arity}), do: ours_by_name?(module)
  defp initially_ours?(_), do: false

  defp ours_by_name?(name) when is_atom(name) do
    text = Atom.to_string(name)

    String.starts_with?(text, "Elixir.Snakepit.") and
      not String.starts_with?(text, "Elixir.Snakepit.Test")
  end

  defp ours_by_name?(_no_name), do: false
end
