defmodule Snakepit.Bridge.SessionTest do
  use ExUnit.Case, async: true

  alias Snakepit.Bridge.Session

  doctest Session

  test "a new session" do
    session = Session.new("s")

    assert %Session{id: "s", ttl: 3600, metadata: %{}, programs: %{}, last_worker_id: nil} =
             session

    assert session.created_at == session.last_accessed
    assert :ok = Session.validate(session)
    assert %{stats: %{program_count: 1}} = Session.new("s", programs: %{a: 1})
  end

  test "validate says which field is wrong" do
    session = Session.new("s")
    assert {:error, :invalid_id} = Session.validate(%{session | id: ""})
    assert {:error, :invalid_id} = Session.validate(%{session | id: :s})
    assert {:error, :invalid_id} = Session.validate(%{session | id: <<255>>})
    assert {:error, :invalid_ttl} = Session.validate(%{session | ttl: -1})
    assert {:error, :invalid_ttl} = Session.validate(%{session | ttl: 1.5})
    assert {:error, :invalid_metadata} = Session.validate(%{session | metadata: []})
    assert {:error, :invalid_programs} = Session.validate(%{session | programs: nil})
    assert {:error, :invalid_created_at} = Session.validate(%{session | created_at: nil})
    assert {:error, :invalid_last_accessed} = Session.validate(%{session | last_accessed: 1.0})
    assert {:error, :not_a_session} = Session.validate(%{})
  end

  test "it expires when its ttl has passed since its last use" do
    session = Session.new("s", ttl: 10)
    refute Session.expired?(session)
    refute Session.expired?(session, session.last_accessed + 9)
    assert Session.expired?(session, session.last_accessed + 10)
    assert Session.expired?(Session.new("s", ttl: 0))

    old = %{session | last_accessed: session.last_accessed - 100}
    assert Session.expired?(old)
    refute old |> Session.touch() |> Session.expired?()
  end

  test "metadata" do
    session = Session.new("s") |> Session.put_metadata(:a, 1) |> Session.put_metadata("b", nil)
    assert Session.get_metadata(session, :a) == 1
    assert Session.get_metadata(session, "b", :default) == nil
    assert Session.get_metadata(session, :c) == nil
    assert Session.get_metadata(session, :c, :default) == :default
  end

  test "programs are counted" do
    session = Session.new("s") |> Session.put_program("p", :one) |> Session.put_program("q", nil)
    assert {:ok, :one} = Session.get_program(session, "p")
    assert {:ok, nil} = Session.get_program(session, "q")
    assert {:error, :not_found} = Session.get_program(session, "r")
    assert %{program_count: 2, metadata_count: 0, session_age: age} = Session.get_stats(session)
    # In seconds, of which one may be over in between.
    assert age in 0..600
    assert %{program_count: 1} = session |> Session.delete_program("p") |> Session.get_stats()
  end
end
