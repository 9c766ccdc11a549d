"""Tools by name: which exist, and how they get their arguments."""

from __future__ import annotations

import types
from typing import Any

import pytest

from snakepit_bridge import BaseAdapter, SessionContext, tool
from snakepit_bridge.dispatch import find_tool, is_stream, tool_names
from snakepit_bridge.errors import ToolArgumentError, ToolStreamsError, UnknownToolError


class Adapter(BaseAdapter):
    @tool
    def params(self, params: Any) -> Any:
        return params

    @tool
    def typed(self, given: dict[str, Any]) -> Any:
        return given

    @tool
    def named(self, a: int, b: int = 2, *, c: int = 3) -> Any:
        return [a, b, c]

    @tool
    def anything(self, **arguments: Any) -> Any:
        return arguments

    @tool
    def with_context(self, context: Any, x: int) -> Any:
        return [context.session_id, x]

    @tool
    def context_argument(self, text: str, context: str) -> Any:
        return [text, context]

    @tool("streams", supports_streaming=True)
    def sends(self, stream: Any, n: int) -> Any:
        for i in range(n):
            stream.append(i)

    @tool
    def stream_argument(self, stream: str) -> Any:
        return stream

    @tool
    @staticmethod
    def static(x: int) -> Any:
        return x

    @tool
    def execute_marked(self) -> Any:
        return "marked"

    async def execute_command(self, args: Any) -> Any:
        return args

    def ctx_first(self, ctx: Any, x: int) -> Any:
        return [ctx.session_id, x]

    def hidden(self) -> Any:
        return "hidden"

    def _private(self, ctx: Any) -> Any:
        return "private"

    @property
    def computed(self) -> Any:
        raise AssertionError("must not be touched")


CONTEXT = SessionContext(None, "s1")


def call(name: str, **arguments: Any) -> Any:
    return find_tool(Adapter(), name).call(arguments, CONTEXT)


def test_names() -> None:
    assert tool_names(Adapter()) == [
        "anything",
        "command",
        "context_argument",
        "ctx_first",
        "execute_marked",
        "named",
        "params",
        "sends",
        "static",
        "stream_argument",
        "typed",
        "with_context",
    ]


def test_styles() -> None:
    assert call("params", a=1, b=2) == {"a": 1, "b": 2}
    assert call("params", params=5) == 5
    assert call("typed", x=1) == {"x": 1}
    assert call("named", a=1, c=9) == [1, 2, 9]
    assert call("anything", x=1) == {"x": 1}
    assert call("with_context", x=1) == ["s1", 1]
    assert call("context_argument", text="t", context="c") == ["t", "c"]
    assert call("ctx_first", x=2) == ["s1", 2]
    assert call("stream_argument", stream="s") == "s"
    assert call("static", x=3) == 3


def test_streaming_by_declaration() -> None:
    sends = find_tool(Adapter(), "sends")
    assert sends.streaming
    got: list[int] = []
    sends.call({"n": 2}, CONTEXT, got)
    assert got == [0, 1]
    with pytest.raises(ToolStreamsError, match="'sends' streams"):
        sends.call({"n": 2}, CONTEXT)
    assert not find_tool(Adapter(), "named").streaming


def test_what_counts_as_a_stream() -> None:
    assert is_stream(iter([1]))
    assert is_stream(x for x in ())
    for value in ("abc", [1], {"a": 1}, (1,), {1}, range(3), b"", None, 5):
        assert not is_stream(value)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ToolArgumentError, match=r"needs the argument 'a'; given: b$"):
        call("named", b=1)
    with pytest.raises(ToolArgumentError, match=r"not take the arguments 'x', 'y'; it takes: a"):
        call("named", a=1, x=1, y=2)


@pytest.mark.parametrize(
    "name",
    ["hidden", "_private", "__class__", "computed", "marked", "execute_tool", "cleanup", ""],
)
def test_what_is_no_tool(name: str) -> None:
    with pytest.raises(UnknownToolError):
        find_tool(Adapter(), name)


def test_suggestions() -> None:
    with pytest.raises(UnknownToolError, match="did you mean 'named'"):
        find_tool(Adapter(), "nmaed")
    with pytest.raises(UnknownToolError, match="it has: anything, command"):
        find_tool(Adapter(), "zzzzzz")
    with pytest.raises(UnknownToolError, match="mark its methods with @tool"):
        find_tool(BaseAdapter(), "x")


