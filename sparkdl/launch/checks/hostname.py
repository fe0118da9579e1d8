"""Check the address that a host's own name resolves to: Gloo looks the name up, whatever interface it is given.

Pure, except for the look-up, which each host does for itself.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

__all__ = ["LOOPBACK_NAME", "NO_NAME", "refused_names", "useless_address"]

LOOPBACK_NAME = "127.x"
NO_NAME = "nothing"


def useless_address(name: str) -> str:
    """Return LOOPBACK_NAME or NO_NAME if the name resolves to an address of no use here, else ""."""
    try:
        return LOOPBACK_NAME if socket.gethostbyname(name).startswith("127.") else ""
    except OSError:
        return NO_NAME


def refused_names(addresses: Mapping[str, str]) -> str | None:
    """Return the error message, of one line, if ranks on these hosts cannot find each other, else None.

    Without this check Gloo would abort the process natively. `addresses` holds by host what `useless_address` returns
    there; a loopback address suffices for ranks of one host.
    """
    useless = {host: what for host, what in addresses.items() if what == NO_NAME or (what and len(addresses) > 1)}
    if not useless:
        return None
    what = " or ".join(sorted(set(useless.values())))
    return (
        f"the own name of {', '.join(sorted(useless))} resolves to {what} there, and ranks find each other by it; "
        "map it to the host's network address in /etc/hosts"
    )
