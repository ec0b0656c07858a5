import pytest
from pydantic import ValidationError

from onbook.settings import Settings


def settings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_an_empty_variable_means_that_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings(
        monkeypatch,
        ONBOOK_WORKER_URL="",
        ONBOOK_DATABASE_URL="",
        ONBOOK_MODEL_PATH="",
        ONBOOK_THREADS="",
        ONBOOK_WORKER_KEY="",
        ONBOOK_BOOTSTRAP_KEY="",
    )
    assert made == Settings()
    assert made.worker_url is None


@pytest.mark.parametrize("url", ["localhost:8741", "worker", "ftp://host", "http://", "/x"])
def test_a_worker_url_needs_scheme_and_host(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(ValidationError, match="http"):
        settings(monkeypatch, ONBOOK_WORKER_URL=url)


def test_a_key_can_be_sent_as_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings(monkeypatch, ONBOOK_BOOTSTRAP_KEY=" spaced-admin-key-0123 ")
    assert made.bootstrap_key is not None
    assert made.bootstrap_key.get_secret_value() == "spaced-admin-key-0123"
    for bad in ("schlüssel-0123456789", "two words of a key"):
        with pytest.raises(ValidationError) as caught:
            settings(monkeypatch, ONBOOK_BOOTSTRAP_KEY=bad)
        assert bad not in str(caught.value.errors(include_input=False))


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("192.0.2.1", False), ("lan", False)],
)
def test_loopback_is_told_from_the_host(*, host: str, inside: bool) -> None:
    assert Settings(host=host).on_loopback is inside


PUBLIC_KEY = "A" * 43 + "="


@pytest.mark.parametrize(
    "keys", ["abc", "no base64!", "A" * 44, f"{PUBLIC_KEY},abc", "A" * 42 + "B=", "ключ"]
)
def test_a_workers_key_that_could_never_match_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    with pytest.raises(ValidationError, match="base64 of 32 bytes"):
        settings(monkeypatch, ONBOOK_WORKER_PUBLIC_KEY=keys)
    assert settings(
        monkeypatch, ONBOOK_WORKER_PUBLIC_KEY=f" {PUBLIC_KEY} , {PUBLIC_KEY}"
    ).worker_public_key == [PUBLIC_KEY, PUBLIC_KEY]


def test_a_models_digest_is_64_hexadecimal_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("0" * 63, "0" * 65, "g" * 64, "\u0660" * 64):
        with pytest.raises(ValidationError, match="64 hexadecimal digits"):
            settings(monkeypatch, ONBOOK_MODEL_SHA256=wrong)
    assert settings(monkeypatch, ONBOOK_MODEL_SHA256="AB" * 32).model_sha256 == "ab" * 32


@pytest.mark.parametrize(
    ("host", "key", "short"),
    [
        ("192.0.2.1", "a-short-key", True),
        ("192.0.2.1", "a-key-of-16-char", False),
        ("127.0.0.1", "a-short-key", False),
        ("192.0.2.1", "", False),
    ],
)
def test_a_worker_key_that_others_can_guess_is_known(
    monkeypatch: pytest.MonkeyPatch, host: str, key: str, *, short: bool
) -> None:
    given = settings(monkeypatch, ONBOOK_HOST=host, ONBOOK_WORKER_KEY=key)
    assert given.worker_key_is_short == short
