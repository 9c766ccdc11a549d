defmodule Snakepit.DocsTest do
  # Changes the current directory: what the texts say of paths is tested too.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO
  import Snakepit.Test.Pools

  # The fenced blocks of README.md and of guides, run as they stand: a Python
  # block is the file that its first line names, an Elixir block that
  # begins with `# config/config.exs` is the configuration, and any other is
  # run, where `#=> pattern` after an expression is what it must return.

  @project Path.expand("../..", __DIR__)
  @fence ~r/^```(\w+)\n(.*?)^```$/ms

  setup do
    dir = signal_path() |> Path.dirname()
    python = Snakepit.PythonRuntime.executable_path()
    cwd = File.cwd!()
    on_exit(fn -> File.cd!(cwd) end)
    File.cd!(dir)
    %{python: python}
  end

  defp blocks(file) do
    text = File.read!(Path.join(@project, file))
    for [_, language, code] <- Regex.scan(@fence, text), do: {language, code}
  end

  defp first_line(code), do: code |> String.split("\n", parts: 2) |> hd()

  defp write_python(blocks) do
    files = for {"python", code} <- blocks, do: {first_line(code), code}
    assert files != []

    for {"# " <> path, code} <- files do
      assert path =~ ~r{^priv/python/\w+\.py$}
      File.mkdir_p!(Path.dirname(path))
      File.write!(path, code)
    end
  end

  defp config?(code), do: first_line(code) == "# config/config.exs"

  defp configs(blocks) do
    for {"elixir", code} <- blocks, config?(code) do
      File.write!("config.exs", code)
      [snakepit: settings] = Config.Reader.read!("config.exs")
      settings
    end
  end

  defp start(settings, python) do
    started = start_app(Keyword.put(settings, :python_executable, python))
    assert {:ok, _} = started
    assert Snakepit.Pool.await_init_complete(Snakepit.Pool, 60_000) == :ok
  end

  # Runs each expression of the block; returns how many results were checked.
  defp check(code) do
    {:__block__, _, expressions} =
      case Code.string_to_quoted!(code) do
        {:__block__, _, _} = block -> block
        one -> {:__block__, [], [one]}
      end

    expected = expected(code)

    {checked, _binding} =
      Enum.reduce(expressions, {0, []}, fn {_, meta, _} = expression, {checked, binding} ->
        {value, binding} = Code.eval_quoted(expression, binding)
        {checked + compare(value, expression, expected[meta[:line]]), binding}
      end)

    assert checked == map_size(expected)
    checked
  end

  defp compare(_value, _expression, nil), do: 0

  defp compare(value, expression, pattern) do
    {match?, _} = Code.eval_string("match?(#{pattern}, value)", [value: value], __ENV__)

    assert match?, "#{Macro.to_string(expression)} is\n#{inspect(value)}\nand not\n#{pattern}"
    1
  end

  # %{first line of an expression => pattern}; each stands under its expression.
  defp expected(code) do
    starts =
      for {line, number} <- Enum.with_index(String.split(code, "\n"), 1),
          line =~ ~r/^[A-Za-z:]/,
          do: number

    for {"#=> " <> pattern, number} <- Enum.with_index(String.split(code, "\n"), 1), into: %{} do
      {starts |> Enum.filter(&(&1 < number)) |> Enum.max(), pattern}
    end
  end

  defp run_all(blocks, group) do
    for {"elixir", code} <- blocks, not config?(code), code =~ group, reduce: 0 do
      count -> count + check(code)
    end
  end

  defp quietly(fun) do
    parent = self()
    output = capture_io(fn -> send(parent, {:checked, fun.()}) end)
    assert_received {:checked, count}
    {count, output}
  end

  test "README: the quick start, then the adapter", %{python: python} do
    blocks = blocks("README.md")
    write_python(blocks)
    assert [quick_start, adapter] = configs(blocks)

    start(quick_start, python)
    {count, output} = quietly(fn -> run_all(blocks, ~r/"add"/) end)
    assert count >= 4
    assert output =~ ~s("is_final" => true)

    start(adapter, python)
    assert {1, _} = quietly(fn -> run_all(blocks, ~r/"greet"/) end)
  end

  test "guides/workers.md: the adapter, the pools, the calls", %{python: python} do
    blocks = blocks("guides/workers.md")
    write_python(blocks)
    assert [pools] = configs(blocks)

    start(pools, python)
    {count, output} = quietly(fn -> run_all(blocks, ~r//) end)
    assert count >= 10
    assert output =~ ~s("item" => "cup")
    assert output =~ ~s("items" => 2)
  end

  test "guides/configuration.md: settings, errors, a level of one's own", %{python: python} do
    blocks = blocks("guides/configuration.md")
    write_python(blocks)
    assert [settings] = configs(blocks)

    start(settings, python)
    {count, _output} = quietly(fn -> run_all(blocks, ~r//) end)
    assert count >= 9
  end

  test "guides/concurrency.md: threads and coroutines", %{python: python} do
    blocks = blocks("guides/concurrency.md")
    write_python(blocks)
    assert [pools] = configs(blocks)

    start(pools, python)
    assert {5, _} = quietly(fn -> run_all(blocks, ~r//) end)
  end

  test "guides/sessions.md: calls, and what the BEAM keeps", %{python: python} do
    blocks = blocks("guides/sessions.md")
    write_python(blocks)
    assert [pool] = configs(blocks)

    start(pool, python)
    assert {8, _} = quietly(fn -> run_all(blocks, ~r//) end)
  end

  test "guides/zero_copy.md: large data, and handles", %{python: python} do
    # Python that no file is named for shows a piece of a tool.
    blocks =
      for {language, code} = block <- blocks("guides/zero_copy.md"),
          language == "elixir" or first_line(code) =~ ~r/^# priv/,
          do: block

    write_python(blocks)
    assert [settings, _limits] = configs(blocks)

    start(settings, python)
    assert {8, _} = quietly(fn -> run_all(blocks, ~r//) end)
  end

  test "guides/streams.md: chunks out, inputs in", %{python: python} do
    blocks = blocks("guides/streams.md")
    write_python(blocks)

    start(
      [pooling_enabled: true, pool_size: 1, adapter_args: ["--adapter", "flows.Flows"]],
      python
    )

    {count, output} = quietly(fn -> run_all(blocks, ~r//) end)
    assert count == 6
    assert output =~ ~s("mean" => 2.5)
  end

  test "guides/telemetry.md: handlers, events from Python, less of them", %{python: python} do
    on_exit(fn -> Enum.each(["slow-calls", "training"], &Snakepit.Telemetry.detach/1) end)
    blocks = blocks("guides/telemetry.md")
    write_python(blocks)
    assert [settings] = configs(blocks)
    start(settings, python)
    assert {6, _output} = quietly(fn -> run_all(blocks, ~r//) end)
  end

  test "guides/elixir_tools.md: tools on both sides", %{python: python} do
    blocks = blocks("guides/elixir_tools.md")
    write_python(blocks)
    assert [pool] = configs(blocks)

    start(pool, python)
    assert {7, _} = quietly(fn -> run_all(blocks, ~r//) end)
  end

  test "guides/adapters.md: tools, lifetimes, variables, exceptions", %{python: python} do
    blocks = blocks("guides/adapters.md")
    write_python(blocks)
    assert [pools] = configs(blocks)

    start(pools, python)
    assert {11, _} = quietly(fn -> run_all(blocks, ~r//) end)
  end

  test "guides/python.md: calls, objects, sessions", %{python: python} do
    blocks = blocks("guides/python.md")
    write_python(blocks)
    assert [pool] = configs(blocks)

    start(pool, python)
    assert {18, _} = quietly(fn -> run_all(blocks, ~r//) end)
  end

  test "guides/grpc.md: the server, its token, its client", %{python: python} do
    blocks = blocks("guides/grpc.md")
    write_python(blocks)
    assert [pool] = configs(blocks)

    start(pool, python)
    assert {5, _} = quietly(fn -> run_all(blocks, ~r//) end)
  end
end