class Plain:
    """No family, no marks: its public methods are its tools."""

    def set_session_context(self, context: Any) -> None:
        raise AssertionError

    def greet(self, ctx: Any, name: str) -> str:
        return f"{ctx.session_id} {name}"


def test_plain_classes() -> None:
    assert tool_names(Plain()) == ["greet"]
    assert find_tool(Plain(), "greet").call({"name": "x"}, CONTEXT) == "s1 x"


def test_modules() -> None:
    module = types.ModuleType("made_up")
    source = "from os.path import join\ndef double(x):\n    return x * 2\n"
    exec(source, module.__dict__)
    assert tool_names(module) == ["double"]
    module.__dict__["only"] = tool(lambda: 1)
    assert tool_names(module) == ["only"]


def test_base_adapter() -> None:
    adapter = Adapter()
    assert adapter.session_id is None
    adapter.set_session_context(CONTEXT)
    assert adapter.session_id == "s1"
    assert adapter.execute_tool("named", {"a": 1}, CONTEXT) == [1, 2, 3]
    assert adapter.call_tool("named", a=5) == [5, 2, 3]
    with pytest.raises(AttributeError):
        adapter.call_tool("none")
    with pytest.raises(TypeError):
        Adapter.call_tool(types.SimpleNamespace(x=1), "x")  # type: ignore[arg-type]


@pytest.mark.parametrize("lifetime", ["request", "session", "process", 30])
def test_the_context_may_be_set_in_any_way(lifetime: Any) -> None:
    class Own(BaseAdapter):
        def __init__(self) -> None:
            super().__init__()
            self.session_context = None

        def set_session_context(self, session_context: Any) -> None:
            self.session_context = session_context

    Own.lifetime = lifetime
    adapter = Own()
    assert adapter.session_id is None
    adapter.set_session_context(CONTEXT)
    assert adapter.session_context is CONTEXT
    assert adapter.session_id == "s1"
    adapter.session_context = None
    assert adapter.session_id is None


def test_tool_metadata() -> None:
    @tool(required_variables=["v"])
    def documented() -> None:
        """What it does."""

    metadata = documented._tool_metadata  # type: ignore[attr-defined]
    assert metadata.description == "What it does."
    assert metadata.required_variables == ["v"]
    assert metadata.parameters == []
    assert not metadata.supports_streaming


def test_registrations(proto_path: str) -> None:
    adapter = Adapter()
    by_name = {registration.name: registration for registration in adapter.get_tools()}
    assert sorted(by_name) == tool_names(adapter)
    named = by_name["named"]
    assert [(p.name, p.required, p.validation_json) for p in named.parameters] == [
        ("a", True, ""),
        ("b", False, '{"default": 2}'),
        ("c", False, '{"default": 3}'),
    ]
    assert named.metadata["adapter_class"] == "Adapter"
    assert by_name["sends"].supports_streaming
    assert by_name["sends"].description == "streams"
    assert [p.name for p in by_name["ctx_first"].parameters] == ["x"]


class Registry:
    """Stands for the BEAM."""

    def __init__(self, success: bool, error: str = "") -> None:
        self.success = success
        self.error = error
        self.request: Any = None

    def RegisterTools(self, request: Any) -> Any:
        import snakepit_bridge_pb2 as pb2

        self.request = request
        ids = {t.name: f"{request.session_id}:{t.name}" for t in request.tools}
        return pb2.RegisterToolsResponse(
            success=self.success, tool_ids=ids if self.success else {}, error_message=self.error
        )


def test_register_with_session(proto_path: str) -> None:
    import asyncio

    adapter = Adapter()
    names = tool_names(adapter)
    assert sorted(adapter.register_with_session("s", Registry(True))) == names
    assert adapter.register_with_session("s", Registry(False, "duplicate_tool: x")) == names
    assert adapter.register_with_session("s", Registry(False, "not_found")) == []
    assert adapter.register_with_session("s", None) == []
    result = asyncio.run(adapter.register_with_session_async("s", Registry(True)))
    assert sorted(result) == names
