"""Addresses: where a server may stand that is sent texts and a key, and the session that sends them.

require("https://api.openai.com/v1", private=False); what is open, private or of the link alone is refused.
"""

import ipaddress
import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

import requests

from stepladder.errors import ConfigError, RemoteError


def require(url: str, *, private: bool) -> None:
    """Refuse an address that is no public https one; a server of one's own (`private`) may be near and speak http.

    Addresses of the link alone, where clouds tell machines their secrets, are refused for all. Raises ConfigError, and
    RemoteError for a name that nobody knows.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username:
        raise ConfigError(f"model.url: expected https://<host>/..., found {parts.scheme}://{parts.hostname or ''}")
    if parts.scheme == "http" and not private:
        raise ConfigError(f"model.url: {url} would carry key and texts openly; take https, or model.private: true")
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    except OSError:
        if getproxies().get(parts.scheme):  # a proxy knows the names
            return
        raise RemoteError(f"model.url: nobody knows {parts.hostname}; is there a network?") from None
    for address in {ipaddress.ip_address(each[4][0].partition("%")[0]) for each in found}:
        if address.is_link_local or address.is_multicast or address.is_unspecified:
            raise ConfigError(f"model.url: {parts.hostname} is {address}, which is never asked")
        if not (address.is_global or private):
            raise ConfigError(f"model.url: {parts.hostname} is {address}, a private address; take model.private: true")


def session(key: str | None, *, width: int) -> requests.Session:
    """Return a session for so many requests at a time, with the key that a variable of the environment holds.

    The key of a ~/.netrc is never sent. Raises ConfigError where the variable is empty.
    """
    secret = os.environ.get(key, "") if key else None
    if secret == "":
        raise ConfigError(f"model.key: the variable {key} is not set; export {key}=<your key>")
    made = requests.Session()
    made.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=width))
    made.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=width))
    made.auth = lambda request: _with_key(request, secret)
    return made


def _with_key(request: requests.PreparedRequest, secret: str | None) -> requests.PreparedRequest:
    if secret:
        request.headers["Authorization"] = f"Bearer {secret}"
    return request
