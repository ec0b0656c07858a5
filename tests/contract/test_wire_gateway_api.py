"""Reading the body of enhance-prompt: both spellings, every error named, no value repeated."""

import json
from time import process_time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.wire.gateway_api import (
    MAX_PROMPT_CHARS,
    EnhanceRequest,
    FieldErrors,
    NotJsonError,
    read_enhance_request,
)

# attribute, the contract's spelling, the other spelling, a value, a wrong value
FIELDS: list[tuple[str, str, str, object, object]] = [
    ("prompt", "prompt", "prompt", "a red fox", 1),
    ("job_type", "jobType", "job_type", "wan_video", 1),
    ("format", "format", "format", "video", "secret"),
    ("quality", "quality", "quality", "high", "secret"),
    ("selected_model", "selectedModel", "selected_model", "qwen_base", ""),
    ("content_type", "contentType", "content_type", "nsfw", "secret"),
    ("user_id", "user_id", "userId", "u-1", 1),
    ("target", "target", "target", "wan", ""),
    ("template_name", "template_name", "templateName", "t", ""),
    ("template_version", "template_version", "templateVersion", 3, 0),
    ("variables", "variables", "variables", {"style": "noir", "count": 2}, "secret"),
    ("seed", "seed", "seed", 0, -1),
    ("regeneration", "regeneration", "regeneration", True, "secret"),
    ("selected_presets", "selectedPresets", "selected_presets", ["p"], "secret"),
    ("negative_prompt", "negative_prompt", "negativePrompt", "blurry", 1),
    ("allow_fallback", "allow_fallback", "allowFallback", False, None),
    ("stream", "stream", "stream", True, "secret"),
    ("dry_run", "dry_run", "dryRun", True, 1),
]
TWO_SPELLINGS = [row for row in FIELDS if row[1] != row[2]]


def _read(**body: object) -> EnhanceRequest:
    return read_enhance_request(json.dumps({"prompt": "a", **body}).encode())


def _errors(body: bytes) -> dict[str, str]:
    with pytest.raises(FieldErrors) as caught:
        read_enhance_request(body)
    return caught.value.fields


def test_the_table_above_names_every_field() -> None:
    assert [row[0] for row in FIELDS] == list(EnhanceRequest.__struct_fields__)
    assert [row[1] for row in FIELDS] == list(EnhanceRequest.__struct_encode_fields__)


@pytest.mark.parametrize(("name", "first", "second", "value", "_wrong"), FIELDS)
def test_both_spellings_are_read(
    name: str, first: str, second: str, value: object, _wrong: object
) -> None:
    assert getattr(_read(**{first: value}), name) == value
    assert getattr(_read(**{second: value}), name) == value


@pytest.mark.parametrize(("_name", "first", "second", "value", "_wrong"), TWO_SPELLINGS)
def test_two_spellings_at_once_are_an_error(
    _name: str, first: str, second: str, value: object, _wrong: object
) -> None:
    for keys in ((first, second), (second, first)):
        body = json.dumps({"prompt": "a", **dict.fromkeys(keys, value)}).encode()
        assert _errors(body) == {first: "is given twice, in two spellings"}


@pytest.mark.parametrize(("_name", "first", "second", "_value", "wrong"), FIELDS)
def test_a_wrong_value_is_named_under_the_contracts_spelling(
    _name: str, first: str, second: str, _value: object, wrong: object
) -> None:
    for spelling in (first, second):
        errors = _errors(json.dumps({"prompt": "a", spelling: wrong}).encode())
        assert list(errors) == [first]


def test_all_wrong_fields_are_named_at_once_and_no_value_is_repeated() -> None:
    body = {row[1]: row[4] for row in FIELDS}
    errors = _errors(json.dumps({**body, "colour": "secret"}).encode())
    assert set(errors) == {*body, "colour"}
    assert "secret" not in str(errors)


def test_an_empty_prompt_and_a_nul_are_named_beside_other_errors() -> None:
    errors = _errors(b'{"prompt":"  ","negative_prompt":"\\u0000","seed":"x","colour":1}')
    assert set(errors) == {"prompt", "negative_prompt", "seed", "colour"}


def test_only_the_prompt_is_required_and_the_defaults_are_the_contracts() -> None:
    request = _read()
    assert request == EnhanceRequest(prompt="a")
    assert (request.selected_model, request.allow_fallback) == (None, True)
    assert (request.stream, request.dry_run, request.regeneration) == (False, False, False)
    assert _errors(b"{}") == {"prompt": "is required"}


