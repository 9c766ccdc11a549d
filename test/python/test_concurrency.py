"""Several calls at a time in one process: coroutines in one loop, threads beside it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Callable

import grpc
import pytest
from harness import PATIENCE, ToolFailed, Worker, values_of, wait_until
from local_peer import LocalWorker, chunk_value
from test_local import Start, cancelled, extension, start  # noqa: F401
from test_local_requests import asked

from snakepit_bridge import _values

ADAPTER = "concurrent_tools:ConcurrentTools"


class Local:
    """The worker behind shared memory."""

    def __init__(self, worker: LocalWorker) -> None:
        self.worker = worker

    def begin(self, tool: str, session: str = "session_1", **arguments: Any) -> Any:
        return self.worker.start(tool, arguments, session=session)

    def value(self, call: Any) -> Any:
        return self.worker.value(call)

    def cancel(self, call: Any) -> None:
        """Returns when the call is over."""
        self.worker.cancel(call)
        cancelled(self.worker, call)

    def items(self, tool: str, **arguments: Any) -> Any:
        return self.worker.items(tool, arguments)

    def call(self, tool: str, metadata: Any = None, **arguments: Any) -> Any:
        return self.worker.call(tool, arguments, metadata=metadata)


class Grpc:
    """The same over gRPC."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.begun = 0

    def begin(self, tool: str, session: str = "session_1", **arguments: Any) -> Any:
        self.begun += 1
        name = f"call {self.begun}"
        return name, self.worker.start(tool, arguments, call_id=name, session=session)

    def value(self, call: Any) -> Any:
        reply = call[1].result(PATIENCE)
        if not reply.success:
            raise ToolFailed(reply.error_message)
        return _values.loads(reply.result.value)

    def cancel(self, call: Any) -> None:
        call[1].cancel()
        self.worker.ping_when_over(call[0])

    def items(self, tool: str, **arguments: Any) -> Any:
        return values_of(self.worker.stream(tool, arguments))

    def call(self, tool: str, metadata: Any = None, **arguments: Any) -> Any:
        return self.worker.call(tool, arguments, metadata=metadata)


Make = Callable[..., Any]


@pytest.fixture(params=["local", "grpc"])
def make(
    request: pytest.FixtureRequest,
    start: Start,  # noqa: F811
    start_worker: Callable[..., Any],
) -> Make:
    def made(*arguments: str, adapter: str = ADAPTER, **options: Any) -> Any:
        if request.param == "local":
            return Local(start(adapter, *arguments, **options))
        return Grpc(start_worker(adapter, *arguments, **options))

    return made


@pytest.fixture
def worker(make: Make) -> Any:
    return make("--concurrency", "8")


THREADS = ("--mode", "threaded", "--max-workers", "2")


@pytest.mark.parametrize("tool", ["meet", "meet_hidden"])
@pytest.mark.parametrize("options", [("--concurrency", "8"), THREADS])
def test_coroutines_run_at_the_same_time(make: Make, options: tuple[str, ...], tool: str) -> None:
    worker = make(*options)
    calls = [worker.begin(tool, name="m", parties=8) for _ in range(8)]
    assert [worker.value(call) for call in calls] == ["m"] * 8


def test_a_hundred(make: Make) -> None:
    worker = make("--concurrency", "100")
    calls = [worker.begin("meet", name="m", parties=100) for _ in range(100)]
    assert [worker.value(call) for call in calls] == ["m"] * 100


def test_an_adapter_whose_dispatch_is_a_coroutine(make: Make) -> None:
    worker = make("--concurrency", "4", adapter="concurrent_tools:Dispatches")
    calls = [worker.begin("any", parties=4) for _ in range(4)]
    assert [worker.value(call) for call in calls] == ["any"] * 4


def test_one_loop_for_all_calls(worker: Any) -> None:
    assert [worker.call("same_loop") for _ in range(5)] == [1] * 5
    hook, coroutine = worker.call("loop_thread")
    assert coroutine == "event-loop"
    assert hook.startswith("async")  # what may take long is not the loop's
    assert worker.call("thread_name") == "MainThread"


@pytest.mark.parametrize("options", [("--concurrency", "2"), THREADS])
def test_hooks_that_are_coroutines_are_the_loops(make: Make, options: tuple[str, ...]) -> None:
    worker = make(*options, adapter="concurrent_tools:AsyncHooks")
    assert worker.call("hook_thread") == "event-loop"
    assert worker.call("loop_thread") == ["event-loop", "event-loop"]
    assert worker.call("log") == ["async cleanup"] * 2


@pytest.mark.parametrize("options", [("--concurrency", "8"), THREADS])
def test_one_adapter_for_all_calls(make: Make, options: tuple[str, ...], tmp_path: Path) -> None:
    over = tmp_path / "over"
    env = {"CLEANED_UP": str(over)}
    worker = make(*options, adapter="concurrent_tools:Kept", env=env)
    sessions = [f"session {n}" for n in range(4)]
    calls = [worker.begin("session", session=s, name="k", parties=4) for s in sessions]
    assert [worker.value(call) for call in calls] == [[1, session] for session in sessions]
    assert worker.value(worker.begin("session_of_sync", session="other")) == [1, "other"]
    os.kill(worker.worker.process.pid, signal.SIGTERM)
    assert worker.worker.process.wait(PATIENCE) == 0
    assert over.exists()


