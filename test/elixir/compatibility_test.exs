defmodule Snakepit.CompatibilityTest do
  use ExUnit.Case, async: true

  alias Snakepit.Compatibility

  doctest Compatibility

  @safe ~w(numpy torch tensorflow scikit-learn xgboost transformers requests polars)
  @unsafe ~w(pandas matplotlib sqlite3)

  test "the libraries that are documented as safe and unsafe are so" do
    for name <- @safe, do: assert({:ok, _} = Compatibility.check(name, :thread))
    for name <- @unsafe, do: assert({:error, _} = Compatibility.check(name, :thread))
    for name <- @safe ++ @unsafe, do: assert({:ok, _} = Compatibility.check(name, :process))
  end

  test "what is not known is a warning in threads only" do
    assert {:warning, text} = Compatibility.check("no-such-library", :thread)
    assert text =~ "no-such-library"
    assert {:ok, _} = Compatibility.check("no-such-library", :process)
  end

  test "a library has several names" do
    for {name, same} <- [{"sklearn", "scikit-learn"}, {"cv2", "opencv-python"}, {:PIL, :pillow}] do
      assert %{thread_safe: _, notes: notes} = Compatibility.get_library_info(name)
      assert notes != ""
      assert Compatibility.get_library_info(same) == Compatibility.get_library_info(name)
    end

    assert Compatibility.get_library_info(:scikit_learn).thread_safe
  end

  test "each library is in one list" do
    all = Compatibility.list_all(:all)
    assert length(all) >= 20

    parts =
      for kind <- [:thread_safe, :thread_unsafe, :conditional], do: Compatibility.list_all(kind)

    assert parts |> Enum.concat() |> Enum.sort() == all

    for name <- Compatibility.list_all(:conditional),
        do: assert({:warning, _} = Compatibility.check(name, :thread))
  end

  test "a report sorts them" do
    assert {:ok, report} =
             Compatibility.generate_report([:numpy, "pandas", "spacy", "x"], :thread)

    assert %{profile: :thread, total: 4, safe?: false} = report
    assert Map.keys(report.compatible) == ["numpy"]
    assert Map.keys(report.errors) == ["pandas"]
    assert Map.keys(report.warnings) == ["spacy", "x"]

    assert {:ok, %{safe?: true, total: 1}} = Compatibility.generate_report(["pandas"], :process)
    assert {:ok, %{safe?: true, total: 0}} = Compatibility.generate_report([], :thread)
  end

  test "a report of nonsense is an error" do
    assert Compatibility.generate_report(["numpy"], :fiber) ==
             {:error, {:invalid_profile, :fiber}}

    assert Compatibility.generate_report([1], :thread) == {:error, {:invalid_libraries, [1]}}

    assert Compatibility.generate_report("numpy", :thread) ==
             {:error, {:invalid_libraries, "numpy"}}
  end
end
