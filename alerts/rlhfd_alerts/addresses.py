"""Which addresses a target may be at: public ones, and private ones where the configuration says so; pure."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

__all__ = ["literal_refusal", "refusal"]

_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_SHARED = ipaddress.IPv4Network("100.64.0.0/10")
_SITE_LOCAL = ipaddress.IPv6Network("fec0::/10")
# Where clouds hand credentials to whoever asks; some of these are otherwise ordinary private addresses.
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")))


def refusal(address: str, allow_private: bool) -> str | None:
    """Return why ``address`` (an IP address) is no place for a target, ``None`` if it is one.

    Link-local, metadata, multicast and reserved addresses never are; loopback and private ones with
    ``allow_private``. An address that embeds an IPv4 address is judged as that one.
    """
    try:
        ip = _inner(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return "not an IP address"
    if ip in _METADATA or ip.is_link_local or (ip.version == 6 and ip in _SITE_LOCAL):
        return "a link-local or metadata address"
    if ip.is_multicast or ip.is_unspecified or (ip.is_reserved and not ip.is_loopback):
        return "a multicast or reserved address"
    if ip.is_loopback or ip.is_private or not ip.is_global or (ip.version == 4 and ip in _SHARED):
        return None if allow_private else "a loopback or private address"
    return None


def literal_refusal(url: str) -> str | None:
    """Return why a ``url`` whose host is spelled as an IP address, or is localhost, needs ``allow_private``."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return "a loopback or private address"
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None  # a name: judged when it is resolved
    return refusal(host, allow_private=False)


def _inner(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(ip, IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.teredo is not None:
        return ip.teredo[1]
    if any(ip in network for network in _NAT64) or (ip in _COMPATIBLE and int(ip) > 1):
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip
