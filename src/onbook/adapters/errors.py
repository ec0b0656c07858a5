"""Refusals that concern one row only, so that a wrapper can tell them from an outage."""

from onbook.ports.stores import StoreUnavailable


class RowRefused(StoreUnavailable):
    """The store works, but it will never take this row; trying again does not help."""


class AlreadyRecorded(RowRefused):
    """A row with this request_id is already committed."""
