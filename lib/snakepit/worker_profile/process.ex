defmodule Snakepit.WorkerProfile.Process do
  @moduledoc """
  One call at a time in each OS process: a crash costs one call, and math
  libraries use one thread. The profile `:process`, which is the default.

  With the pool's option `concurrency` a worker gets several calls at a time, for
  tools that are coroutines; see the guide on concurrency.
  """

  use Snakepit.WorkerProfile.Common, profile: :process, worker_type: "single-process"
end
