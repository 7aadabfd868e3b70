"""The process that calls NVML: `python -m rlhfd_daemon.gpu.child FD`. Reads when told to, ends when stdin does.

In: one JSON object a line, first :class:`~rlhfd_daemon.gpu.reading.Hello`, then one ``Read`` for each reading. Out: one
JSON object a line, the messages of ``reading``. ``FD`` is the page of ``progress``. Nothing but NVML and the standard
library is imported, so the process stays small; it may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhfd_daemon.gpu.progress import EVENTS, MAIN, NO_GPU, ProgressSlot

WAIT_MS = 500
LOST_WAIT_SECONDS = 5.0  # with a lost GPU in the set, waiting ends at once, every time
END_SECONDS = 3.0


class Pipe:
    """Writes whole lines to the daemon, from any thread. What NVML prints to stdout must not get in between."""

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, kind: str, **fields: object) -> None:
        line = json.dumps({"type": kind, **fields}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            while line:
                line = line[os.write(self._fd, line) :]


def commands() -> Iterator[dict[str, Any]]:
    """What the daemon says, line by line, until it closes the pipe or dies."""
    rest = b""
    while chunk := os.read(0, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from map(json.loads, lines)


class Session:
    """NVML between init and shutdown: handles, readings and the thread that waits for XIDs."""

    def __init__(self, page: mmap.mmap, pipe: Pipe, hello: dict[str, Any]) -> None:
        import pynvml

        from rlhfd_daemon.gpu import nvml

        self.pynvml, self.nvml = pynvml, nvml
        self.pipe = pipe
        self.asker = nvml.Asker(ProgressSlot(page, MAIN))
        now = time.monotonic()
        self.asker.refused = {(gpu, call): now + seconds for gpu, call, seconds in hello["refused"]}
        self.bus_ids: list[str] = hello["bus_ids"]
        self.pci_devices: str = hello["pci_devices"]
        self.devices: dict[int, Any] = {}
        self.count = -1
        self.turn = 0
        self.is_open = False
        self.ended = threading.Event()
        self.events = nvml.Asker(ProgressSlot(page, EVENTS)) if hello["events"] else None
        self.waiter: threading.Thread | None = None

    def open(self) -> None:
        self.asker.call(self.pynvml.nvmlInit)
        self.is_open = True
        self.pipe.send("open", driver=self.asker.call(self.pynvml.nvmlSystemGetDriverVersion))

    def close(self) -> None:
        self.ended.set()
        if self.waiter is not None:
            self.waiter.join(2 * WAIT_MS / 1000)
        if self.is_open:
            with contextlib.suppress(self.pynvml.NVMLError):
                self.asker.call(self.pynvml.nvmlShutdown)

    def read(self, skip: list[int]) -> None:
        """One reading of every GPU that is there, is awake and is not to be left alone."""
        cpu, self.asker.seconds = time.process_time(), 0.0
        count = self.asker.call(self.pynvml.nvmlDeviceGetCount)
        if count != self.count:
            self.devices.clear()
            self.count = count
        asleep = [gpu for gpu in range(count) if self._is_suspended(gpu)]
        awake = [gpu for gpu in range(count) if gpu not in asleep and gpu not in skip]
        sampled = {awake[(self.turn + n) % len(awake)] for n in range(self.nvml.PCIE_GPUS_A_TURN)} if awake else set()
        self.turn += self.nvml.PCIE_GPUS_A_TURN
        for gpu in awake:
            self._read_one(gpu, gpu in sampled)
        if self.events is not None and self.waiter is None and self.devices:
            self.waiter = threading.Thread(target=self._wait_for_events, name="events", daemon=True)
            self.waiter.start()
        refused, self.asker.newly_refused = self.asker.newly_refused, []
        self.pipe.send(
            "end", count=count, asleep=asleep, refused=refused,
            seconds=self.asker.seconds, cpu_seconds=time.process_time() - cpu,
        )  # fmt: skip

    def _read_one(self, gpu: int, pcie: bool) -> None:
        try:
            device = self.devices.get(gpu)
            if device is None:
                device = self.devices[gpu] = self.nvml.Device(self.asker, gpu)
                self.pipe.send("device", **device.describe())
            found = self.nvml.read_device(self.asker, device, time.monotonic(), pcie)
        except self.pynvml.NVMLError as error:
            if error.value in self.nvml.LIBRARY_ERRORS:
                raise
            self.pipe.send("gpu", index=gpu, error=self.nvml.error_name(error))
        else:
            self.pipe.send("gpu", index=gpu, **found)

    def _is_suspended(self, gpu: int) -> bool:
        """Whether the kernel has the device in a low-power state, out of which any question would wake it."""
        device = self.devices.get(gpu)
        if device is not None and device.bus_id:
            bus_id = device.bus_id
        elif len(self.bus_ids) == self.count:  # NVML numbers by PCI address
            bus_id = self.bus_ids[gpu]
        else:
            return False
        path = Path(self.pci_devices, bus_id.lower()[-12:], "power", "runtime_status")
        try:
            return path.read_text().strip() in ("suspended", "suspending")
        except OSError:
            return False

    def _wait_for_events(self) -> None:
        """XIDs reach only those who are waiting for them. Runs in a thread of its own; NVML waits outside the GIL."""
        pynvml, asker = self.pynvml, self.events
        assert asker is not None
        devices = list(self.devices.values())
        try:
            events = asker.call(pynvml.nvmlEventSetCreate)
            watched = [device for device in devices if self._register(device, events)]
            while watched and not self.ended.is_set():
                try:
                    self._tell(asker.call(pynvml.nvmlEventSetWait_v2, events, WAIT_MS), devices)
                except pynvml.NVMLError_Timeout:
                    continue
                except pynvml.NVMLError:
                    self.ended.wait(LOST_WAIT_SECONDS)
            asker.call(pynvml.nvmlEventSetFree, events)
        except (pynvml.NVMLError, OSError):
            return  # no XIDs from this driver, or nobody left to tell

    def _register(self, device: Any, events: object) -> bool:
        assert self.events is not None
        supported = self.events.ask(device.index, self.pynvml.nvmlDeviceGetSupportedEventTypes, device.handle) or 0
        wanted = supported & self.pynvml.nvmlEventTypeXidCriticalError
        if not wanted:
            return False
        try:
            register = self.pynvml.nvmlDeviceRegisterEvents
            self.events.call(register, device.handle, wanted, events, gpu=device.index)
        except self.pynvml.NVMLError:
            return False
        return True

    def _tell(self, event: Any, devices: list[Any]) -> None:
        if event.eventType & self.pynvml.nvmlEventTypeXidCriticalError:
            at = address(event.device)
            known = next((device for device in devices if address(device.handle) == at), None)
            index, uuid = (NO_GPU, "") if known is None else (known.index, known.uuid)
            self.pipe.send("xid", index=index, uuid=uuid, xid=event.eventData)


def address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def listen(inbox: queue.SimpleQueue[dict[str, Any] | None], finished: threading.Event) -> None:
    """Hand on what the daemon says. When it falls silent and a call hangs, end the process all the same."""
    try:
        for command in commands():
            inbox.put(command)
    finally:
        inbox.put(None)
        if not finished.wait(END_SECONDS):
            os._exit(3)


def serve(page: mmap.mmap, pipe: Pipe, inbox: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """From the first command to the last."""
    hello = inbox.get()
    if hello is None:
        return
    try:
        session = Session(page, pipe, hello)
    except KeyError:  # this file is newer or older than the daemon that started it
        pipe.send("failure", error="Upgraded", detail="rlhfd was upgraded under the running daemon: restart it")
        return
    try:
        session.open()
        while (command := inbox.get()) is not None:
            session.read(command["skip"])
        session.close()
    except session.pynvml.NVMLError as error:
        pipe.send("failure", error=session.nvml.error_name(error))
        session.close()


def main() -> int:
    page = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
    pipe = Pipe()
    finished = threading.Event()
    inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(inbox, finished), name="listen", daemon=True).start()
    code = 1
    try:
        serve(page, pipe, inbox)
        code = 0
    except BrokenPipeError:
        code = 0  # the daemon is gone
    except Exception as error:  # noqa: BLE001 - the process's last word: the daemon tells people what it was
        pipe.send("failure", error=type(error).__name__, detail=str(error)[:300])
    finally:
        finished.set()
    return code


if __name__ == "__main__":
    os._exit(main())  # a thread that hangs in a call must not keep the interpreter from ending
