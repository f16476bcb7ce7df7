"""Addresses that requests come from, behind proxies too, to count what one client has under way."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network

import gradio as gr


def address_of(request: gr.Request) -> str:
    """Returns the address of the client that sent a request; empty where it is not known."""
    client = request.client
    return client_address(client.host, request.headers) if client else ""


def client_address(connected: str, headers: Mapping[str, str]) -> str:
    """Returns the address of the client behind a connection from `connected`; of IPv6 its network of 64 bits,
    of which a household has one.

    A connection from a private address comes from a proxy where it brings `X-Forwarded-For`, as on a Space:
    each proxy appends whom it serves, so that the last public address is right, and those before it may be
    the client's invention. From a public address the header is the client's own, and does not count.
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
