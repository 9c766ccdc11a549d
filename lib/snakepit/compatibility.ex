defmodule Snakepit.Compatibility do
  @moduledoc """
  What is known of the thread safety of Python libraries, for the choice
  between the profiles `:process` and `:thread`.

  In the process profile each worker has one thread, so that every library is
  safe there. The table is a hint, made from the libraries' own documentation;
  it does not look at what is installed.

  Where it says that a library releases the GIL, its threads compute at the same
  time in any Python. In a free-threaded one all threads do, unless a library has
  switched the GIL on because it needs it: a worker's metadata tell
  (`:free_threaded` in `Snakepit.Pool.Registry.get_worker_metadata/1`). What is not
  safe in threads is less so there.

      iex> {:ok, _} = Snakepit.Compatibility.check("numpy", :thread)
      iex> {:error, text} = Snakepit.Compatibility.check(:pandas, :thread)
      iex> text
      "pandas is not thread-safe: a DataFrame must not be changed while another thread reads it"
  """

  @type thread_safety :: true | false | :conditional
  @type library_info :: %{thread_safe: thread_safety, notes: String.t()}
  @type profile :: :thread | :process

  @libraries %{
    "numpy" => {true, "most operations release the GIL; do not change an array that others read"},
    "scipy" => {true, "most operations release the GIL"},
    "torch" => {true, "inference is safe; set torch.set_num_threads/1 to the pool's share"},
    "tensorflow" => {true, "graphs and functions may run in several threads"},
    "jax" => {true, "compiled functions may run in several threads"},
    "scikit-learn" => {true, "predict is safe; fit one estimator in one thread only"},
    "xgboost" => {true, "predict is safe since 1.3"},
    "transformers" => {true, "inference is safe; give each thread a tokenizer of its own"},
    "requests" => {true, "give each thread a Session of its own"},
    "httpx" => {true, "a Client may be shared by threads"},
    "polars" => {true, "it has threads of its own and releases the GIL"},
    "pyarrow" => {true, "data cannot be changed, and the GIL is released"},
    "pydantic" => {true, "models have no shared state"},
    "orjson" => {true, "it has no shared state"},
    "pillow" => {true, "use an image in one thread only"},
    "lightgbm" => {:conditional, "predict is safe, training is not"},
    "opencv-python" => {:conditional, "functions are safe; windows and captures are not"},
    "spacy" => {:conditional, "reading is safe; do not change a pipeline that is in use"},
    "nltk" => {:conditional, "load corpora before threads start: they are loaded lazily"},
    "sqlalchemy" => {:conditional, "an Engine may be shared, a Session may not"},
    "psycopg2" => {:conditional, "a connection may be shared, a cursor may not"},
    "redis" => {:conditional, "a client may be shared, a pipeline may not"},
    "boto3" => {:conditional, "a client may be shared, a Session or resource may not"},
    "h5py" => {:conditional, "one lock serializes all access to files"},
    "networkx" => {:conditional, "do not change a graph that others read"},
    "pandas" => {false, "a DataFrame must not be changed while another thread reads it"},
    "matplotlib" => {false, "pyplot keeps one global figure; backends want the main thread"},
    "sqlite3" => {false, "a connection belongs to the thread that opened it"},
    "seaborn" => {false, "it draws with matplotlib.pyplot"},
    "tkinter" => {false, "it belongs to the main thread"},
    "pygame" => {false, "it belongs to the main thread"}
  }

  # Names of modules whose package has another name.
  @names %{
    "sklearn" => "scikit-learn",
    "cv2" => "opencv-python",
    "pil" => "pillow",
    "pytorch" => "torch",
    "arrow" => "pyarrow",
    "psycopg2-binary" => "psycopg2"
  }

  @doc """
  Whether `library` may be used in `profile`: `:ok`, a `:warning` where it depends
  on the use or is not known, an `:error` where it is not safe.
  """
  @spec check(String.t() | atom, profile) ::
          {:ok, String.t()} | {:warning, String.t()} | {:error, String.t()}
  def check(library, :process) do
    {:ok, "#{library} is safe in the process profile: a worker has one thread"}
  end

  def check(library, :thread) do
    case get_library_info(library) do
      nil ->
        {:warning, "the thread safety of #{library} is not known: test it, or use :process"}

      %{thread_safe: true, notes: notes} ->
        {:ok, "#{library} is thread-safe: #{notes}"}

      %{thread_safe: :conditional, notes: notes} ->
        {:warning, "#{library} is thread-safe in part: #{notes}"}

      %{thread_safe: false, notes: notes} ->
        {:error, "#{library} is not thread-safe: #{notes}"}
    end
  end

  @doc """
  What is known of a library, or nil.

      iex> Snakepit.Compatibility.get_library_info("sklearn").thread_safe
      true
      iex> Snakepit.Compatibility.get_library_info("no such thing")
      nil
  """
  @spec get_library_info(String.t() | atom) :: library_info | nil
  def get_library_info(library) do
    name = library |> to_string() |> String.downcase() |> String.replace("_", "-")

    case Map.get(@libraries, Map.get(@names, name, name)) do
      nil -> nil
      {thread_safe, notes} -> %{thread_safe: thread_safe, notes: notes}
    end
  end

  @doc """
  The names of the libraries that are known.

      iex> "matplotlib" in Snakepit.Compatibility.list_all(:thread_unsafe)
      true
  """
  @spec list_all(:thread_safe | :thread_unsafe | :conditional | :all) :: [String.t()]
  def list_all(:all), do: @libraries |> Map.keys() |> Enum.sort()
  def list_all(:thread_safe), do: named(true)
  def list_all(:thread_unsafe), do: named(false)
  def list_all(:conditional), do: named(:conditional)

  defp named(safety) do
    Enum.sort(for {name, {^safety, _notes}} <- @libraries, do: name)
  end

  @doc """
  `check/2` of several libraries: `:compatible`, `:warnings` and `:errors` are
  maps of what it says by library, `:safe?` whether there are no errors.

      iex> {:ok, report} = Snakepit.Compatibility.generate_report(["numpy", "pandas"], :thread)
      iex> {report.safe?, Map.keys(report.compatible), Map.keys(report.errors)}
      {false, ["numpy"], ["pandas"]}
  """
  @spec generate_report([String.t() | atom], profile) :: {:ok, map} | {:error, term}
  def generate_report(libraries, profile)
      when is_list(libraries) and profile in [:thread, :process] do
    if Enum.all?(libraries, &(is_binary(&1) or is_atom(&1))) do
      found = Enum.map(libraries, &{to_string(&1), check(&1, profile)})
      of = fn kind -> for {name, {^kind, text}} <- found, into: %{}, do: {name, text} end
      errors = of.(:error)

      {:ok,
       %{
         profile: profile,
         total: length(found),
         compatible: of.(:ok),
         warnings: of.(:warning),
         errors: errors,
         safe?: errors == %{}
       }}
    else
      {:error, {:invalid_libraries, libraries}}
    end
  end

  def generate_report(libraries, profile) when is_list(libraries),
    do: {:error, {:invalid_profile, profile}}

  def generate_report(libraries, _profile), do: {:error, {:invalid_libraries, libraries}}
end
