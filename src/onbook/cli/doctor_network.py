"""The doctor's look at the port and at the worker."""

import http.client
import json
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from onbook.cli.doctor_checks import LOOK_S, Check, failure, ok, warning, within

if TYPE_CHECKING:
    from onbook.settings import Settings

_MAX_ANSWER_BYTES: Final = 65_536
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what to ask, not where to listen


def check_port(settings: "Settings") -> Check:
    """Look whether the port is free, or served by Onbook already."""
    host, port = settings.host, settings.port
    if port == 0:
        return ok("port", "Any free port is taken.")
    where = f"Port {port} on {host}"
    try:
        within(LOOK_S, lambda: _bind(host, port))
    except (OSError, OverflowError) as error:
        return _not_free(host, port, error)
    return ok("port", f"{where} is free.")


def _not_free(host: str, port: int, error: Exception) -> Check:
    where = f"Port {port} on {host}"
    if isinstance(error, TimeoutError | socket.gaierror):
        return failure("port", f"The address {host} is not found.", "correct ONBOOK_HOST")
    if isinstance(error, PermissionError):
        return failure(
            "port", f"{where} may not be used by this user.", "choose a port above 1023 with --port"
        )
    version = _served_version(host, port)
    if version is not None:
        return ok("port", f"{where} is served by Onbook {version}.")
    return failure(
        "port",
        f"{where} cannot be used, and it is not Onbook that answers there.",
        "stop what uses it, or choose another port with --port",
    )


def check_worker(settings: "Settings") -> Check | None:
    """Ask the worker elsewhere whether it is healthy; None where it is embedded."""
    if settings.worker_url is None:
        return None
    url, fix = settings.worker_url, "start the worker, or correct ONBOOK_WORKER_URL"
    try:
        status = within(LOOK_S, lambda: _health_status(url))
    except TimeoutError:
        return failure("worker", f"The worker does not answer within {LOOK_S:.0f} s.", fix)
    except (OSError, http.client.HTTPException):
        return failure("worker", "The worker cannot be reached.", fix)
    return _health(status, fix)


def _health(status: int, fix: str) -> Check:
    match status:
        case 200:
            return ok("worker", "The worker answers and is healthy.")
        case 401 | 403:
            return warning(
                "worker",
                "The worker answers, but does not tell its health without a key.",
                "none, if ONBOOK_WORKER_KEY is right",
            )
        case 503:
            return warning("worker", "The worker answers, but is not ready.", "look at its log")
        case _:
            return failure("worker", f"What answers as the worker says HTTP {status}.", fix)


def _health_status(url: str) -> int:
    parts = urlsplit(url)
    host = parts.hostname or ""
    status, _ = _get(parts.scheme, host, parts.port, parts.path.rstrip("/") + "/health")
    return status


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server does it, so that both get the same answer.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _served_version(host: str, port: int) -> str | None:
    """Return the version of the Onbook that answers there, or None."""
    try:
        status, body = within(LOOK_S, lambda: _get("http", _ANY.get(host, host), port, "/healthz"))
        answer = json.loads(body)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    if status != 200 or not isinstance(answer, dict) or answer.get("status") != "ok":
        return None
    version = answer.get("version")
    return version[:40] if isinstance(version, str) and version.isprintable() else None


def _get(scheme: str, host: str, port: int | None, path: str) -> tuple[int, bytes]:
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=LOOK_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(_MAX_ANSWER_BYTES)
    finally:
        connection.close()
