"""Signed requests: the RFC's own example, what a verifier takes, and what it does not."""

import base64
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from onbook.wire.http_signatures import (
    COMPONENTS,
    LIFETIME_S,
    SKEW_S,
    ReplayCache,
    RequestVerifier,
    SignatureRefused,
    TooManyNonces,
    content_digest,
    public_key_usable,
    signature_base,
    signed_headers,
)
from onbook.wire.shown_keys import KEYS_HEADER, MAX_KEYS
from onbook.wire.signing import (
    KeyRing,
    PublishedKey,
    Signer,
    key_id_of,
    new_ring,
    signer_of,
    verified,
)
from onbook.wire.structured_fields import (
    FieldInvalid,
    InnerList,
    Item,
    Token,
    parse_dictionary,
    serialised,
)

NOW = 1_800_000_000
BODY = b'{"messages":[]}'
JSON = "application/json"
SIGNER = signer_of(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = signer_of(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
_nonces = count()


def _sign(
    *,
    signer: Signer = SIGNER,
    path: str = "/enhance",
    body: bytes = BODY,
    at: float = NOW,
    content_type: str = JSON,
    nonce: str | None = None,
) -> dict[str, str]:
    headers = signed_headers(
        signer,
        method="POST",
        path=path,
        content_type=content_type,
        body=body,
        now=at,
        nonce=nonce,
    )
    return {"Content-Type": content_type, **headers}


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), text.encode("latin-1")) for name, text in headers.items()]


def _verifier(*trusted: Signer, since: float = NOW - 3600) -> RequestVerifier:
    keys = [signer.public_key for signer in trusted or (SIGNER,)]
    return RequestVerifier(lambda: keys, since=since)


def _take(
    verifier: RequestVerifier,
    headers: dict[str, str],
    *,
    method: str = "POST",
    path: str = "/enhance",
    body: bytes = BODY,
    now: float = NOW,
) -> None:
    head = verifier.head(method, path, _raw(headers), now=now)
    verifier.body(head, body, now=now)


def _reason(headers: dict[str, str], **changes: object) -> str:
    with pytest.raises(SignatureRefused) as caught:
        _take(_verifier(), headers, **changes)  # type: ignore[arg-type]  # the table's values
    assert caught.value.message.endswith(".")
    assert caught.value.action.endswith(".")
    return caught.value.reason


def _resigned(change: Callable[[str], str], covered: dict[str, str] | None = None) -> str:
    """Sign parameters that ``signed_headers`` would never write, and return the reason."""
    headers = _sign()
    parameters = change(headers["Signature-Input"].removeprefix("onbook="))
    values = {
        "@method": "POST",
        "@path": "/enhance",
        "content-digest": headers["Content-Digest"],
        "content-type": JSON,
        "@authority": "worker",
    }
    listed = parse_dictionary(f"a={parameters}")["a"]
    assert isinstance(listed, InnerList)
    base = signature_base(
        [(str(item.value), (covered or values)[str(item.value)]) for item in listed.items],
        serialised(listed),
    )
    headers["Signature-Input"] = f"onbook={parameters}"
    headers["Signature"] = f"onbook=:{SIGNER.sign(base)}:"
    return _reason(headers)


def test_the_example_of_the_standard() -> None:
    # RFC 9421, appendices B.1.4 and B.2.6.
    private = base64.urlsafe_b64decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU=")
    signer = signer_of(Ed25519PrivateKey.from_private_bytes(private))
    assert signer.public_key == "JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs="
    listed = InnerList(
        tuple(
            Item(name)
            for name in (
                "date", "@method", "@path", "@authority", "content-type", "content-length",
            )
        ),
        {"created": 1618884473, "keyid": "test-key-ed25519"},
    )  # fmt: skip
    parameters = serialised(listed)
    assert parameters == (
        '("date" "@method" "@path" "@authority" "content-type" "content-length")'
        ';created=1618884473;keyid="test-key-ed25519"'
    )
    base = signature_base(
        [
            ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
            ("@method", "POST"),
            ("@path", "/foo"),
            ("@authority", "example.com"),
            ("content-type", "application/json"),
            ("content-length", "18"),
        ],
        parameters,
    )
    signature = (
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    )
    assert signer.sign(base) == signature
    assert verified(signer.public_key, signature, base)
    assert not verified(signer.public_key, signature, base.replace(b"/foo", b"/fop"))


