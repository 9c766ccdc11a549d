defmodule Snakepit.RetryPolicy do
  @moduledoc """
  When to try again, and how long to wait before it.

  A policy is plain data: it starts nothing and waits for nothing. Attempts are
  counted from 1, as in `backoff_for_attempt/2`.

      iex> policy = Snakepit.RetryPolicy.new(max_attempts: 3)
      iex> Enum.map(1..3, &Snakepit.RetryPolicy.backoff_for_attempt(policy, &1))
      [100, 200, 400]
      iex> Snakepit.RetryPolicy.should_retry?(policy, 2)
      true
      iex> Snakepit.RetryPolicy.should_retry?(policy, 3)
      false
  """

  alias Snakepit.{Defaults, Error}

  # What may well go better a moment later. The documents speak of "common
  # errors" and do not list them: these are the ones that Snakepit itself and
  # gRPC return for such cases.
  @common [
    :timeout,
    :unavailable,
    :connection_refused,
    :connection_lost,
    :worker_busy,
    :worker_crash,
    :worker_exit,
    :pool_saturated,
    :queue_timeout,
    :econnrefused
  ]

  @enforce_keys [:max_attempts]
  defstruct max_attempts: nil,
            backoff_ms: [],
            base_backoff_ms: 100,
            backoff_multiplier: 2.0,
            max_backoff_ms: 30_000,
            jitter: false,
            jitter_factor: 0.25,
            retriable_errors: @common

  @typedoc """
  - `max_attempts`: how often a call is made in all
  - `backoff_ms`: waits after the first, second, ... attempt, in ms
  - `base_backoff_ms`, `backoff_multiplier`: after the end of that list each
    wait is the one before times the multiplier; with an empty list they begin
    at the base
  - `max_backoff_ms`: no wait is longer
  - `jitter`: spread each wait by up to `jitter_factor` of it, both ways, so
    that callers that failed together do not come back together
  - `retriable_errors`: reasons, or `:all`
  """
  @type t :: %__MODULE__{
          max_attempts: pos_integer,
          backoff_ms: [non_neg_integer],
          base_backoff_ms: non_neg_integer,
          backoff_multiplier: float,
          max_backoff_ms: non_neg_integer,
          jitter: boolean,
          jitter_factor: float,
          retriable_errors: [atom] | :all
        }

  @doc """
  A policy. Options are the fields; what is not given comes from the
  configuration (`retry_max_attempts`, `retry_backoff_sequence`,
  `retry_base_backoff_ms`, `retry_backoff_multiplier`, `retry_max_backoff_ms`,
  `retry_jitter_factor`). Raises `ArgumentError` for a value out of range;
  options that it does not know are ignored.
  """
  @spec new(keyword | map) :: t
  def new(opts \\ []) do
    fields =
      Map.merge(
        %{
          max_attempts: Defaults.retry_max_attempts(),
          backoff_ms: Defaults.retry_backoff_sequence(),
          base_backoff_ms: Defaults.retry_base_backoff_ms(),
          backoff_multiplier: Defaults.retry_backoff_multiplier(),
          max_backoff_ms: Defaults.retry_max_backoff_ms(),
          jitter_factor: Defaults.retry_jitter_factor()
        },
        opts |> Map.new() |> known()
      )

    Enum.each(fields, &check/1)
    struct!(__MODULE__, fields)
  end

  @doc "Whether another attempt is left after so many were made."
  @spec should_retry?(t, non_neg_integer) :: boolean
  def should_retry?(%__MODULE__{max_attempts: max}, attempt) when is_integer(attempt),
    do: attempt < max

  @doc """
  Whether a result is an error worth another attempt. Understands
  `{:error, reason}`, `{:error, {reason, _details}}`, a `%Snakepit.Error{}` (by
  its category, its `grpc_status` and its `details.reason`) and a bare reason. A
  success is never retried.

      iex> policy = Snakepit.RetryPolicy.new([])
      iex> Snakepit.RetryPolicy.retry_for_error?(policy, {:error, :timeout})
      true
      iex> Snakepit.RetryPolicy.retry_for_error?(policy, {:error, :invalid_argument})
      false
      iex> Snakepit.RetryPolicy.retry_for_error?(policy, {:ok, :timeout})
      false
  """
  @spec retry_for_error?(t, term) :: boolean
  def retry_for_error?(_policy, :ok), do: false
  def retry_for_error?(_policy, ok) when is_tuple(ok) and elem(ok, 0) == :ok, do: false
  def retry_for_error?(%__MODULE__{retriable_errors: :all}, _error), do: true
  def retry_for_error?(policy, {:error, reason}), do: retriable?(policy, reason)
  def retry_for_error?(policy, reason), do: retriable?(policy, reason)

  defp retriable?(policy, %Error{category: category, grpc_status: status, details: details}) do
    reason = if is_map(details), do: Map.get(details, :reason)

    category in policy.retriable_errors or
      (status != nil and status in policy.retriable_errors) or retriable?(policy, reason)
  end

  defp retriable?(policy, reason) when is_tuple(reason) and tuple_size(reason) > 0,
    do: retriable?(policy, elem(reason, 0))

  defp retriable?(policy, reason), do: is_atom(reason) and reason in policy.retriable_errors

  @doc "How many ms to wait after the attempt with this number, the first being 1."
  @spec backoff_for_attempt(t, pos_integer) :: non_neg_integer
  def backoff_for_attempt(%__MODULE__{} = policy, attempt)
      when is_integer(attempt) and attempt > 0 do
    policy |> planned(attempt) |> min(policy.max_backoff_ms) |> spread(policy)
  end

  defp planned(policy, attempt) do
    listed = length(policy.backoff_ms)

    if attempt <= listed,
      do: Enum.at(policy.backoff_ms, attempt - 1),
      else: continued(policy, List.last(policy.backoff_ms), attempt - listed)
  end

  defp continued(policy, nil, further), do: grown(policy, policy.base_backoff_ms, further - 1)
  defp continued(policy, last, further), do: grown(policy, last, further)

  # By steps and no further than the cap: a power would overflow a float.
  defp grown(_policy, wait, 0), do: round(wait)
  defp grown(%{max_backoff_ms: max}, wait, _steps) when wait >= max, do: max
  defp grown(%{backoff_multiplier: m}, wait, _steps) when wait == 0 or m == 1, do: round(wait)
  defp grown(policy, wait, steps), do: grown(policy, wait * policy.backoff_multiplier, steps - 1)

  defp spread(wait, %{jitter: false}), do: wait

  defp spread(wait, %{jitter_factor: factor, max_backoff_ms: max}) do
    offset = wait * factor * (2 * :rand.uniform() - 1)
    (wait + offset) |> round() |> max(0) |> min(max)
  end

  # ---- options ------------------------------------------------------------

  defp known(opts) do
    {known, others} = Map.split(opts, Map.keys(%__MODULE__{max_attempts: 1}))

    for {key, _value} <- others do
      Snakepit.Logger.debug(:general, fn ->
        "Snakepit.RetryPolicy knows no option #{inspect(key)}"
      end)
    end

    known
  end

  defp check({:max_attempts, n}) when is_integer(n) and n > 0, do: :ok
  defp check({:jitter, flag}) when is_boolean(flag), do: :ok
  defp check({:jitter_factor, x}) when is_number(x) and x >= 0 and x <= 1, do: :ok
  defp check({:backoff_multiplier, x}) when is_number(x) and x >= 1, do: :ok
  defp check({:retriable_errors, :all}), do: :ok

  defp check({key, ms})
       when key in [:base_backoff_ms, :max_backoff_ms] and is_integer(ms) and ms >= 0,
       do: :ok

  defp check({key, list} = option) when key in [:backoff_ms, :retriable_errors] do
    fits? = if key == :backoff_ms, do: &(is_integer(&1) and &1 >= 0), else: &is_atom/1
    if is_list(list) and Enum.all?(list, fits?), do: :ok, else: refuse(option)
  end

  defp check(option), do: refuse(option)

  @spec refuse({atom, term}) :: no_return
  defp refuse({key, value}) do
    raise ArgumentError,
          "Snakepit.RetryPolicy: #{inspect(key)} cannot be #{inspect(value)}; " <>
            allowed(key)
  end

  defp allowed(:max_attempts), do: "give a positive integer"
  defp allowed(:backoff_ms), do: "give a list of milliseconds"
  defp allowed(:retriable_errors), do: "give a list of atoms or :all"
  defp allowed(:jitter), do: "give true or false"
  defp allowed(:jitter_factor), do: "give a number from 0 to 1"
  defp allowed(:backoff_multiplier), do: "give a number of 1 or more"
  defp allowed(key) when key in [:base_backoff_ms, :max_backoff_ms], do: "give milliseconds"
end