@pytest.mark.parametrize("character", ["a", "é", "\U0001f600", '"', "\n"])
def test_the_prompt_holds_8000_characters_and_not_one_more(character: str) -> None:
    exact = "b" + character * (MAX_PROMPT_CHARS - 1)
    assert _read(prompt=exact).prompt == exact
    assert list(_errors(json.dumps({"prompt": exact + "c"}).encode())) == ["prompt"]


@pytest.mark.parametrize("prompt", ["", " ", "\t\n", "\u3000"])
def test_a_prompt_of_nothing_is_an_error(prompt: str) -> None:
    assert list(_errors(json.dumps({"prompt": prompt}).encode())) == ["prompt"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "a\x00b"),
        ("selectedModel", "\x00"),
        ("template_name", "t\x00"),
        ("user_id", "\x00u"),
        ("selectedPresets", ["fine", "a\x00b"]),
    ],
)
def test_a_nul_is_an_error_in_every_text(field: str, value: object) -> None:
    assert _errors(json.dumps({"prompt": "a", field: value}).encode()) == {
        field: "holds a NUL character"
    }


def test_an_escaped_backslash_before_u0000_is_text() -> None:
    assert read_enhance_request(b'{"prompt":"\\\\u0000"}').prompt == "\\u0000"


def test_null_means_absent_where_a_field_has_no_default_and_is_wrong_elsewhere() -> None:
    nullable = [row[1] for row in FIELDS if getattr(EnhanceRequest(prompt="a"), row[0]) is None]
    assert _read(**dict.fromkeys(nullable, None)) == EnhanceRequest(prompt="a")
    others = {row[1] for row in FIELDS} - set(nullable)
    assert set(_errors(json.dumps(dict.fromkeys(others, None)).encode())) == others


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"prompt"',
        b"{",
        b'{"prompt":"a"}x',
        b'{"prompt":"a",}',
        b"{'prompt':'a'}",
        b'{"prompt":"\xff"}',
        b"\xff\xfe{\x00}\x00",
        b'{"prompt":"\xed\xa0\x80"}',
        b'{"prompt":"\\ud800"}',
        b'{"prompt":"\\udc00\\ud800"}',
        b'{"prompt":"a\x00"}',
        b'{"prompt":"a\nb"}',
        b'{"prompt":"a","seed":NaN}',
        b'{"prompt":"a","seed":1e999}',
        b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_not_a_json_object_is_one_kind_of_error(body: bytes) -> None:
    with pytest.raises(NotJsonError):
        read_enhance_request(body)


def test_surrogate_pairs_are_one_character() -> None:
    assert read_enhance_request(b'{"prompt":"\\ud83d\\ude00"}').prompt == "\U0001f600"


def test_of_a_repeated_key_the_last_counts() -> None:
    # JSON readers agree on this, and so what is checked is what is used.
    assert read_enhance_request(b'{"prompt":"a","prompt":"b"}').prompt == "b"


def test_an_unknown_name_of_a_megabyte_is_clipped() -> None:
    errors = _errors(b'{"prompt":"a","' + b"x" * 1_000_000 + b'":1}')
    assert errors == {"x" * 100: "is not a known field"}


def test_a_huge_number_is_an_error_and_not_a_slow_one() -> None:
    started = process_time()
    errors = _errors(b'{"prompt":"a","seed":' + b"9" * 4000 + b"}")
    assert list(errors) == ["seed"]
    assert process_time() - started < 1


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 2])
def test_seeds_up_to_the_engines_largest_are_read(seed: int) -> None:
    assert _read(seed=seed).seed == seed


@pytest.mark.parametrize("seed", [-1, 2**32 - 1, 1.5, "1", True])
def test_other_seeds_are_errors(seed: object) -> None:
    assert list(_errors(json.dumps({"prompt": "a", "seed": seed}).encode())) == ["seed"]


def test_fifty_presets_of_200_characters_and_no_more() -> None:
    presets = ["p" * 200] * 50
    assert _read(selectedPresets=presets).selected_presets == presets
    for wrong in ([*presets, "p"], ["p" * 201], [1]):
        body = json.dumps({"prompt": "a", "selectedPresets": wrong}).encode()
        assert list(_errors(body)) == ["selectedPresets"]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")))
def test_the_prompt_comes_through_unchanged(text: str) -> None:
    for prompt in (f"a{text}", f"{text}a"):
        body = msgspec.json.encode({"prompt": prompt})
        assert read_enhance_request(body).prompt == prompt


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(body: bytes) -> None:
    with pytest.raises((NotJsonError, FieldErrors)):
        read_enhance_request(body)