def test_the_digest_example_of_the_standard() -> None:
    # RFC 9530, appendix B.1.
    assert content_digest(b'{"hello": "world"}') == (
        "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
    )


def test_what_is_sent_is_what_the_profile_says() -> None:
    headers = _sign(nonce="a-nonce-of-17-chr")
    assert headers["Content-Digest"] == (
        f"sha-256=:{base64.b64encode(sha256(BODY).digest()).decode()}:"
    )
    assert headers["Signature-Input"] == (
        'onbook=("@method" "@path" "content-digest" "content-type")'
        f';created={NOW};expires={NOW + 60};nonce="a-nonce-of-17-chr"'
        f';keyid="{SIGNER.key_id}";alg="ed25519"'
    )
    assert headers["Signature"].startswith("onbook=:")


def test_a_signed_request_is_taken() -> None:
    verifier = _verifier()
    for _ in range(3):
        _take(verifier, _sign())


@pytest.mark.parametrize("missing", ["Signature", "Signature-Input"])
def test_an_unsigned_request(missing: str) -> None:
    headers = _sign()
    del headers[missing]
    assert _reason(headers) == "unsigned"
    assert _reason({"Content-Type": JSON}) == "unsigned"


@pytest.mark.parametrize("missing", ["Content-Digest", "Content-Type"])
def test_a_covered_header_that_is_missing(missing: str) -> None:
    headers = _sign()
    del headers[missing]
    assert _reason(headers) == "malformed"


def test_a_key_that_is_not_trusted() -> None:
    assert _reason(_sign(signer=OTHER)) == "unknown_key"


def test_the_name_of_a_trusted_key_does_not_make_a_signature() -> None:
    headers = _sign(signer=OTHER)
    headers["Signature-Input"] = headers["Signature-Input"].replace(OTHER.key_id, SIGNER.key_id)
    assert _reason(headers) == "wrong_signature"


@pytest.mark.parametrize(
    "changes", [{"path": "/chat"}, {"method": "PUT"}, {"path": "/enhance/"}, {"path": "/Enhance"}]
)
def test_a_signature_is_for_one_method_and_path(changes: dict[str, object]) -> None:
    assert _reason(_sign(), **changes) == "wrong_signature"


def test_a_path_that_is_no_ascii_is_refused_and_nothing_breaks() -> None:
    assert _reason(_sign(), path="/ключ\ud800") == "wrong_signature"


def test_another_type_than_the_signed_one() -> None:
    assert _reason(_sign() | {"Content-Type": "text/plain"}) == "wrong_signature"


def test_another_body_is_refused() -> None:
    assert _reason(_sign(), body=BODY + b" ") == "wrong_digest"
    headers = _sign() | {"Content-Digest": content_digest(b"other")}
    assert _reason(headers, body=b"other") == "wrong_signature"


@settings(deadline=None)
@given(at=st.integers(0, 63), bit=st.integers(0, 7))
def test_any_changed_bit_of_a_signature_is_refused(at: int, bit: int) -> None:
    headers = _sign(nonce=f"nonce-{next(_nonces):016}")
    data = bytearray(base64.b64decode(headers["Signature"][8:-1]))
    data[at] ^= 1 << bit
    headers["Signature"] = f"onbook=:{base64.b64encode(data).decode()}:"
    assert _reason(headers) == "wrong_signature"


@pytest.mark.parametrize(
    ("signed_at", "reason"),
    [
        (NOW - LIFETIME_S - 1, "expired"),
        (NOW + SKEW_S + 1, "from_the_future"),
        (NOW - LIFETIME_S, None),
        (NOW + SKEW_S, None),
    ],
)
def test_a_signature_has_its_time(signed_at: int, reason: str | None) -> None:
    if reason is None:
        _take(_verifier(), _sign(at=signed_at))
    else:
        assert _reason(_sign(at=signed_at)) == reason


def test_what_was_signed_before_the_start_is_not_taken() -> None:
    # The process before may have taken it, and its nonces are gone. By a clock that was not set
    # back since, it has expired as well.
    headers = _sign(at=NOW - SKEW_S - 1)
    with pytest.raises(SignatureRefused) as caught:
        _take(_verifier(since=NOW), headers, now=NOW - 10)
    assert caught.value.reason == "before_start"
    _take(_verifier(since=NOW), _sign(at=NOW - SKEW_S))


