"""What a flow reports while it runs. Reporting never fails a request."""

from typing import Protocol

from onbook.domain.enhancement import EnhanceCommand, Enhancement, ModelRun
from onbook.domain.errors import OnbookError
from onbook.domain.messages import Composed
from onbook.domain.templates import ResolvedTemplate


class EnhanceObserver(Protocol):
    """Follows one enhancement. Prompt text may go to the log at DEBUG only."""

    def requested(self, request_id: str, command: EnhanceCommand) -> None:
        """The request is checked and about to be served."""

    def template_selected(self, request_id: str, resolved: ResolvedTemplate) -> None:
        """The template is chosen."""

    def sending(self, request_id: str, composed: Composed, max_tokens: int) -> None:
        """The payload is composed and goes to the worker."""

    def inferred(self, request_id: str, run: ModelRun) -> None:
        """A result of the worker was verified and is going to be used."""

    def worker_failed(self, request_id: str, error: OnbookError, attempt: int) -> None:
        """The worker gave no usable result."""

    def finished(self, enhancement: Enhancement) -> None:
        """The row is committed and the answer goes out."""

    def failed(self, request_id: str, error: OnbookError) -> None:
        """The request ends in an error."""
