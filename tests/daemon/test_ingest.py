"""The ROUTER socket: good frames are acknowledged whatever else arrives, foreign files are left alone."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
import zmq.asyncio

from rlhfd_daemon import ingest
from rlhfd_daemon.endpoint_claim import claim_endpoint
from rlhfd_daemon.errors import EndpointError
from rlhfd_daemon.frame import MAX_FRAME_BYTES
from rlhfd_daemon.ingest import Answer, Ingest, Received
from rlhfd_daemon.runs import Peer
from wire import packed

LINK = msgpack.packb([0, 0])


class Bench:
    """An Ingest with a sink that remembers, and raw sockets to talk to it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.endpoint = f"ipc://{folder}/rlhfd.sock"
        self.batches: list[list[Received]] = []
        self.last: dict[str, int] = {}
        self.muted = False
        options: dict[str, Any] = {"max_frame_bytes": MAX_FRAME_BYTES, "allowed_uids": (), **changes}
        self.ingest = Ingest(
            self.endpoint, sink=self.sink, answer_for=lambda s: Answer(s, self.last.get(s, 0), self.muted), **options
        )
        self.context = zmq.asyncio.Context()
        self.dealers: list[zmq.asyncio.Socket] = []

    def sink(self, batch: list[Received]) -> None:
        self.batches.append(batch)
        for one in batch:
            self.last[one.frame.stream] = one.frame.seq

    @property
    def taken(self) -> list[tuple[str, int]]:
        return [(one.frame.stream, one.frame.seq) for batch in self.batches for one in batch]

    def dealer(self) -> zmq.asyncio.Socket:
        opened: zmq.asyncio.Socket = self.context.socket(zmq.DEALER)
        opened.connect(self.endpoint)
        self.dealers.append(opened)
        return opened

    def close(self) -> None:
        for dealer in self.dealers:
            dealer.close(0)
        self.context.term()
        self.ingest.stop()


async def answer(dealer: zmq.asyncio.Socket) -> dict[str, Any]:
    fields: dict[str, Any] = msgpack.unpackb(await asyncio.wait_for(dealer.recv(), 10))
    return fields


async def answered(dealer: zmq.asyncio.Socket, ack: int) -> dict[str, Any]:
    """The first answer that acknowledges ``ack``."""
    while (fields := await answer(dealer))["ack"] < ack:
        pass
    return fields


def on_bench(folder: Path, talk: Callable[[Bench], Awaitable[None]], **changes: Any) -> None:
    async def main() -> None:
        bench = Bench(folder, **changes)
        bench.ingest.start()
        try:
            await asyncio.wait_for(talk(bench), 30)
        finally:
            bench.close()
            bench.close()

    asyncio.run(main())


BAD: dict[str, tuple[list[bytes], str]] = {
    "garbage": ([bytes(range(255, 0, -1)) * 3], ""),
    "malformed": ([b"\xc1"], "malformed"),
    "not_utf8": ([b"\x82\xa1\x00\x00\xa3run\xa1\x80"], "malformed"),
    "empty": ([b""], "malformed"),
    "schema": ([packed(2, metrics={"loss": "high"})], "schema"),
    "version": ([packed(2, v=2)], "version"),
    "too_large": ([packed(2, kind="event", event="e", fields={"x": "y" * MAX_FRAME_BYTES})], "too_large"),
    "nesting": ([packed(2, kind="event", event="e", fields={"x": b"z"})], "nesting"),
    "three_parts": ([LINK, packed(2), packed(3)], "malformed"),
    "bad_link": ([b"\x01", packed(2)], "malformed"),
    "oversized_link": ([b"x" * 100_000, packed(2)], "malformed"),
}


def test_what_comes_after_a_quiet_time_is_read_at_once(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "GATHER_SECONDS", 60.0)

    async def talk(bench: Bench) -> None:
        dealer = bench.dealer()
        await dealer.send_multipart([LINK, packed(1)])
        await answered(dealer, 1)

    on_bench(short_dir, talk)


def test_to_connect_breaks_no_quiet_time(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "GATHER_SECONDS", 60.0)

    async def talk(bench: Bench) -> None:
        silent = bench.context.socket(zmq.DEALER)
        bench.dealers.append(silent)
        connected = silent.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        silent.connect(bench.endpoint)
        await connected.recv_multipart()
        silent.disable_monitor()
        connected.close(0)
        dealer = bench.dealer()
        await dealer.send_multipart([LINK, packed(1)])
        await answered(dealer, 1)

    on_bench(short_dir, talk)


def test_what_follows_is_read_with_its_group(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "GATHER_SECONDS", 2.0)

    async def talk(bench: Bench) -> None:
        first, other = bench.dealer(), bench.dealer()
        await first.send_multipart([LINK, packed(1)])
        await answered(first, 1)
        for seq in (2, 3):
            await first.send_multipart([LINK, packed(seq)])
        await other.send_multipart([LINK, packed(1, stream="s2")])
        await answered(first, 3)
        assert [len(batch) for batch in bench.batches] == [1, 3]

    on_bench(short_dir, talk)


