"""Reading bodies and query strings: every wrong field named, none of its values repeated."""

import json
from contextlib import suppress
from time import process_time
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from onbook.wire.decoding import read_query, read_struct
from onbook.wire.gateway_api import FieldErrors, NotJsonError


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    size: Annotated[int, Meta(ge=1)] = 1


class Outer(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=5)]
    kind: Literal["a", "b"] = "a"
    inner: Inner | None = None
    many: list[Inner] = []
    free: dict[str, object] = {}


class Query(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    q: Annotated[str, Meta(max_length=5)] | None = None
    on: bool | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


def wrong(body: object) -> dict[str, str]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(FieldErrors) as caught:
        read_struct(raw, Outer)
    return caught.value.fields


def wrong_query(query: bytes) -> dict[str, str]:
    with pytest.raises(FieldErrors) as caught:
        read_query(query, Query)
    return caught.value.fields


def test_a_body_becomes_its_struct() -> None:
    read = read_struct(b'{"name": "n", "inner": {"text": "t", "size": 2}}', Outer)
    assert read == Outer(name="n", inner=Inner("t", 2))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"1", b'{"name": "\xff"}', b'{"name": "\\ud800"}', b"[" * 9999],
)
def test_what_is_no_json_object_is_told_apart(body: bytes) -> None:
    with pytest.raises(NotJsonError):
        read_struct(body, Outer)


def test_every_wrong_field_is_named_with_its_path() -> None:
    fields = wrong(
        {
            "kind": "secret",
            "inner": {"size": 0, "colour": "secret"},
            "many": [{"text": "fine"}, {"text": 5}],
            "other": "secret",
        }
    )
    assert set(fields) == {
        "name",
        "kind",
        "inner.text",
        "inner.size",
        "inner.colour",
        "many[1].text",
        "other",
    }
    assert "secret" not in str(fields)
    assert fields["name"] == "is required"
    assert fields["other"] == fields["inner.colour"] == "is not a known field"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "a\x00"}, "name"),
        ({"name": "a", "inner": {"text": "\x00"}}, "inner.text"),
        ({"name": "a", "many": [{"text": "\x00"}]}, "many[0].text"),
        ({"name": "a", "free": {"deep": {"er": ["\x00"]}}}, "free.deep.er[0]"),
        ({"name": "a", "free": {"\x00": 1}}, "free"),
    ],
)
def test_a_nul_character_is_found_wherever_it_is(body: object, field: str) -> None:
    assert wrong(body) == {field: "holds a NUL character"}


def test_a_written_out_escape_is_no_nul_character() -> None:
    assert read_struct(b'{"name": "\\\\u00"}', Outer).name == "\\u00"


def test_a_long_name_of_an_unknown_field_is_cut() -> None:
    assert all(len(name) <= 100 for name in wrong({"name": "a", "x" * 5000: 1}))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", Query()),
        (b"q=&on=true&limit=7", Query(q="", on=True, limit=7)),
        (b"q=null", Query(q="null")),
        (b"q=%C3%A9+x", Query(q="é x")),
        (b"on=0", Query(on=False)),
    ],
)
def test_a_query_becomes_its_struct(query: bytes, expected: Query) -> None:
    assert read_query(query, Query) == expected


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (b"limit=0", {"limit"}),
        (b"limit=x&on=maybe", {"limit", "on"}),
        (b"limit=1&limit=2", {"limit"}),
        (b"other=1&q=toolong", {"other", "q"}),
        (b"q=%00", {"q"}),
        (b"q=%ff", {"query"}),
        (b"&".join(b"a%d=1" % i for i in range(40)), {"query"}),
        (b"limit=" + b"9" * 5000, {"limit"}),
    ],
)
def test_every_wrong_parameter_is_named(query: bytes, names: set[str]) -> None:
    assert set(wrong_query(query)) == names


@given(st.binary(max_size=200))
def test_no_query_string_breaks_the_reader(query: bytes) -> None:
    with suppress(FieldErrors):
        read = read_query(query, Query)
        assert 1 <= read.limit <= 200


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=8,
    ).flatmap(
        lambda value: st.dictionaries(
            st.sampled_from(["name", "kind", "inner", "many", "free", "x"]), st.just(value)
        )
    )
)
def test_no_object_breaks_the_reader(data: dict[str, object]) -> None:
    with suppress(FieldErrors, NotJsonError):
        read = read_struct(json.dumps(data).encode(), Outer)
        assert 1 <= len(read.name) <= 5


def test_reading_takes_time_in_proportion_to_the_body() -> None:
    def seconds(count: int) -> float:
        body = json.dumps({"name": "a", "many": [{"text": "t"}] * count, "bad": 1}).encode()
        best = 9.0
        for _ in range(3):
            started = process_time()
            wrong(body)
            best = min(best, process_time() - started)
        return best

    seconds(10)
    assert seconds(16_000) < 16 * seconds(2_000) + 0.05
