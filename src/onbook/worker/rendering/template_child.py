"""Renders a model's chat template in a process of its own, with hard limits.

A chat template is code from a stranger. It runs in Jinja's immutable sandbox, and because a
sandbox bounds neither time nor memory, in a process that the kernel kills. This file is started
by its path, so that nothing of the worker is imported here; it sees roles and marks, never a
caller's text. JSON in, JSON out.
"""

import json
import sys
from typing import NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 2
MEMORY_BYTES = 512 * 1024 * 1024
OUTPUT_CHARS = 1_048_576


class _Generation(Extension):
    """Lets ``{% generation %}`` stand for its body; trainers mark the assistant's text so."""

    tags = {"generation"}  # noqa: RUF012 - the name and kind are Jinja's

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main() -> None:
    """Answer the one request on standard input."""
    _limit()
    request = json.load(sys.stdin)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    # What comes out must depend on the roles alone.
    del environment.filters["random"]
    del environment.globals["lipsum"]
    environment.filters["tojson"] = _to_json
    clock: list[str] = []

    def strftime_now(_layout: str) -> str:
        clock.append("asked")
        return "0"

    def render(messages: list[dict[str, str]]) -> dict[str, object]:
        clock.clear()
        try:
            text = template.render(
                messages=messages,
                add_generation_prompt=True,
                tools=None,
                documents=None,
                bos_token=request["bos"],
                eos_token=request["eos"],
                raise_exception=_refuse,
                strftime_now=strftime_now,
            )
        except Exception:  # noqa: BLE001 - whatever a stranger's code raises is its refusal
            return {"failure": "refused", "clock": bool(clock)}
        if len(text) > OUTPUT_CHARS:
            return {"failure": "long", "clock": bool(clock)}
        return {"text": text, "clock": bool(clock)}

    try:
        template = environment.from_string(request["template"])
    except (TemplateError, SyntaxError, ValueError, RecursionError):
        answer = [{"failure": "broken", "clock": False} for _ in request["conversations"]]
    else:
        answer = [render(messages) for messages in request["conversations"]]
    json.dump(answer, sys.stdout)


def _limit() -> None:
    try:
        import resource  # noqa: PLC0415 - there is none on Windows
    except ImportError:
        return
    limits = {
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):
            # Some systems know a limit and do not let it be set; the caller's clock remains.
            continue


def _refuse(_message: str = "") -> NoReturn:
    raise TemplateError


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


if __name__ == "__main__":
    main()
