defmodule Snakepit.GRPCMessageTest do
  use ExUnit.Case, async: true

  alias Snakepit.Native
  alias Snakepit.Test.Interop

  defp again(name, map) do
    {:ok, bytes} = Native.message_encode(name, map)
    {:ok, decoded} = Native.message_decode(name, bytes)
    decoded
  end

  test "every message of the protos is known" do
    protos = Path.wildcard(Path.expand("../../proto/**/*.proto", __DIR__))
    assert length(protos) == 4

    for proto <- protos, [_, name] <- Regex.scan(~r/^message (\w+)/m, File.read!(proto)) do
      atom = String.to_atom(name)
      assert {:ok, ""} = Native.message_encode(atom, %{})
      assert {:ok, %{} = map} = Native.message_decode(atom, "")
      assert {:ok, ""} = Native.message_encode(atom, map)
    end
  end

  test "defaults" do
    assert {:ok,
            %{
              success: false,
              result: nil,
              error_message: "",
              metadata: metadata,
              execution_time_ms: 0,
              binary_result: ""
            }} = Native.message_decode(:ExecuteToolResponse, "")

    assert metadata == %{}
    assert Native.message_decode(:TelemetryValue, "") == {:ok, %{}}
    assert Native.message_decode(:TelemetryToggle, "") == {:ok, %{enabled: false}}
  end

  test "known bytes, both ways" do
    map = %{
      session_id: "s",
      tool_name: "t",
      parameters: %{"a" => %{type_url: "u", value: "1"}},
      metadata: %{},
      stream: true,
      binary_parameters: %{}
    }

    bytes = <<10, 1, "s", 18, 1, "t", 26, 11, 10, 1, "a", 18, 6, 10, 1, "u", 18, 1, "1", 40, 1>>

    assert Native.message_encode(:ExecuteToolRequest, map) == {:ok, bytes}
    assert {:ok, decoded} = Native.message_decode(:ExecuteToolRequest, bytes)
    assert Map.take(decoded, Map.keys(map)) == map
  end

  test "numbers at their limits" do
    for ms <- [0, 1, -1, 0x7FFFFFFFFFFFFFFF, -0x8000000000000000],
        do:
          assert(
            %{execution_time_ms: ^ms} = again(:ExecuteToolResponse, %{execution_time_ms: ms})
          )

    for n <- [0x7FFFFFFF, -0x80000000],
        do: assert(%{tool_count: ^n} = again(:GetSessionResponse, %{tool_count: n}))

    for x <- [1.5, -0.0, 1.0e300, :nan, :infinity, :neg_infinity],
        do: assert(%{sampling_rate: ^x} = again(:TelemetrySamplingUpdate, %{sampling_rate: x}))

    assert %{sampling_rate: 2.0} = again(:TelemetrySamplingUpdate, %{sampling_rate: 2})
  end

  test "oneofs" do
    assert again(:TelemetryValue, %{int_value: 0}) == %{int_value: 0}
    assert again(:TelemetryValue, %{string_value: ""}) == %{string_value: ""}
    assert again(:TelemetryValue, %{float_value: 0.0, int_value: nil}) == %{float_value: 0.0}
    assert again(:TelemetryControl, %{filter: %{}}) == %{filter: %{allow: [], deny: []}}

    # The last on the wire counts.
    {:ok, first} = Native.message_encode(:TelemetryControl, %{toggle: %{enabled: true}})
    {:ok, second} = Native.message_encode(:TelemetryControl, %{sampling: %{sampling_rate: 0.5}})

    assert {:ok, %{sampling: %{sampling_rate: 0.5}} = only} =
             Native.message_decode(:TelemetryControl, first <> second)

    assert map_size(only) == 1
  end

  test "structs are maps" do
    assert {:ok, <<8, 1>>} =
             Native.message_encode(:TelemetryToggle, %{__struct__: Toggle, enabled: true})
  end

  test "what cannot be encoded is named" do
    encode = &Native.message_encode(&1, &2)

    assert {:error, {:encode, [:message], "is not a binary"}} =
             encode.(:PingRequest, %{message: 1})

    assert {:error, {:encode, [:message], "is not UTF-8"}} =
             encode.(:PingRequest, %{message: <<255>>})

    assert {:error, {:encode, [:nope], "is no field of the message"}} =
             encode.(:PingRequest, %{nope: 1})

    assert {:error, {:encode, [], "is not a map"}} = encode.(:PingRequest, [])

    assert {:error, {:encode, [:parameters, 1, :required], "is not a boolean"}} =
             encode.(:ToolSpec, %{parameters: [%{}, %{required: "yes"}]})

    assert {:error, {:encode, [:metadata, "k"], "is not a binary"}} =
             encode.(:ToolSpec, %{metadata: %{"k" => 1}})

    assert {:error, {:encode, [:metadata], "has a key that is not text"}} =
             encode.(:ToolSpec, %{metadata: %{1 => "v"}})

    assert {:error, {:encode, [:parameters], "is not a list"}} =
             encode.(:ToolSpec, %{parameters: %{}})

    assert {:error, {:encode, [:metadata], "is not a map"}} = encode.(:ToolSpec, %{metadata: []})

    assert {:error, {:encode, [:tool_count], "is out of range"}} =
             encode.(:GetSessionResponse, %{tool_count: 0x80000000})

    assert {:error, {:encode, [:tool_count], "is not an integer of 64 bits"}} =
             encode.(:GetSessionResponse, %{tool_count: 1.0})

    assert {:error, {:encode, [:filter], "excludes another one that is there"}} =
             encode.(:TelemetryControl, %{toggle: %{}, filter: %{}})

    assert_raise ArgumentError, fn -> encode.(:NoSuchMessage, %{}) end
    assert_raise ArgumentError, fn -> encode.(:ToolSpec_MetadataEntry, %{}) end
    assert_raise ArgumentError, fn -> encode.("PingRequest", %{}) end
  end

  test "what cannot be decoded is named" do
    decode = &Native.message_decode(&1, &2)

    assert {:error, {:decode, "PingRequest.message is not UTF-8"}} =
             decode.(:PingRequest, <<10, 1, 255>>)

    assert {:error, {:decode, "PingRequest.message ends too early"}} =
             decode.(:PingRequest, <<10, 9, 1>>)

    assert {:error, {:decode, "PingRequest.message has the wrong wire type"}} =
             decode.(:PingRequest, <<8, 1>>)

    assert {:error, {:decode, "Timestamp.nanos ends too early"}} =
             decode.(:PingResponse, <<18, 2, 16, 0x80>>)

    assert_raise ArgumentError, fn -> decode.(:NoSuchMessage, "") end
    assert_raise ArgumentError, fn -> decode.(:PingRequest, :none) end
  end

  test "big values keep the schedulers free and their bytes" do
    big = :binary.copy(<<0, 1, 2, 3>>, 5_000_000)
    map = %{success: true, binary_result: big, metadata: %{"k" => "v"}}
    assert %{binary_result: ^big, metadata: %{"k" => "v"}} = again(:ExecuteToolResponse, map)
  end

  test "no atom comes from the wire" do
    key = "atom-#{System.unique_integer([:positive])}-#{System.os_time()}"
    again(:ToolSpec, %{name: key, metadata: %{key => key}})
    assert_raise ArgumentError, fn -> String.to_existing_atom(key) end
  end

  test "random bytes are refused or understood, never worse" do
    :rand.seed(:exsss, {1, 2, 3})

    for _ <- 1..5_000, name <- [:ExecuteToolRequest, :TelemetryControl, :RegisterToolsRequest] do
      bytes = :rand.bytes(:rand.uniform(40))

      case Native.message_decode(name, bytes) do
        {:ok, map} -> assert {:ok, _} = Native.message_encode(name, map)
        {:error, {:decode, text}} -> assert is_binary(text)
      end
    end
  end

  # ---- against Python's protobuf ------------------------------------------

  test "what Python writes is read as it is meant, and written back the same" do
    {lines, 0} = Interop.python("codec.py", ["make", 40, 20_240_517])
    lines = String.split(lines, "\n", trim: true)
    assert length(lines) > 1000

    answers =
      for line <- lines do
        {:ok, %{"name" => name, "bytes" => bytes, "says" => says}} = Native.json_decode(line)
        atom = String.to_existing_atom(name)
        {:ok, map} = Native.message_decode(atom, Base.decode64!(bytes))
        assert map == meant(says)
        {:ok, theirs} = Native.message_encode(atom, map)

        {:ok, answer} =
          Native.json_encode(%{name: name, bytes: bytes, theirs: Base.encode64(theirs)})

        [answer, "\n"]
      end

    path = Path.join(System.tmp_dir!(), "snakepit-codec-#{System.pid()}-#{System.os_time()}")
    on_exit(fn -> File.rm(path) end)
    File.write!(path, answers)
    assert {said, 0} = Interop.python("codec.py", ["check", path])
    assert said == "#{length(lines)} messages\n"
  end

  defp meant(%{"b64" => text}), do: Base.decode64!(text)
  defp meant(%{"atom" => name}), do: String.to_existing_atom(name)
  defp meant(%{"msg" => fields}), do: meant(fields)

  defp meant(%{"map" => pairs}),
    do: Map.new(pairs, fn [key, value] -> {meant(key), meant(value)} end)

  defp meant(%{} = fields),
    do: Map.new(fields, fn {key, value} -> {String.to_existing_atom(key), meant(value)} end)

  defp meant(list) when is_list(list), do: Enum.map(list, &meant/1)
  defp meant(other), do: other
end
