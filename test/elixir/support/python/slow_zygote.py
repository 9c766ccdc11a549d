"""A zygote whose children come late to the spawner (c_src/spawner/zygote_proto.h).

The process in between, which has to end for that, takes its time.
"""

from __future__ import annotations

import os
import socket
import struct
import time

READY, DONE = 1, 3


def word(says: int) -> bytes:
    return struct.pack("=Ii504s", says, 0, b"")


def worker(go: int, out: int, err: int) -> None:
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    if os.read(go, 1) != b"\x01":
        os._exit(127)
    os.execvp("sleep", ["sleep", "1000"])


def guard(fds: list[int]) -> None:
    ctl, out, err, _request, program = fds
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        os.close(ctl)
        worker(read_end, out, err)
    for number in (ctl, write_end):
        os.set_inheritable(number, True)
    arguments = ["snakepit_spawner", "--adopt", str(ctl), str(write_end), str(pid)]
    os.execve(f"/proc/self/fd/{program}", arguments, {})


def main() -> None:
    spawner = socket.socket(fileno=3)
    spawner.send(word(READY))
    _what, fds, _flags, _address = socket.recv_fds(spawner, 1, 5)
    between = os.fork()
    if between == 0:
        if os.fork() == 0:
            guard(fds)
        time.sleep(0.5)
        os._exit(0)
    for number in fds:
        os.close(number)
    os.waitpid(between, 0)
    spawner.send(word(DONE))
    time.sleep(1000)


if __name__ == "__main__":
    main()
