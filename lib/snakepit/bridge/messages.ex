# One module for each message: see Snakepit.Bridge.Message.
proto = Path.expand("../../../proto/snakepit_bridge.proto", __DIR__)

for {name, fields} <- Snakepit.Bridge.Proto.messages(File.read!(proto)) do
  contents =
    quote do
      @external_resource unquote(proto)
      unquote(Snakepit.Bridge.Message.module(name, fields))
    end

  Module.create(Module.concat(Snakepit.Bridge, name), contents, Macro.Env.location(__ENV__))
end
