"""Starting the engine: which of the server's interfaces is used, and why."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from onbook.wire.canonical import sha256_of_text
from onbook.wire.receipt import EffectiveSampling
from onbook.wire.worker_api import ModelInfo, Sampling, effective_sampling
from onbook.worker.engines.base import EngineError, EngineStartError
from onbook.worker.engines.openai_upstream.chat_engine import ChatUpstream
from onbook.worker.engines.openai_upstream.chat_purity import probe_chat
from onbook.worker.engines.openai_upstream.inspection import Inspection, inspect
from onbook.worker.engines.openai_upstream.sampling import differences, llama_sampling
from onbook.worker.engines.openai_upstream.server import BlockingClient, Server, base_url
from onbook.worker.engines.openai_upstream.streams import StreamClient
from onbook.worker.engines.openai_upstream.token_engine import TokenApi, TokenUpstream
from onbook.worker.engines.openai_upstream.tokenizer import UpstreamTokenizer
from onbook.worker.engines.openai_upstream.watch import (
    Identity,
    ModelWatch,
    identity_of,
    look,
)
from onbook.worker.gguf import ModelFileError, read_gguf
from onbook.worker.model_file import file_sha256
from onbook.worker.rendering import (
    PlainText,
    Renderer,
    UnsupportedModelError,
    chat_renderer,
    control_literals,
)

if TYPE_CHECKING:
    from onbook.settings import Settings

Progress = Callable[[str], None]

_ENGINE: Final = "openai_upstream"
# A server that generates may take a while to say what it runs.
_LOOK_S: Final = 10.0


class _LlamaTrial(msgspec.Struct):
    tokens_evaluated: int | None = None
    generation_settings: dict[str, object] = {}


class _TrialUsage(msgspec.Struct):
    prompt_tokens: int


class _Trial(msgspec.Struct):
    usage: _TrialUsage


@dataclass(frozen=True, slots=True)
class _Parts:
    """What every mode is made of."""

    settings: "Settings"
    server: Server
    client: BlockingClient
    found: Inspection
    digest: str | None
    local_file: Path | None
    notes: tuple[str, ...]
    identity: Identity

    def stream(self) -> StreamClient:
        health = "/v1/models" if self.found.flavour == "other" else "/health"
        return StreamClient(self.server, health=health)

    def watch(self, tokenizer: UpstreamTokenizer | None) -> ModelWatch:
        return ModelWatch(
            BlockingClient(replace(self.server, timeout_s=min(_LOOK_S, self.server.timeout_s))),
            url=self.server.shown_url,
            start=self.identity,
            ask=self.ask,
            tokenizer=tokenizer,
        )

    def ask(self, client: BlockingClient) -> Identity:
        return look(client, self.found, self.local_file)

    def tokenizer(self) -> UpstreamTokenizer | None:
        api = self.found.tokenizer_api
        return None if api is None else UpstreamTokenizer(self.client, api, self.found.model)

    def model_info(self, context_size: int | None, renderer: Renderer | None) -> ModelInfo:
        template = self.found.chat_template
        props = self.found.props
        return ModelInfo(
            name=self.found.model.rpartition("/")[2].removesuffix(".gguf") or self.found.model,
            engine=_ENGINE,
            file_sha256=self.digest,
            chat_template_sha256=sha256_of_text(template) if template else None,
            family=renderer.name if renderer is not None else None,
            context_size=context_size,
            slots=props.total_slots if props is not None else self.settings.slots,
        )


def start_openai_upstream(
    settings: "Settings", *, progress: Progress
) -> TokenUpstream | ChatUpstream:
    """Find out what the server at ``upstream_url`` can do and return the engine. Blocking.

    ``upstream_api`` ``auto`` takes llama-server's ``/completion`` where it is there, else
    ``/v1/completions`` with token ids where the server tokenises, else chat. In chat mode the
    server is asked how it renders; one that adds text of its own is refused, since it would do so
    to every request of that shape: token ids, or a chat template that adds nothing, are the way
    out. The model's digest is stated where llama-server's file is on this machine or where
    ``model_sha256`` is set, and is None otherwise.

    Args:
        settings: ``upstream_*``, ``model_sha256``, ``context_size``, ``slots``.
        progress: Told which mode is used, and why.

    Raises:
        EngineStartError: one sentence that says what is wrong and what to do.
    """
    server = _server(settings)
    client = BlockingClient(server)
    progress(f"Asking the upstream {server.shown_url} what it runs …")
    try:
        found = inspect(client, settings.upstream_model, wait_s=server.timeout_s, progress=progress)
        local_file = _local_file(server, found)
        identity = identity_of(found.props, found.entry, local_file)
        digest, notes = _digest(settings, local_file)
        if found.props and found.props.default_generation_settings.params.get("lora"):
            notes = (*notes, "the upstream applies LoRA adapters of its own to the model")
        parts = _Parts(settings, server, client, found, digest, local_file, notes, identity)
        engine = _engine(parts, progress)
        _check_unchanged(parts)
    except EngineError as error:
        client.close()
        raise EngineStartError(_named(f"{error} See the upstream's log.", server)) from None
    except EngineStartError as error:
        client.close()
        raise EngineStartError(_named(str(error), server)) from None
    client.close()
    return engine


def _check_unchanged(parts: _Parts) -> None:
    if parts.identity.changes(parts.ask(parts.client)):
        raise EngineStartError(
            "The upstream has changed its model while it was inspected; start again."
        )


def _named(sentence: str, server: Server) -> str:
    """Return the sentence with the server's URL after its subject: which one is meant."""
    subject = "The upstream "
    if sentence.startswith(subject):
        return f"{subject}{server.shown_url} {sentence.removeprefix(subject)}"
    return f"{sentence} The upstream is {server.shown_url}."


