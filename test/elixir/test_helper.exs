# What code under test logs is shown for failing tests only.
ExUnit.start(capture_log: true)
