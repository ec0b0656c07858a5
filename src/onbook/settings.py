"""Every setting, typed and documented. Read once, from ``ONBOOK_*`` and the command line."""

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
EngineName = Literal["llama_cpp", "echo"]

# Below this a key can be guessed by trying.
SAFE_KEY_CHARS: Final = 16

_CommaList = Annotated[list[str], NoDecode]


def _default_data_dir() -> Path:
    return Path("data")


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
        "llama_cpp", description="Engine of the embedded worker; `echo` needs no model."
    )
    worker_url: str | None = Field(
        None, description="URL of a worker elsewhere; then no embedded worker is started."
    )
    worker_key: SecretStr | None = Field(
        None,
        description="Bearer key of the worker: demanded by a worker, sent by a gateway. Without "
        "one a worker answers on loopback only, and an embedded one beyond it answers nobody.",
    )
    worker_public_key: str | None = Field(
        None,
        description="Base64 Ed25519 key that the remote worker's receipts must be signed with; by "
        "default the one that the worker shows first.",
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
        None, description="GGUF file of the embedded worker; by default the packaged model."
    )
    model_sha256: str | None = Field(
        None, description="Expected SHA-256 of the model file; a different file is refused."
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
        description="Requests that may wait for a slot of the worker; further ones get 503.",
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

    @field_validator("cors_origins", mode="before")
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
        "worker_public_key",
        "model_path",
        "model_sha256",
        "threads",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        # Compose files and shells set a variable to nothing where they mean to leave it out.
        return None if value == "" else value

    @field_validator("worker_url")
    @classmethod
    def _has_scheme_and_host(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must begin with http:// or https:// and name a host")
        return value

    @field_validator("bootstrap_key", "worker_key")
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
