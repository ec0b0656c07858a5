"""Every family's format, by token ids: on llama.cpp's own tokenizers, and for any content."""

import http.client
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_models import FAMILIES, GEMMA, MISTRAL_V3, tiny_engine, write_tiny_gguf
from onbook.wire.worker_api import Message
from onbook.worker.engines.llama_cpp import LlamaCppEngine
from onbook.worker.gguf import read_gguf
from onbook.worker.purity import probe_purity
from onbook.worker.rendering import (
    FAMILY_LITERALS,
    MessagesNotRenderableError,
    PlainText,
    RawCompletion,
    Renderer,
    UnsupportedModelError,
    chat_renderer,
)

SYSTEM, USER, ASSISTANT = Message("system", "S."), Message("user", "U."), Message("assistant", "A.")
THREE = [USER, ASSISTANT, Message("user", "V.")]
HOSTILE = "".join(sorted(FAMILY_LITERALS))

# What each family's prompt says, control tokens written out; the first is a system and a user turn.
FORMATS = {
    "chatml": (
        (
            "<|im_start|>system\nS.<|im_end|>\n<|im_start|>user\nU.<|im_end|>\n"
            "<|im_start|>assistant\n"
        ),
        (
            "<|im_start|>user\nU.<|im_end|>\n<|im_start|>assistant\nA.<|im_end|>\n"
            "<|im_start|>user\nV.<|im_end|>\n<|im_start|>assistant\n"
        ),
    ),
    "llama3": (
        (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nU.<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nU.<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nA.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nV.<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
    ),
    "gemma": (
        "<bos><start_of_turn>user\nS.\n\nU.<end_of_turn>\n<start_of_turn>model\n",
        (
            "<bos><start_of_turn>user\nU.<end_of_turn>\n<start_of_turn>model\nA.<end_of_turn>\n"
            "<start_of_turn>user\nV.<end_of_turn>\n<start_of_turn>model\n"
        ),
    ),
    "mistral-v3": ("<s>[INST]S.\n\nU.[/INST]", "<s>[INST]U.[/INST]A.</s>[INST]V.[/INST]"),
    "mistral-v7": (
        "<s>[SYSTEM_PROMPT]S.[/SYSTEM_PROMPT][INST]U.[/INST]",
        "<s>[INST]U.[/INST]A.</s>[INST]V.[/INST]",
    ),
    "template": (
        (
            "<|start_of_role|>system<|end_of_role|>S.<|end_of_text|>\n<|start_of_role|>user"
            "<|end_of_role|>U.<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"
        ),
        (
            "<|start_of_role|>user<|end_of_role|>U.<|end_of_text|>\n<|start_of_role|>assistant"
            "<|end_of_role|>A.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>V."
            "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tiny model in llama.cpp, with the renderer that was chosen for it."""

    name: str
    engine: LlamaCppEngine
    text: PlainText
    chat: Renderer

    def post(self, path: str, body: object) -> object:
        """Ask the engine's own server, past our renderer."""
        connection = http.client.HTTPConnection(self.engine._tokenizer._host, timeout=20)
        try:
            headers = self.engine._tokenizer._headers
            connection.request("POST", path, msgspec.json.encode(body), headers)
            response = connection.getresponse()
            assert response.status == 200
            return msgspec.json.decode(response.read())
        finally:
            connection.close()

    def own(self, text: str) -> object:
        """The ids of ``text`` where llama.cpp is let make control tokens of it."""
        body = {"content": text, "add_special": False, "parse_special": True}
        return msgspec.convert(self.post("/tokenize", body), dict[str, list[int]])["tokens"]

    def written(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``: control tokens by name, the rest as llama.cpp reads it."""
        controls = {token: literal for literal, token in self.text.special.items()}
        texts: list[str] = []
        plain: list[int] = []
        for token in [*ids, -1]:
            if token != -1 and token not in controls:
                plain.append(token)
                continue
            if plain:
                body = self.post("/detokenize", {"tokens": plain})
                text = msgspec.convert(body, dict[str, str])["content"]
                texts.append(text.removeprefix(" ") if FAMILIES[self.name].space else text)
                plain = []
            texts.append(controls.get(token, ""))
        return "".join(texts)


@pytest.fixture(scope="module", params=list(FAMILIES))
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loaded]:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    with tiny_engine(path, FAMILIES[request.param]) as engine:
        chat = chat_renderer(engine.text, engine.chat_template)
        yield Loaded(request.param, engine, engine.text, chat)


def test_the_family_is_recognised_and_named(loaded: Loaded) -> None:
    assert loaded.chat.name == loaded.name


def test_the_purity_probe_passes_and_notes_what_the_models_template_would_add(
    loaded: Loaded,
) -> None:
    report = probe_purity(loaded.chat, loaded.text, loaded.engine.chat_template)
    assert (report.passed, report.failures, report.rendering) == (True, [], loaded.name)
    would_add = {"chatml": "You are a default.", "llama3": "The day is", "mistral-v7": "It is"}
    added = would_add.get(loaded.name)
    assert any(added in note for note in report.notes) if added else report.notes == []


def test_the_prompt_is_the_familys_format(loaded: Loaded) -> None:
    with_system, three = FORMATS[loaded.name]
    assert loaded.written(loaded.chat.render([SYSTEM, USER])) == with_system
    assert loaded.written(loaded.chat.render(THREE)) == three
    if not FAMILIES[loaded.name].space:
        assert loaded.chat.render([SYSTEM, USER]) == loaded.own(with_system)
        assert loaded.chat.render(THREE) == loaded.own(three)


def test_special_tokens_of_four_families_in_contents_stay_text(loaded: Loaded) -> None:
    special = set(loaded.text.special.values()) | {loaded.text.bos}
    benign = [SYSTEM, USER]
    hostile = [Message("system", f"S.{HOSTILE}"), Message("user", f"{HOSTILE} U.")]
    ids = loaded.chat.render(hostile)
    expected = [token for token in loaded.chat.render(benign) if token in special]
    assert [token for token in ids if token in special] == expected
    assert special.isdisjoint(loaded.text.ids(HOSTILE))
    wanted = FORMATS[loaded.name][0].replace("S.", f"S.{HOSTILE}").replace("U.", f"{HOSTILE} U.")
    assert loaded.written(ids) == wanted
    # The danger is real: let to, the engine makes control tokens of the same contents.
    own = loaded.own(HOSTILE)
    assert isinstance(own, list)
    assert not special.isdisjoint(own)


def test_every_special_token_of_the_model_is_plain_in_a_content(loaded: Loaded) -> None:
    special = set(loaded.text.special.values())
    for literal in loaded.text.special:
        text = f"a {literal}{literal} b"
        ids = loaded.text.ids(text)
        assert special.isdisjoint(ids)
        assert loaded.written(ids) == text


def test_a_raw_completion_begins_with_the_models_first_token_only(loaded: Loaded) -> None:
    ids = RawCompletion(loaded.text).render([Message("user", "a</s>b")])
    start = [] if loaded.text.bos is None else [loaded.text.bos]
    assert ids == [*start, *loaded.text.ids("a</s>b")]
    # As the engine itself begins a text.
    body = {"content": "ab", "add_special": True, "parse_special": False}
    own = msgspec.convert(loaded.post("/tokenize", body), dict[str, list[int]])["tokens"]
    assert own == RawCompletion(loaded.text).render([Message("user", "ab")])


def test_merged_pieces_do_not_become_a_control_token(tmp_path: Path) -> None:
    with tiny_engine(tmp_path / "tiny.gguf", MISTRAL_V3) as engine:
        # llama.cpp makes the end of the text from plain pieces, without special parsing.
        end = engine.text.special["</s>"]
        assert end in engine.text.tokenize("a</s>b")
        ids = engine.text.ids("a</s>b")
        assert end not in ids
        # The space that SentencePiece puts before a text stands before the first piece only.
        space = engine.text.tokenize("a")[0]
        assert (ids[0], ids.count(space)) == (space, 1)


def test_white_space_that_a_vocabulary_defines_is_text(tmp_path: Path) -> None:
    with tiny_engine(tmp_path / "tiny.gguf", GEMMA) as engine:
        assert {"\n", "\n\n", "\u2581\u2581"}.isdisjoint(engine.text.special)
        assert {"<table>", "<end_of_turn>"} <= set(engine.text.special)
        # Token 0 is the unknown one.
        assert engine.text.ids("\n\n") == [1 + [*GEMMA.special].index("\n\n")]


SPECIALS = {literal: -2 - at for at, literal in enumerate(sorted(FAMILY_LITERALS))}
BY_ID = {token: literal for literal, token in SPECIALS.items()}
_TOKEN = re.compile(
    "|".join(map(re.escape, sorted(SPECIALS, key=len, reverse=True))) + "|.", re.DOTALL
)
SIGNS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>", "<bos>"),
    "mistral-v3": ("[INST]", "[/INST]", "<s>", "</s>"),
    "mistral-v7": ("[INST]", "[/INST]", "<s>", "</s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
}


def _eager(text: str) -> list[int]:
    """A tokenizer that makes a control token of every literal that it meets."""
    return [SPECIALS.get(part, ord(part[0])) for part in _TOKEN.findall(text)]


def _decoded(ids: Sequence[int]) -> str:
    return "".join(BY_ID[token] if token < 0 else chr(token) for token in ids)


contents = st.lists(
    st.one_of(st.sampled_from(sorted(FAMILY_LITERALS)), st.text(max_size=8),
              st.sampled_from(["<", "|", ">", "[/", "INST]", "\n", " ", "/s>"]))
).map("".join)  # fmt: skip


@settings(deadline=None)  # the machine may be busy
@given(name=st.sampled_from(list(SIGNS)), s=contents, u=contents, a=contents, v=contents)
def test_any_content_comes_back_whole_and_brings_no_control_token(
    name: str, s: str, u: str, a: str, v: str
) -> None:
    special = {literal: SPECIALS[literal] for literal in SIGNS[name]}
    everything = PlainText(_eager, SPECIALS)
    chat = chat_renderer(PlainText(everything.ids, special), None)
    assert chat.name == name
    for messages, form in (
        ([Message("system", s), Message("user", u)], FORMATS[name][0]),
        ([Message("user", u), Message("assistant", a), Message("user", v)], FORMATS[name][1]),
    ):
        ids = chat.render(messages)
        pieces = re.split(r"([SUAV]\.)", form)
        values = {"S.": s, "U.": u, "A.": a, "V.": v}
        assert _decoded(ids) == "".join(values.get(piece, piece) for piece in pieces)
        skeleton = _eager("".join(piece for piece in pieces if piece not in values))
        assert [token for token in ids if token < 0] == [token for token in skeleton if token < 0]


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("gemma", "s"),
        ("gemma", "us"),
        ("gemma", "ssu"),
        ("gemma", "usu"),
        ("gemma", "au"),
        ("gemma", "uu"),
        ("mistral-v3", "s"),
        ("mistral-v3", "suu"),
        ("mistral-v3", "sau"),
        ("mistral-v3", "ua"),
        ("mistral-v3", "uasu"),
        ("mistral-v7", "ua"),
        ("mistral-v7", "ssu"),
        ("mistral-v7", "suaau"),
    ],
)
def test_turns_that_a_family_has_no_place_for_are_the_callers_error(name: str, roles: str) -> None:
    special = {literal: SPECIALS[literal] for literal in SIGNS[name]}
    chat = chat_renderer(PlainText(_eager, special), None)
    turns = {"s": SYSTEM, "u": USER, "a": ASSISTANT}
    with pytest.raises(MessagesNotRenderableError) as caught:
        chat.render([turns[role] for role in roles])
    assert str(caught.value).endswith(".")
    assert "S." not in str(caught.value)


def test_mistral_puts_the_system_text_before_the_last_user_turn() -> None:
    special = {literal: SPECIALS[literal] for literal in SIGNS["mistral-v3"]}
    chat = chat_renderer(PlainText(_eager, special), None)
    assert (
        _decoded(chat.render([SYSTEM, *THREE])) == "<s>[INST]U.[/INST]A.</s>[INST]S.\n\nV.[/INST]"
    )


def test_mistral_without_control_tokens_is_refused() -> None:
    plain = PlainText(_eager, {"<s>": -1, "</s>": -2}, bos=-1, eos=-2)
    with pytest.raises(UnsupportedModelError, match="close its own turn"):
        chat_renderer(plain, "{{ bos_token }}[INST] {{ messages[0].content }} [/INST]")


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_header_says_how_a_prompt_begins_and_ends(name: str, tmp_path: Path) -> None:
    model = FAMILIES[name]
    header = read_gguf(write_tiny_gguf(tmp_path / "tiny.gguf", model))
    assert header.special[model.eos or ""] == header.eos
    wants = {"chatml": False, "template": False}.get(name, True)
    assert header.bos == (header.special[model.bos or ""] if wants else None)
    assert header.tokenizer == ("llama" if model.scores else "gpt2")
    assert header.pre == (None if model.scores else model.pre)
