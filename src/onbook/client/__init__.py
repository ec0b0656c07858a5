"""The Python client: :class:`Onbook` for plain code, :class:`AsyncOnbook` for asyncio."""

from onbook.client.async_client import AsyncOnbook
from onbook.client.errors import (
    OnbookAnswerError,
    OnbookAPIError,
    OnbookClientError,
    OnbookConnectionError,
    OnbookTimeoutError,
)
from onbook.client.fields import EnhanceFields
from onbook.client.sync_client import Onbook

__all__ = [
    "AsyncOnbook",
    "EnhanceFields",
    "Onbook",
    "OnbookAPIError",
    "OnbookAnswerError",
    "OnbookClientError",
    "OnbookConnectionError",
    "OnbookTimeoutError",
]
