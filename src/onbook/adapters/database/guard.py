"""One place where a driver's error becomes the port's error."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from onbook.adapters.database.errors import reason
from onbook.ports.stores import StoreUnavailable

_FAILURES: Final = (sqlite3.Error, OSError, ValueError, OverflowError)


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
    except NoConnectionLeft:
        told = "all connections to it are in use; try again"
    except SQLAlchemyError as error:
        told = reason(getattr(error, "orig", None) or error)
    except Exception as error:
        # Told by its module: importing the driver is for those who use Postgres.
        if not isinstance(error, _FAILURES) and not type(error).__module__.startswith("asyncpg."):
            raise
        told = reason(error)
    else:
        return
    raise StoreUnavailable(f"The database cannot {action}: {told}.") from None
