# What tests of these need is rare or large: they run where an interpreter is named.
rare = [
  free_threaded: {"free-threaded Python", "SNAKEPIT_TEST_FREE_THREADED_PYTHON"},
  torch: {"PyTorch", "SNAKEPIT_TEST_TORCH_PYTHON"}
]

exclude =
  for {tag, {what, variable}} <- rare, System.get_env(variable, "") == "" do
    IO.puts("Tests of #{what} are left out: #{variable} names none")
    tag
  end

# What code under test logs is shown for failing tests only. The limits are for
# what hangs: a machine that others use may stand still for seconds.
ExUnit.start(
  capture_log: true,
  exclude: exclude,
  assert_receive_timeout: 60_000,
  timeout: 300_000
)

# scripts/jitter.sh
case System.get_env("SNAKEPIT_TEST_HOLD", "") do
  "" -> :ok
  holders -> Snakepit.Test.Holds.start(String.to_integer(holders))
end