@pytest.mark.parametrize("kind", BAD)
def test_bad_messages_are_counted_by_reason_and_harm_no_good_frame(kind: str, short_dir: Path) -> None:
    parts, reason = BAD[kind]

    async def talk(bench: Bench) -> None:
        good, bad = bench.dealer(), bench.dealer()
        for round_ in (1, 2, 3):
            await bad.send_multipart(parts)
            await good.send_multipart([LINK, packed(round_)])
            assert (await answered(good, round_))["stream"] == "s1"
        await bad.send(packed(1, stream="s2"))
        while (await answer(bad))["stream"] != "s2":
            pass
        assert bench.taken == [("s1", 1), ("s1", 2), ("s1", 3), ("s2", 1)]
        assert sum(bench.ingest.rejected.values()) == 3
        if reason:
            assert bench.ingest.rejected == {reason: 3}
        assert bench.ingest.received == 7

    on_bench(short_dir, talk)


@pytest.mark.parametrize(
    ("payload", "names"),
    [
        (packed(9, v=2), "version"), (packed(9, metrics={"a": "b"}), "metrics"), (packed(9, event=b"x"), "event"),
        (packed(9, kind="event", event="e", fields={"x": "y" * 3000}), "too_large"),
    ],
)  # fmt: skip
def test_a_refused_frame_is_answered_by_name_so_that_its_sender_goes_on(
    payload: bytes, names: str, short_dir: Path
) -> None:
    async def talk(bench: Bench) -> None:
        dealer = bench.dealer()
        await dealer.send_multipart([LINK, payload])
        fields = await answer(dealer)
        assert (fields["v"], fields["stream"], fields["ack"], fields["mute"]) == (1, "s1", 9, False)
        assert names in fields["refused"]
        assert bench.taken == []

    on_bench(short_dir, talk, max_frame_bytes=2000)


def test_what_is_far_too_large_costs_its_connection_and_nothing_else(short_dir: Path) -> None:
    async def talk(bench: Bench) -> None:
        good, bad = bench.dealer(), bench.dealer()
        await bad.send(packed(1, stream="s2"))
        await answered(bad, 1)
        await bad.send(b"x" * (3 * MAX_FRAME_BYTES))
        await good.send(packed(1))
        await answered(good, 1)
        for seq in range(2, 200):
            await bad.send(packed(seq, stream="s2"))
            try:
                await asyncio.wait_for(answer(bad), 0.2)
                break
            except asyncio.TimeoutError:
                continue  # lost with the connection, which comes back by itself
        assert bench.last["s2"] > 1

    on_bench(short_dir, talk)


def test_bursts_sent_while_the_answers_go_out_are_all_answered(short_dir: Path) -> None:
    """ZeroMQ's descriptor fires on edges, and sending an answer consumes one."""

    async def talk(bench: Bench) -> None:
        dealers = [bench.dealer() for _ in range(4)]
        for burst in range(20):
            for number, dealer in enumerate(dealers):
                for index in range(40):
                    await dealer.send_multipart([LINK, packed(burst * 40 + index + 1, stream=f"s{number}")])
                    if index % 10 == 9:
                        await asyncio.sleep(0)
            for dealer in dealers:
                await answered(dealer, (burst + 1) * 40)
        assert len(bench.taken) == 4 * 20 * 40

    on_bench(short_dir, talk)


def test_frames_that_arrive_during_the_sink_are_answered_without_another_message(short_dir: Path) -> None:
    async def talk(bench: Bench) -> None:
        plain = zmq.Context()
        late = plain.socket(zmq.DEALER)
        late.connect(bench.endpoint)
        late.send(packed(1, stream="late"))
        while bench.last.get("late") != 1:
            await asyncio.sleep(0.01)
        remember = bench.ingest._sink
        sent: list[object] = []

        def sink(batch: list[Received]) -> None:
            remember(batch)
            if not sent:
                sent.append(late.send(packed(2, stream="late")))
                late.poll(200, zmq.POLLIN)

        bench.ingest._sink = sink
        first = bench.dealer()
        await first.send(packed(1))
        await answered(first, 1)
        for _ in range(500):
            if bench.last["late"] == 2:
                break
            await asyncio.sleep(0.01)
        late.close(0)
        plain.term()
        assert bench.last["late"] == 2

    on_bench(short_dir, talk)


def test_the_kernel_says_who_sent_a_frame_and_a_sender_of_no_link_has_none(short_dir: Path) -> None:
    async def talk(bench: Bench) -> None:
        dealer = bench.dealer()
        await dealer.send(packed(1))
        await dealer.send_multipart([msgpack.packb([1, 0]), packed(2)])
        await answered(dealer, 2)
        first, second = [one for batch in bench.batches for one in batch]
        assert first.peer == Peer(os.getuid(), os.getpid())
        assert first.link is None
        assert second.link is not None
        assert tuple(second.link) == (1, 0)
        assert first.payload == packed(1)

    on_bench(short_dir, talk)