def _server(settings: "Settings") -> Server:
    if settings.upstream_url is None:
        raise EngineStartError(
            "The engine openai_upstream needs a server; set ONBOOK_UPSTREAM_URL."
        )
    parts = urlsplit(settings.upstream_url)
    if parts.username is not None or parts.password is not None:
        raise EngineStartError(
            "ONBOOK_UPSTREAM_URL must not hold a password; set ONBOOK_UPSTREAM_KEY instead."
        )
    key = settings.upstream_key
    return Server(
        base_url(settings.upstream_url),
        key.get_secret_value() if key is not None else None,
        settings.upstream_timeout_s,
    )


def _engine(parts: _Parts, progress: Progress) -> TokenUpstream | ChatUpstream:
    api = parts.settings.upstream_api
    found = parts.found
    tokenizer = parts.tokenizer()
    is_llama = found.props is not None and found.tokenizer_api == "llama"
    if api == "llama_server" and not is_llama:
        raise EngineStartError(
            "The upstream is no llama-server (/props and /tokenize are missing); "
            "set ONBOOK_UPSTREAM_API to auto."
        )
    if tokenizer is not None and api in ("auto", "llama_server") and is_llama:
        progress(f"Using llama-server's /completion with token ids for {found.model}.")
        return _token_engine(parts, tokenizer, "llama_server")
    if tokenizer is not None and api in ("auto", "completions"):
        refused = _ids_refused(parts, tokenizer)
        if refused is None:
            progress(f"Using /v1/completions with token ids for {found.model}.")
            return _token_engine(parts, tokenizer, "completions")
        if api == "completions":
            raise EngineStartError(refused)
        why = "takes no token ids"
    elif api == "completions":
        raise EngineStartError(
            "The upstream does not tokenise (/tokenize is missing), so it cannot be given token "
            "ids; set ONBOOK_UPSTREAM_API to chat."
        )
    else:
        why = "was asked for" if api == "chat" else "does not tokenise"
    subject = "chat" if api == "chat" else "the server"
    progress(
        f"Using /v1/chat/completions for {found.model}: {subject} {why}. What the model sees "
        "cannot be proved in this mode."
    )
    return _chat_engine(parts, tokenizer)


def _token_engine(parts: _Parts, tokenizer: UpstreamTokenizer, api: TokenApi) -> TokenUpstream:
    found = parts.found
    if api == "llama_server":
        _check_llama(parts, tokenizer)
    context = found.context_size or parts.settings.context_size
    notes = list(parts.notes)
    if found.context_size is None:
        notes.append("the upstream does not tell its context; ONBOOK_CONTEXT_SIZE is taken for it")
    if found.flavour == "other":
        notes.append("samplers beyond OpenAI's API are the server's own and cannot be set")
    text = _plain_text(parts, tokenizer)
    return TokenUpstream(
        api=api,
        flavour=found.flavour,
        stream=parts.stream(),
        tokenizer=tokenizer,
        upstream_model=found.model,
        model=parts.model_info(context, _renderer(text, found.chat_template)),
        text=text,
        chat_template=found.chat_template,
        notes=notes,
        watch=parts.watch(tokenizer),
    )


