defmodule Snakepit.DescriptorsTest do
  # A BEAM whose descriptors are used up goes on with what it has, says what it
  # cannot do, and is whole again when there are some.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools, only: [defaults: 0, signal_path: 0]

  alias Snakepit.Test.OtherVM

  for transport <- [:local, :grpc] do
    test "4096 descriptors used up, workers come by #{transport}" do
      dir = Path.dirname(signal_path())

      code = """
      # As a release does: code cannot be read without a descriptor.
      for app <- [:kernel, :stdlib, :crypto, :elixir, :logger, :snakepit],
          {:ok, modules} <- [:application.get_key(app, :modules)],
          do: :code.ensure_modules_loaded(modules)
      :ok = Snakepit.Pool.await_init_complete(Snakepit.Pool, 60_000)
      fill = fn fill, all ->
        case :file.open("/dev/null", [:read, :raw]) do
          {:ok, file} -> fill.(fill, [file | all])
          {:error, :emfile} -> all
        end
      end
      again = fn again ->
        with {:error, _} <- Snakepit.execute("pid", %{}, timeout: 60_000) do
          Process.sleep(10)
          again.(again)
        end
      end
      {:ok, first} = Snakepit.execute("pid", %{})
      files = fill.(fill, [])
      say.(length(files))
      say.(Snakepit.execute("pid", %{}) == {:ok, first})
      {:error, error} = Snakepit.execute("end", %{status: 7})
      say.(error.details.exit_status)
      # The next one cannot come in yet, or come in and be called.
      _ = Snakepit.execute("pid", %{}, timeout: 200)
      Enum.each(files, &:file.close/1)
      {:ok, second} = again.(again)
      say.(second != first)
      """

      settings = Keyword.merge(defaults(), transport: unquote(transport), prefork: true)

      beam = OtherVM.start(dir, code, settings: settings, before: "ulimit -n 4096;")
      count = OtherVM.hear(beam)
      assert count in 3_000..4_096
      assert OtherVM.hear(beam) == true
      assert OtherVM.hear(beam) == 7
      assert OtherVM.hear(beam) == true
    end
  end
end