def test_a_request_is_taken_once() -> None:
    verifier, headers = _verifier(), _sign()
    _take(verifier, headers)
    for later in (0, 1, LIFETIME_S):
        with pytest.raises(SignatureRefused) as caught:
            _take(verifier, headers, now=NOW + later)
        assert caught.value.reason == "replayed"
    # Beyond its life it is out of its time.
    with pytest.raises(SignatureRefused) as caught:
        _take(verifier, headers, now=NOW + LIFETIME_S + SKEW_S + 1)
    assert caught.value.reason == "expired"


def test_a_clock_that_is_set_back_revives_nothing() -> None:
    verifier, headers = _verifier(), _sign()
    _take(verifier, headers)
    _take(verifier, _sign(at=NOW + LIFETIME_S + SKEW_S), now=NOW + LIFETIME_S + SKEW_S)
    with pytest.raises(SignatureRefused) as caught:
        _take(verifier, headers, now=NOW + LIFETIME_S)
    assert caught.value.reason == "replayed"


def test_a_body_that_does_not_fit_burns_no_nonce() -> None:
    verifier, headers = _verifier(), _sign()
    with pytest.raises(SignatureRefused):
        _take(verifier, headers, body=b"forged")
    _take(verifier, headers)


def test_two_gateways_may_use_the_same_nonce() -> None:
    verifier = _verifier(SIGNER, OTHER)
    for signer in (SIGNER, OTHER):
        _take(verifier, _sign(signer=signer, nonce="the-same-nonce-of-two"))


def test_before_and_after_a_rotation_both_keys_are_taken() -> None:
    trusted = [SIGNER.public_key]
    verifier = RequestVerifier(lambda: trusted, since=0)
    _take(verifier, _sign())
    with pytest.raises(SignatureRefused):
        _take(verifier, _sign(signer=OTHER))
    trusted.append(OTHER.public_key)
    _take(verifier, _sign())
    _take(verifier, _sign(signer=OTHER))


def test_nonces_are_forgotten_in_time_and_never_too_many() -> None:
    cache = ReplayCache(limit=3)
    for number in range(3):
        assert cache.remember("k", str(number), expires=NOW + 10 * number, now=NOW)
    with pytest.raises(TooManyNonces) as caught:
        cache.remember("k", "3", expires=NOW + 300, now=NOW)
    assert caught.value.retry_after_s == SKEW_S + 1
    assert not cache.remember("k", "0", expires=NOW, now=NOW + SKEW_S)
    assert cache.remember("k", "3", expires=NOW + 300, now=NOW + SKEW_S + 1)
    assert len(cache) == 3
    assert cache.remember("k", "4", expires=NOW + 900, now=NOW + 300 + SKEW_S + 1)
    assert len(cache) == 1


def test_another_signature_beside_ours_changes_nothing() -> None:
    headers = _sign()
    theirs = 'proxy=("@authority" "date";sf);created=1;keyid="x";tag="t"'
    headers["Signature-Input"] = f"{theirs},  {headers['Signature-Input']}"
    headers["Signature"] = f"{headers['Signature']} ,\tproxy=:AAAA:"
    _take(_verifier(), headers)


def test_signatures_on_lines_of_their_own_are_one_field() -> None:
    raw = _raw(_sign())
    raw.insert(0, (b"signature", b"proxy=:AAAA:"))
    raw.append((b"signature-input", b'proxy=("date");created=1'))
    _verifier().head("POST", "/enhance", raw, now=NOW)


@pytest.mark.parametrize("name", ["Signature", "Signature-Input"])
def test_two_signatures_of_the_same_label_are_refused(name: str) -> None:
    headers = _sign()
    headers[name] = f"{headers[name]}, {_sign()[name]}"
    assert _reason(headers) == "malformed"


def test_a_signature_under_another_label_is_none_of_ours() -> None:
    headers = {
        name: text.replace("onbook=", "sig1=") if name.startswith("Signature") else text
        for name, text in _sign().items()
    }
    assert _reason(headers) == "unsigned"


