defmodule Snakepit.WorkerProfile.Thread do
  @moduledoc """
  Few OS processes, each of which runs `threads_per_worker` calls at a time, in
  threads. The profile `:thread`; the adapter has to be a `ThreadSafeAdapter`.

  How many calls a worker gets at a time, see `capacity_strategy` in the guide on
  workers.
  """

  use Snakepit.WorkerProfile.Common, profile: :thread, worker_type: "multi-threaded"
end
