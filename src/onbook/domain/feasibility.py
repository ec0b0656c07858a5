"""Templates whose own text makes their limits impossible to keep."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Final

from onbook.domain.messages import Message, compose, example_turns, rotated_examples
from onbook.domain.template_rules import Broken
from onbook.domain.templates import Example, Template, TemplateTest, Variable
from onbook.domain.token_counting import TokenCounter

_EMPTY: Final[dict[str, str | int | float | bool]] = {
    "string": "",
    "integer": 0,
    "number": 0,
    "boolean": False,
}


def infeasible(
    template: Template,
    *,
    emitted: str,
    reader: TokenCounter,
    writer: TokenCounter,
    context_size: int | None,
) -> Iterator[Broken]:
    """Yield each field whose text alone breaks a limit of ``template``, and why.

    Args:
        template: A template that keeps the rules of ``template_rules``.
        emitted: The least that its grammar makes the model write; empty without a grammar.
        reader: Counts in the template's ``token_unit``.
        writer: Counts in the model's own tokens.
        context_size: Tokens that prompt and output may have together; None if not known.
    """
    yield from _over_context(template, writer, context_size)
    if template.examples_sent:
        for number, example in enumerate(template.examples, start=1):
            tokens = _tokens(example.assistant, reader)
            if tokens > template.token_limit:
                over = f"over the token_limit of {template.token_limit}"
                yield "examples", f"has an answer (number {number}) of {tokens} tokens, {over}"
    tokens = _tokens(emitted, reader)
    if tokens > template.token_limit:
        over = f"over the token_limit of {template.token_limit}"
        yield "grammar", f"makes every text at least {tokens} tokens long, {over}"
    tokens = writer.count(emitted)
    if tokens > template.max_tokens:
        over = f"over max_tokens {template.max_tokens}"
        yield "grammar", f"makes every text at least {tokens} of the model's tokens long, {over}"
    yield from _impossible_tests(template, reader)


def _over_context(
    template: Template, writer: TokenCounter, context_size: int | None
) -> Iterator[Broken]:
    if context_size is None:
        return
    room = context_size - template.max_tokens
    tokens = next((tokens for tokens in _own_tokens(template, writer) if tokens > room), None)
    if tokens is not None:
        need = f"at least {template.max_tokens} + {tokens} tokens without any prompt"
        over = f"over the worker's context of {context_size}"
        yield "max_tokens", f"and the template's own text need {need}, {over}"


def _own_tokens(template: Template, writer: TokenCounter) -> Iterator[int]:
    """Yield the tokens of the messages without examples, then with each set that can be sent.

    A message is counted by itself, so the sum over them is exact, and what all sets share is
    counted once: together the texts are long, and a caller stops at the first that is too many.
    """

    def tokens(messages: Iterable[Message]) -> int:
        return sum(writer.count(message.content) for message in messages)

    @cache
    def shown(example: Example) -> int:
        return tokens(example_turns(template, example))

    values = {item.name: _EMPTY[item.type] for item in template.variables if _must_be_given(item)}
    bare = replace(template, examples=(), examples_sent=0, grammar=None)
    frame = tokens(compose(bare, "", seed=0, variables=values).messages)
    yield frame
    if template.examples_sent:
        for seed in range(len(template.examples) // template.examples_sent):
            yield frame + sum(map(shown, rotated_examples(template, seed)))


def _must_be_given(variable: Variable) -> bool:
    return variable.required and variable.default is None


def _impossible_tests(template: Template, reader: TokenCounter) -> Iterator[Broken]:
    for number, test in enumerate(template.tests, start=1):
        limit = most_tokens(test, template)
        kept = [
            text
            for text in dict.fromkeys(test.must_keep)
            if not any(text != other and text in other for other in test.must_keep)
        ]
        tokens = _tokens(" ".join(kept), reader)
        if tokens > limit:
            yield "tests", f"(number {number}) must keep {tokens} tokens, over its limit of {limit}"


def most_tokens(test: TemplateTest, template: Template) -> int:
    """Return the tokens that the output of ``test`` may have, in the template's unit."""
    return template.token_limit if test.max_tokens is None else test.max_tokens


def _tokens(text: str, reader: TokenCounter) -> int:
    return reader.count(reader.canonical(text))
