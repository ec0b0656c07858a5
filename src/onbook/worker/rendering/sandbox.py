"""Asks a process of its own what a chat template makes of marks in place of contents."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, cast

MAX_TEMPLATE_CHARS: Final = 1_048_576
_TIMEOUT_S: Final = 30
# Windows starts no process without it.
_KEPT_VARIABLES: Final = ("SYSTEMROOT",)
_CHILD: Final = Path(__file__).with_name("template_child.py")

Failure = Literal["refused", "broken", "long", "unbounded", "large", "clock"]
WHY: Final[dict[Failure, str]] = {
    "refused": "refuses these turns or fails on them",
    "broken": "is not a template that can be read",
    "long": "writes over a million characters",
    "unbounded": "does not come to an end within its limits of time and memory",
    "large": "is larger than a million characters",
    "clock": "asks for the date",
}


@dataclass(frozen=True, slots=True)
class Written:
    """What a template wrote for one sequence of roles, or why it wrote nothing.

    ``mark`` is the pattern of the marks that stood for the contents; its group is their place.
    """

    roles: tuple[str, ...]
    mark: str
    text: str | None
    failure: Failure | None = None
    asked_the_time: bool = False


class _UnboundedError(Exception):
    """The process was killed: by its limits, or because the machine is short of something."""


def written(
    template: str, bos: str, eos: str, shapes: tuple[tuple[str, ...], ...]
) -> tuple[Written, ...]:
    """Render ``template`` once per sequence of roles, in a sandbox with limits. Blocking.

    Args:
        template: The model's own chat template.
        bos: Text of the token that begins a prompt, "" where there is none.
        eos: Text of the token that ends a text, "" where it is not known.
        shapes: Sequences of roles.
    """
    if len(template) > MAX_TEMPLATE_CHARS:
        return tuple(Written(roles, "", None, "large") for roles in shapes)
    try:
        return _written(template, bos, eos, shapes)
    except _UnboundedError:
        return tuple(Written(roles, "", None, "unbounded") for roles in shapes)


@lru_cache(maxsize=16)
def _written(
    template: str, bos: str, eos: str, shapes: tuple[tuple[str, ...], ...]
) -> tuple[Written, ...]:
    # Drawn anew, so that no template can hold a mark of its own.
    nonce = secrets.token_hex(8)
    conversations = [
        [{"role": role, "content": f"x{nonce}n{at:05d}x"} for at, role in enumerate(roles)]
        for roles in shapes
    ]
    answers = _ask({"template": template, "bos": bos, "eos": eos, "conversations": conversations})
    return tuple(
        Written(
            roles,
            rf"x{nonce}n(\d{{5}})x",
            cast(str | None, answer.get("text")),
            cast(Failure | None, answer.get("failure")),
            bool(answer.get("clock")),
        )
        for roles, answer in zip(shapes, answers, strict=True)
    )


def _ask(request: dict[str, object]) -> Sequence[dict[str, object]]:
    try:
        # No environment: keys and addresses of this process are nothing for a stranger's code.
        done = subprocess.run(  # noqa: S603 - our own file, by our own interpreter
            [sys.executable, "-I", str(_CHILD)],
            input=json.dumps(request).encode("utf-8", "surrogatepass"),
            capture_output=True,
            timeout=_TIMEOUT_S,
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            check=False,
        )
        if done.returncode != 0:
            raise _UnboundedError
        return cast(Sequence[dict[str, object]], json.loads(done.stdout))
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise _UnboundedError from error