@pytest.mark.parametrize(
    "listed",
    [
        '("@method" "@path" "content-digest")',
        '("@method" "content-digest" "content-type")',
        '("@path" "@method" "content-digest" "content-type")',
        '("@method" "@path" "content-digest" "content-type" "@authority")',
        '("@method" "@path" "content-digest" "content-digest" "content-type")',
        '("@method" "@path" "content-digest";req "content-type")',
        '("@method" "@path" content-digest "content-type")',
        "()",
    ],
)
def test_another_list_of_components_is_refused(listed: str) -> None:
    ours = "(" + " ".join(f'"{name}"' for name in COMPONENTS) + ")"
    assert _resigned(lambda text: text.replace(ours, listed)) == "components"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (f";created={NOW}", "", "parameters"),
        (f";expires={NOW + LIFETIME_S}", "", "parameters"),
        (';alg="ed25519"', "", "parameters"),
        (';alg="ed25519"', ';alg="hmac-sha256"', "parameters"),
        (';alg="ed25519"', ";alg=ed25519", "parameters"),
        (f'"{SIGNER.key_id}"', f"a{SIGNER.key_id}", "parameters"),
        (';alg="ed25519"', ';alg="ed25519";tag="x"', "parameters"),
        (f"created={NOW}", f'created="{NOW}"', "parameters"),
        (f"created={NOW}", "created=?1", "parameters"),
        (f"expires={NOW + LIFETIME_S}", f"expires={NOW + LIFETIME_S + 1}", "lifetime"),
        (f"expires={NOW + LIFETIME_S}", f"expires={NOW}", "lifetime"),
        (f"created={NOW}", "created=-1", "lifetime"),
    ],
)
def test_other_parameters_are_refused(old: str, new: str, reason: str) -> None:
    assert _resigned(lambda text: text.replace(old, new)) == reason


@pytest.mark.parametrize("nonce", ["x" * 15, "x" * 129])
def test_a_nonce_has_a_length(nonce: str) -> None:
    assert _reason(_sign(nonce=nonce)) == "parameters"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Signature", "onbook=:AAAA:"),
        ("Signature", 'onbook="text"'),
        ("Signature", "onbook"),
        ("Signature", "onbook=:" + "A" * 85 + "B==:"),
        ("Signature", "onbook=:not base64:"),
        ("Signature-Input", "onbook=:AAAA:"),
        ("Signature-Input", 'onbook=("@method"'),
        ("Signature-Input", "onbook=()" + ";a" * 5000),
        ("Signature-Input", "\x00"),
        ("Signature-Input", ""),
        ("Signature", "\xff"),
        ("Content-Digest", "sha-512=:AAAA:"),
        ("Content-Digest", "sha-256=abc"),
        ("Content-Digest", "sha-256=:" + "A" * 10_000 + ":"),
    ],
)
def test_a_malformed_header_is_refused(name: str, value: str) -> None:
    assert _reason(_sign() | {name: value}) in ("malformed", "wrong_signature", "unsigned")


def test_a_key_is_base64_of_32_bytes() -> None:
    assert public_key_usable(SIGNER.public_key)
    for wrong in ("", "AAAA", "not base64!", SIGNER.public_key[:-2], SIGNER.public_key + "ключ"):
        assert not public_key_usable(wrong)


_keys = st.from_regex(r"[a-z*][a-z0-9_.*-]{0,8}", fullmatch=True)
_bare = st.one_of(
    st.integers(-999_999_999_999_999, 999_999_999_999_999),
    st.booleans(),
    st.binary(max_size=40),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    st.from_regex(r"[A-Za-z*][A-Za-z0-9:/!#.-]{0,8}", fullmatch=True).map(Token),
)
_parameters = st.dictionaries(_keys, _bare, max_size=3)
_items = st.builds(Item, _bare, _parameters)
_members = st.one_of(
    _items, st.builds(InnerList, st.lists(_items, max_size=4).map(tuple), _parameters)
)


@settings(deadline=None)
@given(st.dictionaries(_keys, _members, min_size=1, max_size=4))
def test_what_is_written_is_read_again(members: dict[str, Item | InnerList]) -> None:
    text = ", ".join(f"{key}={serialised(member)}" for key, member in members.items())
    read = parse_dictionary(text)
    assert read == members
    assert {key: serialised(member) for key, member in read.items()} == {
        key: serialised(member) for key, member in members.items()
    }