def test_each_has_its_own_context(worker: Any) -> None:
    calls = [worker.begin("who", name="w", parties=4, me=str(n)) for n in range(4)]
    assert [worker.value(call) for call in calls] == ["0", "1", "2", "3"]


def test_what_is_no_coroutine_holds_nobody_up(worker: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    held = worker.begin("hold", path=str(gate))
    wait_until((tmp_path / "gate.started").exists, "the tool to start")
    calls = [worker.begin("meet", name="m", parties=7) for _ in range(7)]
    assert [worker.value(call) for call in calls] == ["m"] * 7
    gate.touch()
    assert worker.value(held) == "MainThread"


def test_cancel_is_one_tasks(worker: Any, tmp_path: Path) -> None:
    paths = [tmp_path / str(n) for n in range(3)]
    calls = [worker.begin("sleeps", path=str(path)) for path in paths]
    for path in paths:
        wait_until(path.exists, "the tool to start")
    worker.cancel(calls[1])
    assert worker.call("log") == ["CancelledError", "cleanup"]
    for call in (calls[2], calls[0]):
        worker.cancel(call)
    assert worker.call("log").count("CancelledError") == 3


def test_a_coroutine_that_hangs_is_interrupted(worker: Any, tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "path"
    beside = worker.begin("sleeps", path=str(other))
    wait_until(other.exists, "the tool to start")
    call = worker.begin("hangs", path=str(path))
    wait_until(path.exists, "the tool to start")
    worker.cancel(call)
    assert worker.call("log") == ["ToolCancelled", "cleanup"]
    assert worker.call("same_loop") == 1
    worker.cancel(beside)


def test_a_cancelled_coroutine_may_await(worker: Any, tmp_path: Path) -> None:
    path = tmp_path / "path"
    call = worker.begin("ends_late", path=str(path))
    wait_until(path.exists, "the tool to start")
    worker.cancel(call)
    assert worker.call("log") == ["ended late", "cleanup"]


@pytest.mark.parametrize(
    ("tool", "kind"), [("exits", "SystemExit"), ("cancels_itself", "CancelledError")]
)
def test_what_ends_a_coroutine_does_not_end_the_loop(worker: Any, tool: str, kind: str) -> None:
    with pytest.raises(ToolFailed) as error:
        worker.call(tool)
    assert error.value.report["type"] == kind
    assert worker.call("same_loop") == 1


def test_a_task_of_a_tool_that_exits(worker: Any) -> None:
    assert worker.call("child_exits") == "SystemExit"
    assert worker.call("same_loop") == 1


def test_the_loop_runs_between_calls(worker: Any, tmp_path: Path) -> None:
    path = tmp_path / "path"
    worker.call("leaves_a_task", path=str(path))
    wait_until(path.exists, "the task to run")


@pytest.mark.parametrize("tool", ["many", "gives_generator"])
def test_streams(worker: Any, tool: str) -> None:
    assert worker.items(tool, count=50) == [{"n": n} for n in range(50)]


@pytest.mark.parametrize("tool", ["sends", "sends_hidden"])
def test_streams_that_are_sent(worker: Any, tool: str) -> None:
    *items, last = worker.items(tool, count=50)
    assert items == [{"n": n} for n in range(50)]
    assert last == {"sent": 50}


def test_thread_sensitive_coroutines_have_the_main_thread(worker: Any) -> None:
    metadata = {"thread_sensitive": "y"}
    assert worker.call("loop_thread", metadata=metadata) == ["MainThread", "MainThread"]


def test_the_environment_says_what_is_thread_sensitive(make: Make) -> None:
    worker = make(*THREADS, env={"SNAKEPIT_THREAD_SENSITIVE": "tkinter, lib.one"})
    for module, function, main in [
        ("tkinter", "any", True),
        ("lib", "one", True),
        ("lib", "two", False),
        ("tkinter.ttk", "any", False),
    ]:
        name = worker.call("python_call", python_module=module, function=function)
        assert (name == "MainThread") is main


def test_the_capacity_by_the_environment(make: Make) -> None:
    worker = make(env={"SNAKEPIT_CONCURRENCY": "3"})
    calls = [worker.begin("meet", name="m", parties=3) for _ in range(3)]
    assert [worker.value(call) for call in calls] == ["m"] * 3


def test_what_several_threads_should_not_share_is_told(make: Make) -> None:
    worker = make(*THREADS, "--thread-safety-check", adapter="concurrent_tools:Unsafe")
    calls = [worker.begin("meet", parties=2) for _ in range(2)]
    assert [worker.value(call) for call in calls] == [2, 2]
    for _ in range(3):
        worker.call("declared")
    lines = [line for line in worker.worker.log.splitlines() if "thread safety" in line]
    said = "\n".join(lines)
    assert "Unsafe.meet runs in 2 threads at once" in said
    assert "Unsafe.shared is a list that all requests share" in said
    assert "Unsafe.meet uses the global '_seen', a deque" in said
    assert "declared" not in said
    assert len(lines) == len(set(lines))


# ---- shared memory alone ----------------------------------------------------------------


@pytest.fixture
def local(start: Start) -> LocalWorker:  # noqa: F811
    return start(ADAPTER, "--concurrency", "4")


def test_a_consumer_that_is_behind_holds_nobody_up(local: LocalWorker, tmp_path: Path) -> None:
    path = tmp_path / "closed"
    call = local.start("endless", {"path": str(path)}, stream=True)
    chunks = local.chunks(call, credit=False)
    for _ in range(16):  # all that it may send
        assert chunk_value(next(chunks))["text"]
    calls = [local.start("meet", {"name": "m", "parties": 3}) for _ in range(3)]
    assert [local.value(number) for number in calls] == ["m"] * 3
    local.cancel(call)
    cancelled(local, call)
    assert path.exists()


def test_a_call_that_waits_for_the_main_thread_is_cancelled_at_once(
    local: LocalWorker, tmp_path: Path
) -> None:
    held = local.start("hold", {"path": str(tmp_path / "gate")})
    wait_until((tmp_path / "gate.started").exists, "the tool to start")
    waiting = [local.start("hold", {"path": str(tmp_path / f"other{n}")}) for n in range(2)]
    for call in (*reversed(waiting), held):
        local.cancel(call)
        cancelled(local, call)
    assert local.call("value", {"value": 1}) == 1
    assert not list(tmp_path.glob("other*"))


def sleeps(pid: int) -> bool:
    """Whether no thread of the process runs, or ends, ten times in a row."""
    stats = [path for _ in range(10) for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    try:
        return all(path.read_text().rpartition(")")[2].split()[0] == "S" for path in stats)
    except OSError:
        return False


def test_signals_let_the_worker_sleep_again(local: LocalWorker, tmp_path: Path) -> None:
    call = local.start("hold", {"path": str(tmp_path / "gate")})
    wait_until((tmp_path / "gate.started").exists, "the tool to start")
    local.cancel(call)  # by a signal to the main thread
    cancelled(local, call)
    wait_until(lambda: sleeps(local.process.pid), "all threads to sleep")
    assert local.call("value", {"value": 1}) == 1


def test_inputs(local: LocalWorker) -> None:
    calls = [local.start("add_inputs", {}, inputs=True) for _ in range(3)]
    for call in calls:
        assert local.wanted(call) == 16
    for n in range(5):
        for call in calls:
            local.input(call, n)
    for call in reversed(calls):
        local.end_inputs(call)
        assert local.value(call) == 10


def test_elixir_is_asked_by_all_at_once(local: LocalWorker) -> None:
    local._next_call = 1_000_000  # far from the numbers of requests
    calls = [local.start("ask", {"name": f"t{n}"}) for n in range(4)]
    requests = [asked(local) for _ in calls]  # before any is answered
    wait_until(lambda: local.ping() == 0, "a ping that says nothing")
    for request in requests:
        request.answer(request.tool.tool_name)
    assert [local.value(call) for call in calls] == ["t0", "t1", "t2", "t3"]


def test_cancel_while_elixir_is_asked(local: LocalWorker) -> None:
    local._next_call = 1_000_000
    call = local.start("ask", {"name": "t"})
    request = asked(local)
    local.cancel(call)
    cancelled(local, call)
    request.cancelled()
    assert local.call("same_loop") == 1


def test_a_signal_ends_every_call(local: LocalWorker, tmp_path: Path) -> None:
    paths = [tmp_path / str(n) for n in range(2)]
    calls = [local.start("sleeps", {"path": str(path)}) for path in paths]
    held = local.start("hold", {"path": str(tmp_path / "gate")})
    for path in (*paths, tmp_path / "gate.started"):
        wait_until(path.exists, "the tool to start")
    waiting = local.start("value", {"value": 1})
    local.ping()  # so it has been read
    os.kill(local.process.pid, signal.SIGTERM)
    for call in (*calls, held, waiting):
        cancelled(local, call)
    assert local.end() == 0


def test_the_end_of_the_beam_ends_the_worker(local: LocalWorker, tmp_path: Path) -> None:
    path = tmp_path / "path"
    local.start("sleeps", {"path": str(path)})
    wait_until(path.exists, "the tool to start")
    local.socket.close()
    assert local.end() == 0


def test_a_worker_that_leaves_over_grpc(start_worker: Callable[..., Any], tmp_path: Path) -> None:
    worker = start_worker(ADAPTER, "--concurrency", "4")
    path = tmp_path / "path"
    call = worker.start("sleeps", {"path": str(path)})
    wait_until(path.exists, "the tool to start")
    worker.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError):
        call.result(PATIENCE)
    assert worker.process.wait(PATIENCE) == 0
