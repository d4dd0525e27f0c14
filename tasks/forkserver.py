"""A process that imports what jobs need once and forks each job from itself: `python -m tasks.forkserver MODULE...`.

`multiprocessing` has a fork server too, which runs the caller's `__main__` again in every child and takes neither an
environment for the imports nor a place for what a child prints.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from typing import IO, Any, NoReturn

from tasks import child

FORKS = sys.platform == "linux"  # Windows cannot, and macOS's own libraries may crash in a process that was forked
READY_WITHIN_S = 300.0
ATTEMPTS = 2
NUMBER = struct.Struct("i")

_starting = threading.Lock()
_server: "Server | None" = None


# --- in the parent -----------------------------------------------------------------------------------------------


class Forked:
    """A job that was forked: what `child` needs of a `subprocess.Popen`."""

    def __init__(self, pid: int, status: socket.socket, stdout: IO[str]) -> None:
        self.pid, self.status, self.stdout = pid, status, stdout

    def wait(self, timeout: float | None = None) -> int:
        """How the job ended; as killed where its keeper was. Raises subprocess.TimeoutExpired."""
        if not wait([self.status], timeout):
            raise subprocess.TimeoutExpired("a forked job", timeout or 0.0)
        told = self.status.recv(NUMBER.size, socket.MSG_PEEK)  # left there for others that wait
        return int(NUMBER.unpack(told)[0]) if told else -signal.SIGKILL


class Server:
    """A fork server, which ends with its parent or by `end`; what it forked goes on."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self.open = contextlib.ExitStack()
        self.control, theirs = socket.socketpair()
        command = child.python("-m", "tasks.forkserver", *modules)
        with theirs:
            starting = child.started(command, environment=environment, input=theirs, output=subprocess.DEVNULL)
            self.process = self.open.enter_context(starting)
        self.open.enter_context(child.at_work(self.process))

    def fork(self, request: bytes, ours: contextlib.ExitStack) -> Forked | None:
        """A job, our ends of its lines left to `ours`; None where the server ended before it came to it."""
        status, its_status = socket.socketpair()
        lifeline, its_lifeline = socket.socketpair()
        output, its_output = os.pipe()
        lines = open(output, errors="replace")  # noqa: SIM115
        for end in (status, lifeline, lines):
            ours.enter_context(end)
        with its_status, its_lifeline, open(its_output, "w"):
            handed = [its_status.fileno(), its_lifeline.fileno(), its_output]
            try:
                socket.send_fds(self.control, [b"j"], handed)
            except OSError:
                return None
        try:
            status.sendall(request + b"\n")
            status.settimeout(READY_WITHIN_S)
            pid = status.recv(NUMBER.size)
        except TimeoutError as error:
            raise TimeoutError(f"what jobs import was not there within {READY_WITHIN_S:g} s") from error
        except OSError:
            return None
        status.settimeout(None)
        return Forked(NUMBER.unpack(pid)[0], status, lines) if pid else None

    def end(self) -> int:
        """End it, unless it has ended; its exit status."""
        self.control.close()
        self.open.close()
        return self.process.wait()


def start(modules: Sequence[str], environment: Mapping[str, str]) -> Server:
    """This process's server: the one that runs, or a new one where there is none or it was killed."""
    global _server
    with _starting:
        if _server and _server.process.poll() is not None:
            _server.end()
            _server = None
        _server = _server or Server(modules, environment)
        return _server


def stop() -> None:
    """End this process's server, if there is one."""
    global _server
    with _starting:
        if _server:
            _server.end()
        _server = None


@contextlib.contextmanager
def forked(module: str, path: str, modules: Sequence[str], environment: Mapping[str, str]) -> Iterator[Forked]:
    """A job as `child.serve` does it, in a process forked from one that has imported `modules`.

    `environment` is set for both; what libraries read when they are imported counts from it.
    """
    told = {"module": module, "path": path, "environment": child.environment_of(environment)}
    with contextlib.ExitStack() as ours:
        job = None
        for _ in range(ATTEMPTS):
            server = start(modules, environment)
            if job := server.fork(json.dumps(told).encode(), ours):
                break
            if (code := server.end()) == -signal.SIGTERM:
                raise ValueError("the process that forks jobs was ended; run the same command again to go on")
        if job is None:
            raise ValueError(f"the process that forks jobs ended {ATTEMPTS} times, with status {code} at last")
        try:
            yield job
        finally:
            child.end_group(job)


# --- in the server -----------------------------------------------------------------------------------------------


def main(modules: Sequence[str]) -> None:
    """Import, then fork a keeper for each request, until the parent is gone. No thread may be started here."""
    parent = os.getppid()
    gc.disable()  # while so much is imported, collections only take time
    for module in modules:
        with contextlib.suppress(Exception):  # the job that needs it imports it again, and says what is wrong
            importlib.import_module(module)
        if os.getppid() != parent:
            return
    gc.freeze()  # else a collection in a job would write to, and so copy, every page of ours
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for keepers
    control = socket.socket(fileno=0)
    while True:
        _, handed, _, _ = socket.recv_fds(control, 1, 3)
        if not handed:
            return
        if os.fork() == 0:
            try:
                keep(*handed)
            finally:
                os._exit(1)
        for end in handed:
            os.close(end)


def keep(its_status: int, lifeline: int, output: int) -> None:
    """Lead the group of one job, outlive a SIGTERM to it, and tell our own id, then how the job ended."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for end, place in ((lifeline, 0), (output, 1), (output, 2)):
        os.dup2(end, place)
    os.close(lifeline)
    os.close(output)
    with socket.socket(fileno=its_status) as status:
        with status.makefile("rb") as lines:
            request = json.loads(lines.readline())
        status.sendall(NUMBER.pack(os.getpid()))
        job = os.fork()
        if job == 0:
            status.close()
            work(request)
        _, code = os.waitpid(job, 0)
        status.sendall(NUMBER.pack(os.waitstatus_to_exitcode(code)))


def work(request: Mapping[str, Any]) -> NoReturn:
    """Do the job and leave without what a process of its own would do at its end: that belongs to the server."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.enable()
    os.environ.clear()
    os.environ.update(request["environment"])
    code = 1
    try:
        code = child.serve(request["module"], request["path"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
