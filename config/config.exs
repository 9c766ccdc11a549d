import Config

# Read for the project itself only, never for applications that depend on it.
config :logger, level: :warning
