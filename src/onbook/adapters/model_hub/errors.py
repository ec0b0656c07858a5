"""What can go wrong between a hub and the disk; every message is one sentence for a person."""


class PullFailed(Exception):
    """The model cannot be pulled; the message says why, and what to do."""


class HubUnreachable(PullFailed):
    """The hub or its storage cannot be reached, or broke off: worth another try."""