def test_only_allowed_users_are_heard(short_dir: Path) -> None:
    async def talk(bench: Bench) -> None:
        await bench.dealer().send(packed(1))
        while not bench.ingest.rejected:
            await asyncio.sleep(0.01)
        assert bench.ingest.rejected == {"peer_uid": 1}
        assert bench.taken == []

    on_bench(short_dir, talk, allowed_uids=(os.getuid() + 1,))


def test_a_change_of_mute_is_told_unasked_until_the_stream_is_over(short_dir: Path) -> None:
    async def talk(bench: Bench) -> None:
        dealer = bench.dealer()
        await dealer.send(packed(1))
        await answered(dealer, 1)
        bench.muted = True
        bench.ingest.tell("s1")
        bench.ingest.tell("never heard of")
        assert (await answer(dealer))["mute"] is True
        bench.ingest.forget("s1")
        bench.ingest.tell("s1")
        assert not await dealer.poll(100)

    on_bench(short_dir, talk)


def test_a_stopped_ingest_leaves_no_socket_and_can_be_followed_by_another(short_dir: Path) -> None:
    async def talk(bench: Bench) -> None:
        dealer = bench.dealer()
        await dealer.send(packed(1))
        await answered(dealer, 1)

    for _ in range(2):
        on_bench(short_dir, talk)
        assert not (short_dir / "rlhfd.sock").exists()


def test_the_socket_is_the_owner_s_and_its_group_s_and_the_new_directory_the_owner_s(short_dir: Path) -> None:
    async def talk(bench: Bench) -> None:
        assert stat.S_IMODE((short_dir / "new").stat().st_mode) == 0o700
        assert stat.S_IMODE((short_dir / "new" / "rlhfd.sock").stat().st_mode) == 0o660

    before = os.umask(0o022)
    try:
        on_bench(short_dir / "new", talk)
        assert os.umask(0o022) == 0o022, "the umask is as it was"
    finally:
        os.umask(before)


def refusal(endpoint: str) -> str:
    with pytest.raises(EndpointError) as caught:
        os.close(claim_endpoint(endpoint))
    return str(caught.value)


def test_a_file_or_a_link_in_the_socket_s_place_is_refused_and_left_alone(short_dir: Path) -> None:
    path = short_dir / "rlhfd.sock"
    path.write_text("precious")
    assert "not a socket" in refusal(f"ipc://{path}")
    assert path.read_text() == "precious"
    link = short_dir / "link.sock"
    link.symlink_to(path)
    assert "not a socket" in refusal(f"ipc://{link}")
    assert link.is_symlink()


def test_a_link_in_the_lock_s_place_is_not_followed(short_dir: Path) -> None:
    (short_dir / "rlhfd.sock.lock").symlink_to(short_dir / "elsewhere")
    assert "rlhfd.sock" in refusal(f"ipc://{short_dir}/rlhfd.sock")
    assert not (short_dir / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a socket away needs root")
def test_another_user_s_socket_is_refused(short_dir: Path) -> None:
    path = short_dir / "rlhfd.sock"
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        os.chown(path, 12345, 12345)
        assert "12345" in refusal(f"ipc://{path}")
        assert path.is_socket()


def test_a_dead_daemon_s_own_socket_is_taken_over(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(short_dir / "rlhfd.sock"))
    os.close(claim_endpoint(f"ipc://{short_dir}/rlhfd.sock"))


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("ipc://" + "/x" * 60, "longer than 107"),
        ("tcp://127.0.0.1:5555", "only ipc"),
        ("ipc:///proc/nope/rlhfd.sock", "/proc/nope/rlhfd.sock"),
        ("ipc:///dev/null/rlhfd.sock", "/dev/null/rlhfd.sock"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused_with_its_path(endpoint: str, says: str) -> None:
    assert says in refusal(endpoint)


def test_a_directory_without_permission_is_refused(short_dir: Path) -> None:
    (short_dir / "closed").mkdir(mode=0o500)
    # Everything is imported while the files can be read: the other user may not.
    program = (
        "import os, sys\nfrom rlhfd_daemon.endpoint_claim import claim_endpoint\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        f"try: claim_endpoint('ipc://{short_dir}/closed/rlhfd.sock')\nexcept Exception as error: print(repr(error))"
    )
    short_dir.chmod(0o755)
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert "EndpointError" in said.stdout, said.stderr
    assert "Permission denied" in said.stdout


def test_an_endpoint_that_another_daemon_holds_is_refused_and_goes_on_working(short_dir: Path) -> None:
    async def talk(bench: Bench) -> None:
        assert "another rlhfd daemon" in refusal(bench.endpoint)
        second = Bench(short_dir)
        with pytest.raises(EndpointError):
            second.ingest.start()
        second.close()
        dealer = bench.dealer()
        await dealer.send(packed(1))
        await answered(dealer, 1)

    on_bench(short_dir, talk)
