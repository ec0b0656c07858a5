"""The chain that a writer of the audit log extends: its head, and what it is not sure of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import structlog

from onbook.ports.stores import StoreUnavailable
from onbook.wire.audit_chain import Head, head_statement, link_hash
from onbook.wire.canonical import MAX_SAFE_INTEGER
from onbook.wire.signing import Signer

_log = structlog.get_logger(__name__)

# A row's columns of the chain: chain_id, seq, prev_hash, group_end, row_hash, signing_key_id,
# head_signature.
Place = tuple[str, int, str, int, str, str | None, str | None]
SignerSource = Callable[[], Signer]

# More than can be under way at once; an older one that comes to light only ends the chain.
_MAX_DOUBTFUL: Final = 16


def audited_value(value: object) -> object:
    """Return ``value`` of a row as the chain says it: UTC with microseconds, and JSON's numbers.

    An integer that has no canonical form (RFC 8785) is said as a text.
    """
    if isinstance(value, int):
        return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value


@dataclass(frozen=True, slots=True)
class Extension:
    """A group's places in the chain, and the head that it has once they are committed."""

    places: Sequence[Place]
    head: Head


class Chain:
    """One chain of one writer, which alone extends it. It lives as long as the writer does.

    The head moves only when a commit is known. After a commit whose outcome is not known, the
    writer asks the database where the chain ends (``uncertain``, ``settle``). What the database
    has lost since, by a backup that was restored, is not written over: the chain goes on behind
    its own head, so that the gap shows.

    Args:
        signer: Gives the key for the head of each group; None leaves heads unsigned.
    """

    def __init__(self, signer: SignerSource | None = None) -> None:
        self._signer = signer
        self._head = Head(chain_id=str(uuid4()))
        # Heads that the database may have although nobody was told, all behind the same head.
        self._doubtful: list[Head] = []
        self._uncertain = False

    @property
    def chain_id(self) -> str:
        """Which chain the next row goes into."""
        return self._head.chain_id

    @property
    def uncertain(self) -> bool:
        """Whether the database must be asked where the chain ends before it is extended."""
        return self._uncertain

    def extension(self, contents: Sequence[str]) -> Extension:
        """Return the places of one group of rows behind the head, the last one signed.

        Args:
            contents: The rows' content digests, in the order of the rows; at least one.

        Raises:
            StoreUnavailable: the head cannot be signed.
        """
        chain_id, previous = self._head.chain_id, self._head.row_hash
        end = self._head.seq + len(contents)
        places: list[Place] = []
        for seq, content in enumerate(contents, start=self._head.seq + 1):
            row_hash = link_hash(chain_id, seq, previous, end, content)
            places.append((chain_id, seq, previous, end, row_hash, None, None))
            previous = row_hash
        head = Head(chain_id=chain_id, seq=end, row_hash=previous)
        places[-1] = (*places[-1][:5], *self._signed(head))
        return Extension(places, head)

    def committed(self, head: Head) -> None:
        """Move the head: the group that ends there is in the database."""
        self._head = head
        self._doubtful = []
        self._uncertain = False

    def doubt(self, head: Head) -> None:
        """Note that the group that ends at ``head`` may be in the database, or may not."""
        if head not in self._doubtful:
            self._doubtful = [*self._doubtful, head][-_MAX_DOUBTFUL:]
        self._uncertain = True

    def settle(self, found: Head | None) -> None:
        """Take ``found``, where the chain ends in the database; None if nothing of it is there."""
        if found is not None and found in self._doubtful:
            self.committed(found)
        # A commit that the server has not finished yet may still come to light: ``taken``.
        self._uncertain = False

    def taken(self, found: Head | None) -> bool:
        """Tell whether the place behind the head is taken, and go on elsewhere if so.

        By a doubtful group that was committed late: its end becomes the head. By anything else,
        this chain ends at its head and a new one begins, so that no row of a stranger can keep
        ours out.

        Args:
            found: Where the chain ends in the database; None if nothing of it is there.
        """
        if found is None or found.seq <= self._head.seq:
            return False
        if found in self._doubtful:
            self.committed(found)
        else:
            _log.error("audit_chain_left", chain_id=self._head.chain_id, seq=self._head.seq)
            self.committed(Head(chain_id=str(uuid4())))
        return True

    def _signed(self, head: Head) -> tuple[str | None, str | None]:
        if self._signer is None:
            return None, None
        try:
            signer = self._signer()
            return signer.key_id, signer.sign(head_statement(head, signer.key_id))
        except Exception as error:
            _log.error("audit_head_unsigned", error_type=type(error).__name__)
            raise StoreUnavailable(
                f"The head of the audit chain cannot be signed ({type(error).__name__})."
            ) from error
