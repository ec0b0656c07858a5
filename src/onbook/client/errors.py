"""What a call can end with besides an answer.

::

    OnbookClientError
    ├── OnbookAPIError          the service answered with an error body
    ├── OnbookConnectionError   the service could not be reached, or the connection broke
    ├── OnbookTimeoutError      the answer did not come in time
    └── OnbookAnswerError       something answered, but not as this service does

None of them contains prompt text or the access key.
"""

from onbook.wire.problem import Problem


class OnbookClientError(Exception):
    """A call that ended without a result."""


class OnbookAPIError(OnbookClientError):
    """The service answered with an error.

    Args:
        status: The HTTP status.
        problem: The error body: code, sentence, what to do next, request id.
    """

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(f"{problem.error_code} ({status}): {problem.error}")
        self.status = status
        self.problem = problem


class OnbookConnectionError(OnbookClientError):
    """The service could not be reached; whether the request was served is not known."""


class OnbookTimeoutError(OnbookClientError):
    """The answer did not come in time; whether the request was served is not known."""


class OnbookAnswerError(OnbookClientError):
    """The answer is not one of this service: a proxy's page, or a wrong address.

    Args:
        status: The HTTP status of the answer.
    """

    def __init__(self, status: int) -> None:
        super().__init__(
            f"The answer (HTTP {status}) is not one of Onbook; check the address of the service."
        )
        self.status = status
