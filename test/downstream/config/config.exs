import Config

# The pools come from Downstream.Config, when the script or the tests begin.
config :snakepit,
  pooling_enabled: false,
  log_level: :error

config :downstream, runtime_client: Snakepit
