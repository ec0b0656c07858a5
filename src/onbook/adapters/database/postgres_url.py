"""The Postgres database behind a URL: where it is and how to sign in.

Imports only the standard library, so that a URL can be judged without the time that a driver
takes to import. No message repeats the URL or a part of it that could be a password.
"""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode

from onbook.adapters.database.errors import DatabaseUnusable

_SCHEMES: Final = ("postgresql://", "postgres://", "postgresql+asyncpg://")
_DEFAULT_PORT: Final = 5432

# https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_WORDS: Final = {"true": "require", "on": "require", "1": "require"} | {
    "false": "disable",
    "off": "disable",
    "0": "disable",
}
# Passed on as they are; the driver takes them in a URL only.
_PASSED_ON: Final = (
    "options",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslrootcert",
    "target_session_attrs",
)
_OURS: Final = ("dbname", "host", "password", "port", "ssl", "sslmode", "user")


@dataclass(frozen=True, slots=True)
class _Address:
    """What a URL says. ``ports`` has one port for each of ``hosts``."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    database: str
    user: str | None
    password: str | None = field(repr=False)
    ssl: str | None
    passed_on: tuple[tuple[str, str], ...]


def is_postgres(url: str) -> bool:
    """Tell whether ``url`` is meant for Postgres; it may be wrong in its details all the same."""
    return url.startswith(_SCHEMES)


def connect_arguments(url: str) -> dict[str, object]:
    """Return what ``asyncpg.connect`` needs to reach the database of ``url``.

    Understood are ``postgresql://``, ``postgres://`` and ``postgresql+asyncpg://``, several
    hosts, a socket directory as ``host=/path``, ``sslmode=`` (or ``ssl=``), the certificate
    options of libpq, ``target_session_attrs=`` and ``options=``. What the URL leaves out comes
    from where libpq takes it: ``PGPASSWORD``, ``~/.pgpass`` and the like.

    Raises:
        DatabaseUnusable: it is not a URL of a Postgres database.
    """
    address = _parsed(url)
    arguments: dict[str, object] = {"database": address.database}
    if address.hosts:
        arguments |= {"host": list(address.hosts), "port": list(address.ports)}
    for name in ("user", "password", "ssl"):
        value = getattr(address, name)
        if value is not None:
            arguments[name] = value
    if address.passed_on:
        arguments["dsn"] = "postgresql://?" + urlencode(address.passed_on)
    return arguments


def place(url: str) -> str:
    """Return where the database of ``url`` is, as in "onbook at db.example:5432".

    Raises:
        DatabaseUnusable: it is not a URL of a Postgres database.
    """
    address = _parsed(url)
    if not address.hosts:
        return address.database
    where = ", ".join(
        host if host.startswith("/") else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for host, port in zip(address.hosts, address.ports, strict=True)
    )
    return f"{address.database} at {where}"


def _parsed(url: str) -> _Address:
    try:
        return _address(url)
    except ValueError as error:
        # Only sentences of ours get here: what Python says of a value would repeat the value.
        told = error.args[0] if isinstance(error, _Wrong) else "its %-codes are not UTF-8"
        raise DatabaseUnusable(
            f"The database URL is not right: {told}; write it as "
            "postgresql://user:password@host:port/name, with %-codes for special characters."
        ) from None


class _Wrong(ValueError):
    """What is wrong with a URL, without any of it."""


def _address(url: str) -> _Address:
    scheme = next((scheme for scheme in _SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        raise _Wrong("it does not begin with postgresql://")
    rest, _, query = url.removeprefix(scheme).partition("?")
    authority, _, path = rest.partition("/")
    login, _, hostlist = authority.rpartition("@")
    if any(mark in path + query for mark in "@#") or "#" in authority or "/" in path:
        # Most likely the rest of a password that was cut off at a "/", a "?" or a "#".
        raise _Wrong("a special character in it is not written as a %-code")
    options = _options(query)
    user, _, password = login.partition(":")
    hosts, ports = _hosts(
        options.get("host") or unquote(hostlist, errors="strict"), options.get("port")
    )
    found = _Address(
        hosts=hosts,
        ports=ports,
        database=options.get("dbname") or unquote(path, errors="strict"),
        user=options.get("user") or unquote(user, errors="strict") or None,
        password=options.get("password") or unquote(password, errors="strict") or None,
        ssl=_ssl(options),
        passed_on=tuple((name, options[name]) for name in _PASSED_ON if name in options),
    )
    if not found.database:
        raise _Wrong("it names no database")
    values = (*hosts, found.database, found.user or "", found.password or "", *options.values())
    if any(ord(character) < ord(" ") for value in values for character in value):
        raise _Wrong("it holds a control character")
    return found


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True, errors="strict"))
    if not options.keys() <= {*_OURS, *_PASSED_ON}:
        raise _Wrong(f"its options may only be {', '.join(sorted((*_OURS, *_PASSED_ON)))}")
    return options


def _ssl(options: dict[str, str]) -> str | None:
    mode = options.get("sslmode") or options.get("ssl")
    if mode is None:
        return None
    mode = _SSL_WORDS.get(mode, mode)
    if mode not in _SSL_MODES:
        raise _Wrong(f"sslmode must be one of {', '.join(_SSL_MODES)}")
    return mode


def _hosts(hostlist: str, portlist: str | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if not hostlist:
        # Without a host the driver looks where libpq does, and a port alone has no meaning.
        if portlist:
            raise _Wrong("it names a port without a host")
        return (), ()
    pairs = [_host_and_port(item) for item in hostlist.split(",")]
    given = [_port(item) for item in portlist.split(",")] if portlist else []
    if len(given) not in (0, 1, len(pairs)):
        raise _Wrong("it names more or fewer ports than hosts")
    shared = given * len(pairs) if len(given) == 1 else given
    ports = [
        port or (shared[position] if shared else _DEFAULT_PORT)
        for position, (_, port) in enumerate(pairs)
    ]
    return tuple(host for host, _ in pairs), tuple(ports)


def _host_and_port(text: str) -> tuple[str, int | None]:
    if text.startswith("/"):
        return text, None
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise _Wrong("an IPv6 address in it is not written as [address]:port")
        port = rest[1:]
    else:
        host, _, port = text.partition(":")
        if ":" in port:
            raise _Wrong("an IPv6 address in it is not written as [address]:port")
    if not host:
        raise _Wrong("a host in it is empty")
    return host, _port(port) if port else None


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:6]) < 2**16:
        raise _Wrong("a port in it is not a number between 1 and 65535")
    return int(text)
