from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.errors import DatabaseUnusable
from onbook.adapters.database.postgres_connection import connect
from onbook.adapters.database.postgres_url import connect_arguments, is_postgres, place
from postgres import USER, PostgresServer

_AT = {"host": ["h"], "port": [5432], "database": "d"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://h/d", _AT),
        ("postgres://h/d", _AT),
        ("postgresql+asyncpg://h/d", _AT),
        ("postgresql://u@h/d", {**_AT, "user": "u"}),
        ("postgresql://u:p@h:1/d", {**_AT, "port": [1], "user": "u", "password": "p"}),
        ("postgresql://u:a%40b%2F%25@h/d%20e", {**_AT, "user": "u", "password": "a@b/%"}),
        ("postgresql://u%40t:p:q@h/d", {**_AT, "user": "u@t", "password": "p:q"}),
        ("postgresql://a:1,b/d", {"host": ["a", "b"], "port": [1, 5432], "database": "d"}),
        ("postgresql://a,b/d?port=7", {"host": ["a", "b"], "port": [7, 7], "database": "d"}),
        ("postgresql://[::1]:7/d", {"host": ["::1"], "port": [7], "database": "d"}),
        ("postgresql://[::1]/d", {"host": ["::1"], "port": [5432], "database": "d"}),
        ("postgresql:///d", {"database": "d"}),
        ("postgresql:///d?host=/run/x", {**_AT, "host": ["/run/x"]}),
        ("postgresql://u@%2Frun%2Fx/d", {**_AT, "host": ["/run/x"], "user": "u"}),
        (
            "postgresql:///?host=h&dbname=d&user=u&password=p",
            {**_AT, "user": "u", "password": "p"},
        ),
        ("postgresql://h/d?sslmode=verify-full", {**_AT, "ssl": "verify-full"}),
        ("postgresql://h/d?ssl=require", {**_AT, "ssl": "require"}),
        ("postgresql://h/d?ssl=true", {**_AT, "ssl": "require"}),
        ("postgresql://h/d?ssl=false", {**_AT, "ssl": "disable"}),
        (
            "postgresql://h/d?sslmode=verify-ca&sslrootcert=/a%20b",
            {**_AT, "ssl": "verify-ca", "dsn": "postgresql://?sslrootcert=%2Fa+b"},
        ),
    ],
)
def test_what_a_url_says(url: str, expected: dict[str, object]) -> None:
    assert is_postgres(url)
    found = connect_arguments(url)
    assert found == {**expected, "database": found["database"]}
    assert found["database"] in ("d", "d e")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("postgresql://u:S3cret@h", "no database"),
        ("postgresql://u:S3cret@h/", "no database"),
        ("postgresql://u:S3cret@h:0/d", "port"),
        ("postgresql://u:S3cret@h:65536/d", "port"),
        ("postgresql://u:S3cret@h:x/d", "port"),
        ("postgresql://u:S3cret@h:٣/d", "port"),
        ("postgresql://u:S3cret@h,/d", "host"),
        ("postgresql://u:S3cret@::1/d", "IPv6"),
        ("postgresql://u:S3cret@[::1/d", "IPv6"),
        ("postgresql://u:S3cret@a,b/d?port=1,2,3", "ports"),
        ("postgresql://u:S3cret@h/d?S3cret=1", "options"),
        ("postgresql://u:S3cret@h/d?sslmode=S3cret", "sslmode"),
        ("postgresql://u:S3cret%ff@h/d", "UTF-8"),
        ("postgresql://u:S3cret%00@h/d", "control character"),
        ("postgresql://u:S3cret@h/d?options=%0a", "control character"),
        # A password that was pasted as it is.
        ("postgresql://u:12/S3cret@h/d", "%-code"),
        ("postgresql://u:12?S3cret@h/d", "%-code"),
        ("postgresql://u:12#S3cret@h/d", "%-code"),
        ("mysql://u:S3cret@h/d", "postgresql://"),
    ],
)
def test_a_url_that_is_not_right(url: str, word: str) -> None:
    for ask in (connect_arguments, place):
        with pytest.raises(DatabaseUnusable, match=word) as caught:
            ask(url)
        assert "S3cret" not in str(caught.value)
        assert caught.value.__suppress_context__


def test_where_a_database_is_said_without_the_sign_in() -> None:
    assert place("postgresql://u:p@h/d") == "d at h:5432"
    assert place("postgresql://u:p@a,[::1]:7/d") == "d at a:5432, [::1]:7"
    assert place("postgresql:///d?host=/run/x") == "d at /run/x"
    assert place("postgresql:///d") == "d"


def test_which_urls_are_meant_for_postgres() -> None:
    assert is_postgres("postgres://")
    assert not is_postgres("sqlite+aiosqlite:////tmp/postgresql://")


def test_an_engine_names_both_kinds_of_url() -> None:
    with pytest.raises(DatabaseUnusable, match=r"sqlite\+aiosqlite:///.*postgresql://") as caught:
        create_engine("mysql://u:S3cret@h/d")
    assert "S3cret" not in str(caught.value)


_plain = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1)


@given(user=_plain, password=_plain, database=_plain)
def test_any_sign_in_survives_its_percent_codes(user: str, password: str, database: str) -> None:
    url = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@h/"
    found = connect_arguments(url + quote(database, safe=""))
    assert (found["user"], found["password"], found["database"]) == (user, password, database)


@given(st.text())
def test_any_text_is_a_url_or_is_refused_in_one_sentence(text: str) -> None:
    sentence = ""
    try:
        connect_arguments("postgresql://" + text)
    except DatabaseUnusable as error:
        sentence = str(error)
    assert "\n" not in sentence


async def test_the_server_is_reached_by_tcp_and_by_socket(postgres: PostgresServer) -> None:
    secret = quote(postgres.password, safe="")
    by_socket = (
        f"postgres:///postgres?host={postgres.socket_directory}&port={postgres.port}"
        f"&user={USER}&password={secret}"
    )
    for url in (postgres.url(), postgres.url() + "?sslmode=disable", by_socket):
        connection = await connect(url, statement_timeout_s=2.5)
        try:
            for name, value in (
                ("application_name", "onbook"),
                ("statement_timeout", "2500ms"),
                ("idle_in_transaction_session_timeout", "30s"),
            ):
                assert await connection.fetchval(f"SHOW {name}") == value
        finally:
            await connection.close()


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("?sslmode=require", "encrypted"),
        ("?sslmode=verify-full&sslrootcert=/none", "certificate"),
    ],
)
async def test_encryption_that_cannot_be_had_is_named(
    postgres: PostgresServer,
    option: str,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Exception, match=word) as caught:
        await connect(postgres.url() + option)
    assert postgres.password not in str(caught.value)
