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
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("lan", False)],  # noqa: S104 - only looked at
)
def test_loopback_is_told_from_the_host(*, host: str, inside: bool) -> None:
    assert Settings(host=host).on_loopback is inside