def _chat_engine(parts: _Parts, tokenizer: UpstreamTokenizer | None) -> ChatUpstream:
    found = parts.found
    purity = probe_chat(parts.client, found.flavour, found.model, tokenizer)
    if not purity.passed:
        raise EngineStartError(
            f"The upstream changes what it is given ({'; '.join(purity.failures)}); use token ids "
            "(ONBOOK_UPSTREAM_API=auto), or start it with a chat template that adds nothing."
        )
    renderer: Renderer | None = None
    if tokenizer is not None:
        renderer = _renderer(_plain_text(parts, tokenizer), found.chat_template)
    counted = "are" if renderer is not None else "cannot be"
    notes = [*parts.notes, *purity.notes, f"prompt tokens {counted} checked against a pure count"]
    return ChatUpstream(
        flavour=found.flavour,
        stream=parts.stream(),
        tokenizer=tokenizer,
        renderer=renderer,
        upstream_model=found.model,
        model=parts.model_info(found.context_size, renderer),
        purity=msgspec.structs.replace(purity, notes=notes),
        watch=parts.watch(tokenizer),
    )


def _renderer(text: PlainText, chat_template: str | None) -> Renderer | None:
    try:
        return chat_renderer(text, chat_template)
    except UnsupportedModelError:
        return None


def _plain_text(parts: _Parts, tokenizer: UpstreamTokenizer) -> PlainText:
    if parts.local_file is not None:
        try:
            return read_gguf(parts.local_file).plain_text(tokenizer)
        except ModelFileError:
            pass
    tokenizer.learn(control_literals(parts.found.chat_template))
    props = parts.found.props
    eos = tokenizer.special(props.eos_token) if props is not None and props.eos_token else []
    return PlainText(
        tokenizer,
        tokenizer.literals,
        bos=tokenizer.bos(),
        eos=eos[0] if len(eos) == 1 else None,
    )


def _check_llama(parts: _Parts, tokenizer: UpstreamTokenizer) -> None:
    """Generate one token and look at what llama-server says that it used."""
    ids = tokenizer("a b")
    asked = llama_sampling(_trial_sampling(), None) | {"stream": False}
    body = {"prompt": ids, "response_fields": ["tokens_evaluated", "generation_settings"], **asked}
    answer = parts.client.post("/completion", body)
    said = answer.read(_LlamaTrial)
    if said is None:
        raise EngineError(f"The upstream does not complete token ids (status {answer.status}).")
    if changed := differences(asked, said.generation_settings):
        raise EngineStartError(
            f"The upstream has settings of its own that a request cannot turn off "
            f"({', '.join(changed)}); start it without them."
        )
    if said.tokens_evaluated not in (None, len(ids)):
        raise EngineStartError("The upstream adds tokens to the ids that it is given.")


def _ids_refused(parts: _Parts, tokenizer: UpstreamTokenizer) -> str | None:
    """Return why ``/v1/completions`` cannot be used with token ids, or None where it can."""
    ids = tokenizer("a b")
    body = {"model": parts.found.model, "prompt": ids, "max_tokens": 1, "temperature": 0.0}
    answer = parts.client.post("/v1/completions", body)
    said = answer.read(_Trial)
    if said is None:
        return (
            f"The upstream's /v1/completions takes no token ids (status {answer.status}); "
            "set ONBOOK_UPSTREAM_API to chat."
        )
    if said.usage.prompt_tokens != len(ids):
        return (
            f"The upstream's /v1/completions reads {said.usage.prompt_tokens} tokens where it is "
            f"given {len(ids)}; set ONBOOK_UPSTREAM_API to chat."
        )
    return None


def _trial_sampling() -> EffectiveSampling:
    return effective_sampling(Sampling(max_tokens=1, seed=1), "generate")


def _local_file(server: Server, found: Inspection) -> Path | None:
    """Return llama-server's model file where it is on this machine and can be read."""
    if found.props is None or not found.props.model_path or not _on_loopback(server.url):
        return None
    path = Path(found.props.model_path)
    try:
        return path if path.is_absolute() and path.is_file() else None
    except OSError:
        return None


def _digest(settings: "Settings", local_file: Path | None) -> tuple[str | None, tuple[str, ...]]:
    stated = settings.model_sha256.lower() if settings.model_sha256 else None
    try:
        hashed = file_sha256(local_file) if local_file is not None else None
    except OSError:
        hashed = None
    if hashed is not None and stated is not None and hashed != stated:
        raise EngineStartError(
            f"The upstream's model file {local_file} has SHA-256 {hashed}, not the expected one; "
            "correct ONBOOK_MODEL_SHA256 or the upstream's model."
        )
    if hashed is not None:
        return hashed, ("the model's digest is of the file that the upstream names",)
    if stated is not None:
        return stated, ("the model's digest is what ONBOOK_MODEL_SHA256 states, not computed",)
    return None, ("the model's digest is not known",)


def _on_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
