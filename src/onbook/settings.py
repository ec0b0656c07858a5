"""Every setting, typed and documented. Read once, from ``ONBOOK_*`` and the command line."""

import base64
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# The same values as the domain's: settings stay free of it, since workers read settings too.
ContentMode = Literal["sfw", "nsfw"]
LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
EngineName = Literal["llama_cpp", "openai_upstream", "echo"]
UpstreamApi = Literal["auto", "llama_server", "completions", "chat"]

# Below this a key can be guessed by trying.
SAFE_KEY_CHARS: Final = 16
SHORT_WORKER_KEY: Final = f"ONBOOK_WORKER_KEY is short; take {SAFE_KEY_CHARS} characters or more"

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_PUBLIC_KEY_BYTES: Final = 32

_CommaList = Annotated[list[str], NoDecode]


def _default_data_dir() -> Path:
    return Path("data")


def _is_public_key(text: str) -> bool:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return False
    # Keys are compared as texts, so only the usual spelling of the bytes can ever match.
    return len(raw) == _PUBLIC_KEY_BYTES and base64.b64encode(raw).decode("ascii") == text


class Settings(BaseSettings):
    """The options of the service. Each is ``ONBOOK_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="ONBOOK_", extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on. Loopback by default.")
    port: int = Field(
        8740, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it."
    )
    data_dir: Path = Field(
        default_factory=_default_data_dir,
        description="Directory of the database, the secrets, the snapshots and the spool.",
    )
    database_url: str | None = Field(
        None,
        description="URL of the database: `postgresql://user:password@host:port/name`, or "
        "`sqlite+aiosqlite:///<path>`. By default `onbook.db` in the data directory.",
    )
    bootstrap_key: SecretStr | None = Field(
        None,
        description="The first admin key; take at least 16 characters that nobody can guess. "
        "Without it one is generated and printed once.",
    )
    key_pepper: SecretStr | None = Field(
        None,
        description="Secret that access keys are hashed with. By default a generated one in the "
        "data directory.",
    )
    content_ceiling: ContentMode = Field(
        "sfw", description="The highest content mode that this deployment serves."
    )
    cors_origins: _CommaList = Field(
        default_factory=lambda: ["*"],
        description="Origins whose pages may call the edge functions, comma-separated, or `*` for "
        "any: a page needs an access key all the same, and cookies are never accepted.",
    )
    worker_engine: EngineName = Field(
        "llama_cpp",
        description="Engine of the worker: `llama_cpp` in this process, `openai_upstream` for a "
        "server that runs the model, or `echo`, which needs no model.",
    )
    upstream_url: str | None = Field(
        None,
        description="Base URL of the server behind the engine `openai_upstream`: llama-server, "
        "vLLM, SGLang, or another one that speaks OpenAI's API.",
    )
    upstream_api: UpstreamApi = Field(
        "auto",
        description="What the upstream speaks: `llama_server` (`/completion`) and `completions` "
        "(`/v1/completions`) take token ids; `chat` (`/v1/chat/completions`) renders the messages "
        "itself, so its receipts say `request_only`. `auto` finds out, and prefers token ids.",
    )
    upstream_key: SecretStr | None = Field(None, description="Bearer key that the upstream wants.")
    upstream_model: str | None = Field(
        None, description="Name of the model to ask the upstream for; by default its first one."
    )
    upstream_timeout_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Seconds without a sign of life after which an upstream's answer is given up.",
    )
    worker_url: str | None = Field(
        None, description="URL of a worker elsewhere; then no embedded worker is started."
    )
    worker_key: SecretStr | None = Field(
        None,
        description="Bearer key of the worker: demanded by a worker, sent by a gateway. Without "
        "one a worker answers on loopback only, and an embedded one beyond it answers nobody.",
    )
    worker_public_key: _CommaList = Field(
        default_factory=list,
        description="Base64 Ed25519 keys, comma-separated, one of which the remote worker's "
        "receipts must be signed with, or one that they endorse; by default the one that the "
        "worker shows first.",
    )
    worker_trust_keys: _CommaList = Field(
        default_factory=list,
        description="Base64 Ed25519 keys of gateways, comma-separated. Where any is set, a worker "
        "executes only requests that one of them has signed (RFC 9421).",
    )
    verify_model_path: Path | None = Field(
        None,
        description="GGUF file of the model that the remote worker must run: a receipt of another "
        "model is a violation, and its tokenizer lets the gateway recompute the token ids that a "
        "receipt states. The embedded worker needs no setting.",
    )
    quarantine_s: float = Field(
        300.0,
        gt=0,
        le=86_400,
        description="Seconds that a worker gets no requests after a receipt that did not match.",
    )
    checkpoint_interval_s: float = Field(
        60.0,
        ge=1,
        le=86_400,
        description="Seconds between two signed checkpoints of the audit log, if it has grown.",
    )
    model_hub_url: str = Field(
        "https://huggingface.co",
        description="Where `onbook model pull` finds models: a hub that answers as Hugging Face's.",
    )
    model_hub_token: SecretStr | None = Field(
        None,
        description="Token for models that the hub does not show to everybody; sent to the hub "
        "alone, never to where it redirects.",
    )
    expose_worker: bool = Field(
        default=True,
        description="Serve the embedded worker's own routes on the same port. Turn it off behind a "
        "reverse proxy, unless `ONBOOK_WORKER_KEY` is set.",
    )
    worker_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="Seconds that one request may wait for the worker."
    )
    require_receipts: bool = Field(
        default=False,
        description="Treat a worker's answer without a receipt as a purity violation instead of "
        "reporting it as unverified.",
    )
    model_path: Path | None = Field(
        None,
        description="Model of the worker: a GGUF file, or the name of one that `onbook model pull` "
        "has installed; by default the packaged model.",
    )
    model_sha256: str | None = Field(
        None,
        description="Expected SHA-256 of the model file, 64 hexadecimal digits; a different file "
        "is refused, and so are the receipts of a remote worker that runs another one.",
    )
    context_size: int = Field(
        2048, ge=256, le=1_048_576, description="Tokens of context per slot of the embedded worker."
    )
    slots: int = Field(
        2, ge=1, le=64, description="Requests that the embedded worker runs at the same time."
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=512,
        description="Threads of the embedded worker; by default one less than the cores.",
    )
    prompt_cache_mib: int = Field(
        128, ge=0, le=65_536, description="Host memory for warm prompt prefixes, in MiB."
    )
    max_queue: int = Field(
        64,
        ge=1,
        le=100_000,
        description="Requests that may wait for a slot of the worker; further ones get 429.",
    )
    database_retry_s: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="Seconds between two tries to prepare a database that was away at the start.",
    )
    template_poll_s: float = Field(
        1.0,
        gt=0,
        le=60,
        description="Seconds after which changed templates are served at the latest. The database "
        "tells of a change at once; this bounds how long a missed notice takes to heal.",
    )
    shutdown_grace_s: float = Field(
        40.0,
        ge=0,
        le=3600,
        description="Seconds that requests in flight get at shutdown; more than the worker's time.",
    )
    log_level: LogLevel = Field(
        "info",
        description="Lowest level that is logged. Only `debug` shows prompt text, 100 characters.",
    )
    log_format: LogFormat = Field(
        "auto", description="`json`, `console`, or `auto`: console on a terminal, else JSON."
    )

    @field_validator("cors_origins", "worker_public_key", "worker_trust_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator(
        "database_url",
        "bootstrap_key",
        "key_pepper",
        "worker_url",
        "worker_key",
        "upstream_url",
        "upstream_key",
        "upstream_model",
        "verify_model_path",
        "model_hub_token",
        "model_path",
        "model_sha256",
        "threads",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        # Compose files and shells set a variable to nothing where they mean to leave it out.
        return None if value == "" else value

    @field_validator("worker_public_key")
    @classmethod
    def _are_public_keys(cls, value: list[str]) -> list[str]:
        for place, key in enumerate(value, 1):
            if not _is_public_key(key):
                raise ValueError(
                    f"key {place} is no Ed25519 public key, base64 of 32 bytes; 'onbook worker' "
                    "prints its own at the start"
                )
        return value

    @field_validator("model_sha256")
    @classmethod
    def _is_sha256(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if _SHA256.fullmatch(value.strip()) is None:
            raise ValueError("must be 64 hexadecimal digits, as sha256sum prints them")
        return value.strip().lower()

    @field_validator("worker_url", "upstream_url", "model_hub_url")
    @classmethod
    def _has_scheme_and_host(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must begin with http:// or https:// and name a host")
        return value

    @field_validator("bootstrap_key", "worker_key", "upstream_key", "model_hub_token")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value().strip()
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("must be of printable ASCII characters without spaces")
        return SecretStr(text)

    @property
    def database(self) -> str:
        """The database URL that is in force."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'onbook.db'}"

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def worker_key_is_short(self) -> bool:
        """Whether others can reach the worker, and guess its key."""
        key = self.worker_key
        short = key is not None and len(key.get_secret_value()) < SAFE_KEY_CHARS
        return short and not self.on_loopback
