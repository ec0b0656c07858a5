"""Reading a worker request, and saying exactly what is wrong with a bad one."""

import json
from typing import Final

import msgspec

from onbook.wire.worker_api import (
    Endpoint,
    InferenceRequest,
    LegacyRequest,
    Message,
)

_requests: Final = msgspec.json.Decoder(InferenceRequest)
_legacy: Final = msgspec.json.Decoder(LegacyRequest)
_objects: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class BadRequestError(Exception):
    """The body is not a valid request. Neither text holds anything the caller wrote."""

    def __init__(self, message: str, action: str, fields: list[str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.action = action
        self.fields = fields


def read_request(endpoint: Endpoint, body: bytes) -> tuple[InferenceRequest, LegacyRequest | None]:
    """Decode ``body``; a legacy body comes back as the raw completion that it means.

    Raises:
        BadRequestError: with one sentence, a next step and the fields that are wrong.
    """
    try:
        # The decoder checks the encoding of the texts it builds only; Raw values are not built.
        body.decode("utf-8")
        keys = _objects.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequestError(
            "The body is not a UTF-8 JSON object.", "Send one JSON object with 'messages'."
        ) from None
    if "messages" not in keys and endpoint == "generate" and "inputs" in keys:
        return _read_legacy(body)
    if "messages" not in keys and "prompt" in keys:
        raise BadRequestError(
            "A worker has no prompt of its own and takes no 'prompt'.",
            "Send 'messages', or send the prompt to the gateway's enhance-prompt.",
            ["prompt"],
        )
    try:
        request = _requests.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequestError(*_explain(error)) from None
    _check_keys(body)
    if endpoint == "generate" and not any(message.content for message in request.messages):
        raise BadRequestError(
            "A raw completion needs at least one content that is not empty.",
            "Send the text to complete.",
            ["messages"],
        )
    return request, None


def _read_legacy(body: bytes) -> tuple[InferenceRequest, LegacyRequest]:
    try:
        legacy = _legacy.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequestError(*_explain(error)) from None
    _check_keys(body)
    parameters = legacy.parameters
    request = InferenceRequest(
        messages=[Message("user", legacy.inputs)],
        max_tokens=parameters.max_new_tokens,
        temperature=parameters.temperature if parameters.do_sample else 0.0,
        top_p=parameters.top_p,
    )
    return request, legacy


class _RepeatedKeyError(Exception):
    """A key stands twice in one object."""


def _check_keys(body: bytes) -> None:
    """Refuse a key that stands twice: two readers of one body could each take another value."""
    try:
        json.loads(body, object_pairs_hook=_unrepeated)
    except _RepeatedKeyError:
        raise BadRequestError(
            "The body has the same key twice in one object.", "Send each key once."
        ) from None
    except (ValueError, RecursionError):
        raise BadRequestError(
            "The body is not a UTF-8 JSON object.", "Send one JSON object with 'messages'."
        ) from None


def _unrepeated(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _RepeatedKeyError


def _explain(error: Exception) -> tuple[str, str, list[str]]:
    # msgspec names types, limits and a path; of the values only an unknown field's name.
    text = str(error)
    reason, _, path = text.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    if "unknown field" in reason:
        name = reason.rpartition("unknown field ")[2].strip("`")
        field = f"{field}.{name}" if field else name
        return (
            "The request has a field that is not known.",
            "Remove the field named in details.fields.",
            [field[:100]],
        )
    if "missing required field" in reason:
        name = reason.rpartition("required field ")[2].strip("`")
        field = f"{field}.{name}" if field else name
        return "A required field is missing.", "Add the field named in details.fields.", [field]
    if "Invalid enum value" in reason:
        reason = "The value is not one of the choices"
    return (
        f"{reason}." if reason and not reason.endswith(".") else reason,
        "Correct the field named in details.fields.",
        [field or "body"],
    )
