"""Addresses of clients, also behind proxies, for limits per client."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network

import gradio as gr


def address_of(request: gr.Request) -> str:
    """Returns the address of the client that sent a request; empty if unknown."""
    client = request.client
    return client_address(client.host, request.headers) if client else ""


def client_address(connected: str, headers: Mapping[str, str]) -> str:
    """Returns the address of the client behind a connection from `connected`; for IPv6 its /64 network,
    because a household has one of those.

    A connection from a private address with `X-Forwarded-For` comes from a proxy, as on a Space. Each proxy
    appends the address it serves, so the last public one is right, and the client may have invented those
    before it. On a connection from a public address the client wrote the header, so it does not count.
    """
    if not _is_public(connected):
        named = [each.strip() for each in headers.get("x-forwarded-for", "").split(",")]
        connected = next((each for each in reversed(named) if _is_public(each)), connected)
    with suppress(ValueError):
        address = ip_address(connected)
        if address.version == 6 and not address.ipv4_mapped:
            return str(ip_network((int(address) >> 64 << 64, 64)))
    return connected


def _is_public(address: str) -> bool:
    with suppress(ValueError):
        return ip_address(address).is_global
    return False