@settings(deadline=None)
@given(st.text(st.sampled_from('ab=",;():?1 \\-.\t*@é'), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read = parse_dictionary(text)
    except FieldInvalid:
        return
    again = ", ".join(f"{key}={serialised(member)}" for key, member in read.items())
    assert parse_dictionary(again) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a=1,",
        ",a=1",
        "a=1 b=2",
        "a=1, a=2",
        "A=1",
        "a=1.5",
        "a=1234567890123456",
        'a="open',
        'a="\\x"',
        'a="é"',
        "a=(1",
        "a=(1)2",
        'a=("x""y")',
        "a=?2",
        "a=:A:",
        "a=:AB==:",
        "a=;b",
        "a;b=1;b=2",
        "a=@1",
        "a=" + "(" * 9000,
    ],
)
def test_what_is_no_dictionary_is_refused(text: str) -> None:
    with pytest.raises(FieldInvalid):
        parse_dictionary(text)


def _ring(rotations: int) -> KeyRing:
    ring = new_ring("gateway", at=datetime(2026, 1, 1, tzinfo=UTC))
    for day in range(rotations):
        ring = ring.rotated(not_before=datetime(2026, 1, 2 + day, tzinfo=UTC))
    return ring


def _shown(ring: KeyRing, published: list[PublishedKey] | None = None) -> dict[str, str]:
    headers = signed_headers(
        ring.signer(datetime(2026, 12, 1, tzinfo=UTC)),
        method="POST",
        path="/enhance",
        content_type="application/json",
        body=BODY,
        now=NOW,
        published=ring.published if published is None else published,
    )
    return {"Content-Type": "application/json", **headers}


def _trusting(ring: KeyRing, place: int) -> RequestVerifier:
    root = ring.published[place].public_key
    return RequestVerifier(lambda: [root], since=NOW - 3600)


def test_a_rotated_key_is_followed_by_the_endorsements_that_travel_along() -> None:
    ring = _ring(2)
    verifier = _trusting(ring, 0)
    _take(verifier, _shown(ring))
    # What was learned stays, also where the list does not come along.
    _take(verifier, _shown(ring, ring.published[-1:]))


def test_a_ring_of_one_key_is_not_sent_and_of_many_the_last_eight() -> None:
    assert KEYS_HEADER not in _shown(_ring(0))
    ring = _ring(11)
    _take(_trusting(ring, 12 - MAX_KEYS), _shown(ring))
    with pytest.raises(SignatureRefused) as caught:
        _take(_trusting(ring, 10 - MAX_KEYS), _shown(ring))
    assert (caught.value.reason, caught.value.key_id) == (
        "unknown_key",
        key_id_of(ring.published[-1].public_key),
    )


def test_a_list_that_no_trusted_key_endorses_is_worth_nothing() -> None:
    ring, stranger = _ring(1), _ring(1)
    own = stranger.published[-1]
    forged = msgspec.structs.replace(own, endorsed_by=ring.published[0].public_key)
    for published in (stranger.published, [*ring.published, own], [ring.published[0], forged]):
        with pytest.raises(SignatureRefused) as caught:
            _take(_trusting(ring, 0), _shown(stranger, published))
        assert caught.value.reason == "unknown_key"


@pytest.mark.parametrize("junk", ["", "no base64", "AAAA", "W10=", "WzFd", "A" * 100_000])
def test_a_list_that_is_none_is_as_good_as_no_list(junk: str) -> None:
    ring = _ring(1)
    headers = {**_shown(ring), KEYS_HEADER: junk}
    with pytest.raises(SignatureRefused) as caught:
        _take(_trusting(ring, 0), headers)
    assert caught.value.reason == "unknown_key"


def test_two_thousand_requests_a_second_are_remembered_for_their_whole_time() -> None:
    cache, rate = ReplayCache(), 2_000
    # Nothing is forgotten before a signature's life and the skew are over: this is the fullest.
    for second in range(LIFETIME_S + SKEW_S + 30):
        for number in range(rate):
            assert cache.remember(
                "k", f"{second}-{number}", expires=NOW + second + LIFETIME_S, now=NOW + second
            )
    assert len(cache) <= rate * (LIFETIME_S + SKEW_S + 2)


def _fill(cache: ReplayCache) -> None:
    for number in count():
        cache.remember("k", str(number), expires=NOW + number % 60, now=NOW)


def test_what_is_remembered_stays_within_its_memory() -> None:
    cache = ReplayCache()
    tracemalloc.start()
    try:
        with pytest.raises(TooManyNonces) as caught:
            _fill(cache)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used <= 64 * 1024 * 1024
    # When it says so, there is room.
    later = NOW + caught.value.retry_after_s
    assert cache.remember("k", "later", expires=later + LIFETIME_S, now=later)
