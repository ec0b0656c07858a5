"""``GET /``: the first page that a new user sees."""

from importlib import resources
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, StrictUndefined

from onbook import __version__
from onbook.admin import status
from onbook.admin.assets import Assets
from onbook.admin.responses import send_page
from onbook.bootstrap import Service
from onbook.wire.gateway_api import MAX_PROMPT_CHARS
from onbook.wire.worker_api import WorkerInfo

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_MAX_SEED: Final = 2**32 - 2


class StartPage:
    """The status strip, the form, and how to do the same from a terminal."""

    def __init__(self, service: Service, worker_info: WorkerInfo | None, assets: Assets) -> None:
        self._service = service
        self._worker_info = worker_info
        source = (
            resources.files("onbook.admin").joinpath("html", "start.html.j2").read_text("utf-8")
        )
        self._template = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        ).from_string(
            source,
            globals={
                "assets": assets.base,
                "version": __version__,
                "words": {
                    "overall": status.OVERALL_WORDS,
                    "source": status.SOURCE_WORDS,
                    "database": status.DATABASE_WORDS,
                    "worker": status.WORKER_WORDS,
                },
                "max_prompt_chars": MAX_PROMPT_CHARS,
                "max_seed": _MAX_SEED,
            },
        )

    async def __call__(self, scope: "Scope", _receive: "Receive", send: "Send") -> None:
        """Answer the page as things are now."""
        body = self._template.render(
            status=status.status_of(self._service),
            worker=status.worker_card(self._service, self._worker_info),
            origin=_origin(scope),
        )
        await send_page(
            send, body.encode(), media_type="text/html; charset=utf-8", cache="no-store"
        )


def _origin(scope: "Scope") -> str:
    """Return the origin of the socket, for readers without scripts.

    The Host header is the caller's and ends up in a command to copy, so it is not used.
    """
    host, port = scope.get("server") or ("127.0.0.1", None)
    shown = f"[{host}]" if ":" in host else host
    return f"{scope.get('scheme', 'http')}://{shown}" + (f":{port}" if port else "")
