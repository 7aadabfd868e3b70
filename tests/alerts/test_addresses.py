"""Which addresses a target may be at, and that a name cannot lead to another."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from rlhfd_alerts.addresses import literal_refusal, refusal
from rlhfd_alerts.resolver import GuardedResolver

PUBLIC = ("8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "192.167.1.1", "2606:4700::1111", "64:ff9b::808:808")
PRIVATE = (
    "127.0.0.1", "127.9.9.9", "::1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fc00::1",
    "fd12:3456::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1", "2002:a00:1::",
    "2002:7f00:1::1", "::127.0.0.1", "192.0.2.1",
)  # fmt: skip
NEVER = (
    "169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "fec0::1", "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255",
    "240.0.0.1", "not-an-address", "",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_promise_E11_a_public_address_is_allowed(address: str) -> None:
    assert refusal(address, allow_private=False) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_promise_E11_a_private_address_needs_permission(address: str) -> None:
    assert refusal(address, allow_private=False)
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("address", NEVER)
def test_promise_E11_some_addresses_are_never_allowed(address: str) -> None:
    assert refusal(address, allow_private=False)
    assert refusal(address, allow_private=True)


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("http://localhost/x", True),
        ("http://LOCALHOST.:80/", True),
        ("http://a.localhost/", True),
        ("http://[::1]:9/", True),
        ("http://127.0.0.1/", True),
        ("http://[fe80::1%25eth0]/", True),
        ("http://169.254.169.254/latest/meta-data", True),
        ("https://example.org/", False),
        ("https://8.8.8.8/", False),
        ("http://2130706433/", False),  # a name, judged when it is resolved
    ],
)
def test_what_is_spelled_in_the_url_is_known_without_asking(url: str, refused: bool) -> None:
    assert bool(literal_refusal(url)) == refused


class Rebinding(AbstractResolver):
    """A name that is public when asked first and private from then on."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.asked = 0
        self._answers = answers

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        addresses = self._answers[min(self.asked, len(self._answers)) - 1]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        return None


def test_promise_E11_a_name_is_resolved_once_and_only_to_allowed_addresses() -> None:
    async def scenario() -> None:
        inner = Rebinding(("10.0.0.1", "8.8.8.8"), ("127.0.0.1",), ("169.254.169.254",))
        guarded = GuardedResolver(False, inner)
        assert [one["host"] for one in await guarded.resolve("evil.example", 443)] == ["8.8.8.8"]
        assert inner.asked == 1
        with pytest.raises(OSError, match="loopback or private"):
            await guarded.resolve("evil.example", 443)
        with pytest.raises(OSError, match="link-local or metadata"):
            await GuardedResolver(True, Rebinding(("169.254.169.254",))).resolve("meta.example")
        with pytest.raises(OSError, match="no address"):
            await GuardedResolver(True, Rebinding(())).resolve("nothing.example")
        await guarded.close()

    asyncio.run(scenario())


def test_promise_E11_a_number_that_stands_for_loopback_is_refused_when_resolved() -> None:
    async def scenario() -> None:
        for host in ("2130706433", "0x7f.1", "localhost"):
            with pytest.raises(OSError, match="loopback or private"):
                await GuardedResolver(False).resolve(host, 80)

    asyncio.run(scenario())
