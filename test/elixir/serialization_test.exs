defmodule Snakepit.SerializationTest do
  use ExUnit.Case, async: true

  alias Snakepit.Serialization

  doctest Serialization

  test "only true marks" do
    for term <- [
          %{"__ffi_unserializable__" => "true"},
          %{"__ffi_unserializable__" => false},
          %{__ffi_unserializable__: true},
          %{},
          nil,
          "__ffi_unserializable__",
          [1]
        ] do
      refute Serialization.unserializable?(term)
      assert Serialization.unserializable_info(term) == :error
    end
  end

  test "a marker says its type and what it looks like, where these are texts" do
    marker = %{"__ffi_unserializable__" => true, "__type__" => "a.B", "__repr__" => "<B>"}
    assert Serialization.unserializable_info(marker) == {:ok, %{type: "a.B", repr: "<B>"}}

    odd = %{marker | "__type__" => 1, "__repr__" => ["<B>"]}
    assert Serialization.unserializable_info(odd) == {:ok, %{type: nil, repr: nil}}
  end
end
