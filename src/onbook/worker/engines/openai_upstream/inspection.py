"""What the start finds out about a server: which one it is, its model, and what it can do."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from onbook.worker.engines.base import EngineError, EngineStartError, UpstreamUnavailableError
from onbook.worker.engines.openai_upstream.sampling import Flavour
from onbook.worker.engines.openai_upstream.server import Answer, BlockingClient
from onbook.worker.engines.openai_upstream.tokenizer import TokenizerApi, UpstreamTokenizer

_RETRY_S: Final = 0.5
_MODELS_SHOWN: Final = 5
# vLLM renamed the field of a grammar in this release, and passes unknown ones over.
_STRUCTURED_SINCE: Final = (0, 11)

T = TypeVar("T")


class _Meta(msgspec.Struct):
    n_vocab: int | None = None
    n_params: int | None = None
    size: int | None = None


class Model(msgspec.Struct):
    """A model of ``/v1/models``; ``root`` is where vLLM took it from, ``meta`` llama-server's."""

    id: str
    owned_by: str | None = None
    max_model_len: int | None = None
    root: str | None = None
    meta: _Meta | None = None


class Models(msgspec.Struct):
    """What ``/v1/models`` answers."""

    data: list[Model]


class _Defaults(msgspec.Struct):
    n_ctx: int
    params: dict[str, object] = {}


class Props(msgspec.Struct):
    """What llama-server says of itself under ``/props``. ``n_ctx`` is in tokens, per slot."""

    default_generation_settings: _Defaults
    total_slots: int
    model_path: str | None = None
    chat_template: str | None = None
    eos_token: str | None = None


class _ServerInfo(msgspec.Struct):
    enable_deterministic_inference: bool = False
    context_length: int | None = None


class _Version(msgspec.Struct):
    version: str


class _TokenizerInfo(msgspec.Struct):
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of a server. ``context_size`` is in tokens, None where it does not say."""

    flavour: Flavour
    model: str
    entry: Model
    context_size: int | None
    props: Props | None
    tokenizer_api: TokenizerApi | None
    chat_template: str | None


def inspect(
    client: BlockingClient, model: str | None, *, wait_s: float, progress: Callable[[str], None]
) -> Inspection:
    """Ask the server what it is. Blocking; a server that is loading is waited for.

    Args:
        client: To ask with.
        model: The name of the model to use; None takes the first.
        wait_s: How long a busy or loading server is waited for, in seconds.
        progress: Told once when there is something to wait for.

    Raises:
        EngineStartError: the server is away, refuses the key, speaks something else, or does not
            have the model.
    """
    answer = _models_answer(client, wait_s, progress)
    if answer.status in (401, 403):
        raise EngineStartError("The upstream refuses the key; set ONBOOK_UPSTREAM_KEY.")
    models = answer.read(Models)
    if models is None or not models.data:
        raise EngineStartError(
            f"The upstream does not speak OpenAI's API (/v1/models: status {answer.status}); "
            "correct ONBOOK_UPSTREAM_URL."
        )
    chosen = _chosen(models.data, model)
    props = _get(client, "/props", Props)
    flavour, context = _flavour(client, chosen, props)
    template = props.chat_template if props is not None else None
    if props is None and flavour != "other":
        told = _get(client, "/tokenizer_info", _TokenizerInfo)
        template = told.chat_template if told is not None else None
    return Inspection(
        flavour=flavour,
        model=chosen.id,
        entry=chosen,
        context_size=context or chosen.max_model_len,
        props=props,
        tokenizer_api=_tokenizer_api(client, chosen.id),
        chat_template=template or None,
    )


def _models_answer(
    client: BlockingClient, wait_s: float, progress: Callable[[str], None]
) -> Answer:
    deadline = time.monotonic() + wait_s
    told = False
    while True:
        try:
            # llama-server lists its models while it loads them, without what it knows later.
            loading = client.get("/health").status == 503
            answer = client.get("/v1/models")
        except UpstreamUnavailableError as error:
            raise EngineStartError(f"{error} Start it, or correct ONBOOK_UPSTREAM_URL.") from None
        except EngineError as error:
            raise EngineStartError(f"{error} Correct ONBOOK_UPSTREAM_URL.") from None
        if not loading and answer.status not in (429, 503):
            return answer
        if time.monotonic() >= deadline:
            raise EngineStartError(
                f"The upstream is still busy or loading (status "
                f"{503 if loading else answer.status}); try again when it is ready."
            )
        if not told:
            progress("The upstream is loading its model; waiting …")
            told = True
        time.sleep(min(_RETRY_S, wait_s))


def _chosen(models: list[Model], wanted: str | None) -> Model:
    if wanted is None:
        return models[0]
    for model in models:
        if model.id == wanted:
            return model
    names = ", ".join(model.id[:100] for model in models[:_MODELS_SHOWN])
    raise EngineStartError(
        f"The upstream has no model {wanted!r}; set ONBOOK_UPSTREAM_MODEL to one of: {names}."
    )


def _flavour(
    client: BlockingClient, model: Model, props: Props | None
) -> tuple[Flavour, int | None]:
    if props is not None:
        return "llama", props.default_generation_settings.n_ctx
    if model.owned_by == "vllm":
        told = _get(client, "/version", _Version)
        old = told is not None and _release(told.version) < _STRUCTURED_SINCE
        return "vllm_guided" if old else "vllm", model.max_model_len
    if model.owned_by == "sglang":
        info = _get(client, "/server_info", _ServerInfo)
        info = info or _get(client, "/get_server_info", _ServerInfo) or _ServerInfo()
        seeded = info.enable_deterministic_inference
        return "sglang_seeded" if seeded else "sglang", info.context_length
    return "other", model.max_model_len


def _release(version: str) -> tuple[int, int]:
    parts = version.removeprefix("v").split(".")
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return _STRUCTURED_SINCE
    return int(parts[0]), int(parts[1])


def _tokenizer_api(client: BlockingClient, model: str) -> TokenizerApi | None:
    apis: tuple[TokenizerApi, ...] = ("llama", "openai")
    for api in apis:
        try:
            # Either server answers to the other's fields with no ids or with an error.
            if UpstreamTokenizer(client, api, model).special("a b"):
                return api
        except EngineError:
            continue
    return None


def _get(client: BlockingClient, path: str, kind: type[T]) -> T | None:
    try:
        return client.get(path).read(kind)
    except EngineError:
        return None
