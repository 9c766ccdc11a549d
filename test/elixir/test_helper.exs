# Free-threaded Pythons are rare: their tests run where one is named.
free_threaded = "SNAKEPIT_TEST_FREE_THREADED_PYTHON"

exclude =
  if System.get_env(free_threaded, "") == "" do
    IO.puts("Tests of free-threaded Python are left out: #{free_threaded} names none")
    [:free_threaded]
  else
    []
  end

# What code under test logs is shown for failing tests only. The limits are for
# what hangs: a machine that others use may stand still for seconds.
ExUnit.start(
  capture_log: true,
  exclude: exclude,
  assert_receive_timeout: 60_000,
  timeout: 300_000
)
