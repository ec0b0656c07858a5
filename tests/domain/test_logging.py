import io
import logging
from collections.abc import Iterator

import pytest
import structlog

from onbook.adapters.telemetry.logs import configure_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, out = logging.getLogger(), io.StringIO()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    configure_logging("info", "json", out)
    yield out
    root.handlers[:], root.level = handlers, level
    structlog.configure(**config)


def test_a_librarys_exception_is_logged_by_type_alone(stream: io.StringIO) -> None:
    try:
        raise KeyError("secret prompt words")  # noqa: TRY301 - the case itself
    except KeyError:
        logging.getLogger("some.library").exception("Exception in ASGI application\n")
    assert "KeyError" in stream.getvalue()
    assert "secret" not in stream.getvalue()
    assert "Traceback" not in stream.getvalue()


def test_debug_lines_are_off_at_info(stream: io.StringIO) -> None:
    log = structlog.get_logger("onbook")
    log.debug("enhance.request", prompt_preview="secret prompt words")
    log.info("request", status=200)
    assert "secret" not in stream.getvalue()
    assert '"event": "request"' in stream.getvalue()
