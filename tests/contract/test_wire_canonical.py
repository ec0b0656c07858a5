"""Canonical JSON against the reference implementation of RFC 8785."""

import math
import struct
from typing import cast

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from onbook.wire.canonical import (
    CanonicalizationError,
    canonical_json,
    object_writer,
    sha256_hex,
    sha256_of,
    sha256_of_text,
)
from onbook.wire.worker_api import InferenceRequest, Message, Sampling

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_MAX = 2**53 - 1
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_ANY_FLOAT = st.floats(allow_nan=False, allow_infinity=False)
_BITS = st.integers(0, 2**64 - 1).map(
    lambda bits: cast(float, struct.unpack("<d", struct.pack("<Q", bits))[0])
)
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-_MAX, _MAX)
    | _ANY_FLOAT
    | _BITS.filter(math.isfinite)
    | _TEXT
)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner), max_leaves=20
)


@given(_VALUES)
def test_every_json_value_is_written_as_the_reference_does(value: Json) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@settings(max_examples=50)
@given(st.dictionaries(st.text("aZ09_-é\u20ac\U0001f600\ufb33", max_size=4), _VALUES, max_size=8))
def test_objects_of_one_shape_are_written_as_the_reference_does(value: dict[str, Json]) -> None:
    write = object_writer(list(value))
    for _ in range(2):
        assert write(list(value.values())) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [math.nan, 2**53, "\ud800", {1, 2}, {1: 2}], ids=ascii)
def test_a_writer_of_one_shape_refuses_what_has_no_form(value: object) -> None:
    with pytest.raises(CanonicalizationError):
        object_writer(["a", "b"])([1, value])


class _Loud(int):
    def __repr__(self) -> str:
        return "loud"


class _Label(str):
    __slots__ = ()


def test_subclasses_are_written_as_what_they_are() -> None:
    value = [_Loud(7), _Label("a"), {_Label("k"): (_Loud(1), 2)}]
    assert canonical_json(value) == b'[7,"a",{"k":[1,2]}]'


@given(st.lists(st.integers(-(2**54), 2**54) | st.booleans(), max_size=6))
def test_lists_of_integers_keep_to_the_limit_of_a_double(values: list[int]) -> None:
    if all(-_MAX <= value <= _MAX for value in values):
        assert canonical_json(values) == rfc8785.dumps(values)
    else:
        with pytest.raises(CanonicalizationError):
            canonical_json(values)


@given(_BITS.filter(math.isfinite))
def test_a_double_of_any_bits_is_written_as_the_reference_does(value: float) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        # The RFC's own table (appendix B) and the layout's borders.
        (-0.0, b"0"),
        (0.0, b"0"),
        (5e-324, b"5e-324"),
        (-5e-324, b"-5e-324"),
        (1.7976931348623157e308, b"1.7976931348623157e+308"),
        (9007199254740992.0, b"9007199254740992"),
        (295147905179352830000.0, b"295147905179352830000"),
        (1e20, b"100000000000000000000"),
        (999999999999999900000.0, b"999999999999999900000"),
        (1e21, b"1e+21"),
        (1e23, b"1e+23"),
        (1e-6, b"0.000001"),
        (9.999999999999997e-7, b"9.999999999999997e-7"),
        (1e-7, b"1e-7"),
        (333333333.3333332, b"333333333.3333332"),
        (-1.5, b"-1.5"),
        (10.0, b"10"),
        (_MAX, b"9007199254740991"),
        (-_MAX, b"-9007199254740991"),
        (True, b"true"),
        ([1, True, 1.0, False, None], b"[1,true,1,false,null]"),
    ],
)
def test_numbers_at_the_borders(value: Json, written: bytes) -> None:
    assert canonical_json(value) == written


def test_control_characters_are_escaped_and_nothing_else_is() -> None:
    text = "".join(map(chr, range(0x20))) + '"\\/\x7f\x80\u2028\U0001f600'
    assert canonical_json(text) == rfc8785.dumps(text)
    assert object_writer(["a"])([text]) == rfc8785.dumps({"a": text})
    assert b"\\u001f" in canonical_json(text)
    assert "\u2028".encode() in canonical_json(text)


def test_keys_are_sorted_by_utf16_units_and_not_by_code_points() -> None:
    # U+1F600 starts with the unit D83D, so it comes before U+FB33 although its code point is larger
    keys = ["\ufb33", "\U0001f600", "\u20ac", "\r", "1", "\x80", "\u00f6"]
    value = dict.fromkeys(keys, 0)
    assert canonical_json(value) == rfc8785.dumps(value)
    assert list(msgspec.json.decode(canonical_json(value))) == [
        "\r", "1", "\x80", "\u00f6", "\u20ac", "\U0001f600", "\ufb33",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**53,
        -(2**53),
        10**400,
        "\ud800",
        "a\udc00b",
        {"\ud800": 1},
        {"\ud800": 1, "\U0001f600": 2},
        {1: 2},
        {None: 2},
        {"a": object()},
        b"bytes",
        {1, 2},
        [[math.nan]],
    ],
    # The same in every process: the tests are shared out by name.
    ids=lambda value: "an object" if type(value) is dict and "a" in value else repr(value),
)
def test_what_has_no_canonical_form_is_an_error(value: object) -> None:
    with pytest.raises(CanonicalizationError):
        canonical_json(value)


def test_nesting_beyond_the_stack_is_an_error_and_no_crash() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(CanonicalizationError, match="nested"):
        canonical_json(value)
    # Taken apart from the outside in: freeing it whole would recurse in the interpreter.
    while value:
        value = cast("list[object]", value.pop())


@pytest.mark.parametrize("value", ["secret \ud800", {"secret": math.nan}, {"secret": object()}])
def test_errors_do_not_repeat_the_value(value: object) -> None:
    with pytest.raises(CanonicalizationError) as caught:
        canonical_json(value)
    assert "secret" not in str(caught.value)


def test_equal_structs_have_equal_forms_even_where_defaults_are_left_out_elsewhere() -> None:
    spelled = msgspec.json.decode(b'{"temperature":0.7,"top_p":0.9}', type=Sampling)
    assert spelled == Sampling()
    assert canonical_json(spelled) == canonical_json(Sampling())
    form = msgspec.json.decode(canonical_json(Sampling()), type=dict)
    assert set(form) == set(Sampling.__struct_fields__)


class _Renamed(msgspec.Struct, rename="camel"):
    two_words: int
    inner: list[Message]


def test_a_struct_is_written_under_its_wire_names_and_with_its_inner_structs() -> None:
    value = _Renamed(1, [Message("user", "hé")])
    assert canonical_json(value) == rfc8785.dumps(
        {"twoWords": 1, "inner": [{"role": "user", "content": "hé"}]}
    )


def test_a_request_survives_the_wire_with_its_form_unchanged() -> None:
    request = InferenceRequest(messages=[Message("user", "a")], temperature=1e-7, seed=0)
    again = msgspec.json.decode(msgspec.json.encode(request), type=InferenceRequest)
    assert canonical_json(again) == canonical_json(request)


def test_digests_are_the_sha256_of_the_bytes() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_hex(b"") == sha256_of_text("") == empty
    assert sha256_of({"b": 1, "a": 2}) == sha256_hex(b'{"a":2,"b":1}')
    assert sha256_of_text("é") == sha256_hex("é".encode())
    assert sha256_of_text("\ud800") != sha256_of_text("\ud801")
