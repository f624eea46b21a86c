"""One exchange with a web service that speaks JSON: patient with the network, silent about the token."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from zookeeper.errors import InputError, PublishError
from zookeeper.publish.sending import redact

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_TIMEOUT = 120.0
_LOCAL = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Service:
    """A web service: its address, and the token it wants as bearer (never printed).

    ``delays`` are the seconds to wait before each further attempt.

    >>> Service("https://zenodo.org/api", "secret")
    Service(address='https://zenodo.org/api')

    Raises
    ------
    InputError
        If the address is not https (plain http is accepted for this machine only).
    """

    address: str
    token: str = field(repr=False)
    delays: tuple[float, ...] = field(default=(1.0, 4.0, 16.0, 60.0), repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.address)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
            raise InputError(f"{self.address}: expected an https address; a token is not sent in the clear.")

    def call(
        self,
        method: str,
        url: str,
        value: Mapping[str, Any] | None = None,
        *,
        file: Path | None = None,
    ) -> Any:
        """Send a request with a JSON value or the bytes of a file, and return the JSON that comes back.

        Refused connections, broken ones and answers that ask for patience are tried again. Redirects are not
        followed, and nothing is sent to another host: the token stays with the service.

        Raises
        ------
        PublishError
            If the service refuses, or cannot be reached after all attempts.
        """
        target = url if "://" in url else f"{self.address.rstrip('/')}/{url}"
        self._check_host(target)
        last = ""
        for delay in (*self.delays, None):
            try:
                return self._attempt(method, target, value, file)
            except urllib.error.HTTPError as error:
                with error:
                    said = redact(error.read(2000).decode("utf-8", "replace"), self.token)
                last = f"{error.code} {said}".strip()
                if error.code not in _TRANSIENT:
                    break
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                last = redact(str(getattr(error, "reason", error)) or type(error).__name__, self.token)
            if delay is not None:
                self.sleep(delay)
        raise PublishError(f"{method} {target}: {_explain(last)}")

    def _attempt(self, method: str, url: str, value: Mapping[str, Any] | None, file: Path | None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        with ExitStack() as held:
            data: bytes | IO[bytes] | None = None
            if file is not None:
                data = held.enter_context(file.open("rb"))
                headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
            elif value is not None:
                data = json.dumps(value).encode()
                headers["Content-Type"] = "application/json"
            request = urllib.request.Request(url, data=data, headers=headers, method=method)
            answer = held.enter_context(_OPENER.open(request, timeout=_TIMEOUT))
            body = answer.read()
        try:
            return json.loads(body) if body else None
        except ValueError:
            raise PublishError(
                f"{method} {url}: expected JSON, got {len(body)} other bytes. Is the address right?"
            ) from None

    def _check_host(self, url: str) -> None:
        own, asked = urllib.parse.urlsplit(self.address), urllib.parse.urlsplit(url)
        if (own.scheme, own.netloc) != (asked.scheme, asked.netloc):
            raise PublishError(f"{url}: expected an address at {own.netloc}. The token was not sent there.")


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Redirects are answers, not orders: following one would show the token to another host."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        """Follow none."""
        return


_OPENER = urllib.request.build_opener(_StayHere)


def _explain(last: str) -> str:
    code = last[:3]
    if code in ("401", "403"):
        return f"access refused ({last}). Check that the token is valid and may write."
    if code == "404":
        return f"not found ({last}). Check the number and the address."
    return f"failed ({last}). The same command goes on where it stopped."
