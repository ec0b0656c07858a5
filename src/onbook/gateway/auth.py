"""Telling the caller of a request from its headers."""

from typing import TYPE_CHECKING

from onbook.domain.enhancement import Caller
from onbook.domain.errors import Forbidden
from onbook.flows.access_keys import KeyRing
from onbook.wire.asgi import header

if TYPE_CHECKING:
    from starlette.types import Scope


async def authenticate(scope: "Scope", keys: KeyRing) -> Caller:
    """Return the caller by ``Authorization: Bearer`` or ``apikey``.

    Raises:
        AuthRequired: no key, or one that is not good.
    """
    return await keys.authenticate(sent_key(scope))


def require(caller: Caller, needed: str) -> None:
    """Let ``caller`` pass if it carries the scope ``needed``.

    Raises:
        Forbidden: naming the scope.
    """
    if not caller.may(needed):
        raise Forbidden(
            f"The access key lacks the scope {needed}.", details={"scope_required": needed}
        )


def sent_key(scope: "Scope") -> str | None:
    """Return the key that the request carries, or None."""
    authorization = header(scope, b"authorization")
    if authorization is not None:
        kind, _, value = authorization.partition(" ")
        if kind.lower() == "bearer" and value.strip():
            return value.strip()
    return header(scope, b"apikey")
