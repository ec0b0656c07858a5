"""One place where a driver's error becomes the port's error."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from onbook.adapters.database.errors import reason
from onbook.ports.stores import StoreUnavailable


@contextmanager
def store_errors(action: str) -> Iterator[None]:
    """Turn every failure of the database into ``StoreUnavailable``.

    Args:
        action: What failed, as in "The database cannot <action>".

    Raises:
        StoreUnavailable: with the cause in words of ours; a driver's message repeats the values
            of the statement, so neither it nor its traceback is chained.
    """
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
    except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
        cause = error
    else:
        return
    raise StoreUnavailable(f"The database cannot {action}: {reason(cause)}.") from None
