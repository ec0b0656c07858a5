"""A grammar that llama.cpp could not get through in time is refused before it sees it."""

import re
import tomllib
from importlib import resources
from time import process_time

import pytest

from onbook.wire.gbnf import GrammarInvalid, check_grammar

_DOUBLING = "\n".join(
    ["root ::= r0", *(f"r{one} ::= r{one + 1} r{one + 1}?" for one in range(30)), 'r30 ::= "a"?']
)
_NUMBERS = " | ".join(f'"{number:05d}"' for number in range(6000))
_LISTS = "\n".join(
    f"{name} ::= " + " | ".join(f'"{name}{number} of {number * 7}"' for number in range(300))
    for name in "abc"
)
_JSON = r"""root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}"""


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + "[a-z]? " * 3000 + '"x"',
        "root ::= " + "[a-z]? " * 100 + '"x"',
        _DOUBLING,
        "root ::= " + "a " * 30 + "\na ::= b*\nb ::= [a-z ]* [a-z ]* [a-z ]*",
        'root ::= ((("a"? [a-z]*) "b"?)+ [a-z])+',
        'root ::= "x"{1000} ([a-z]? [a-z]? [a-z]? [a-z])+ "z"',
        'root ::= "start" (" ok" | inner)+\ninner ::= ([^x]? [^y])+',
        'root ::= ("-" "-"?)+',
        'root ::= (. .?)+ "end"',
        'root ::= (("a"{0,2000}){0,2000}){0,2000}',
        'root ::= "' + "long" * 100 + '"{2000}',
        'root ::= root "a" | "b"',
        'root ::= e root "a" | "x"\ne ::= ""',
        "root ::= a\na ::= b\nb ::= a | [x]",
        'root ::= ("")* "a"',
    ],
    ids=lambda grammar: grammar[:24],
)
def test_a_grammar_of_too_many_readings_is_refused_at_once(grammar: str) -> None:
    started = process_time()
    with pytest.raises(GrammarInvalid) as caught:
        check_grammar(grammar)
    assert "too many ways" in str(caught.value)
    # The budget is about half a second; unbounded, each would take hours.
    assert process_time() - started < 10


@pytest.mark.parametrize(
    "grammar",
    [
        _JSON,
        "root ::= " + _NUMBERS,
        'root ::= number (", " number)*\nnumber ::= ' + _NUMBERS,
        'root ::= a ", " b ", " c ", " a\n' + _LISTS,
        "root ::= [^\\n]{1,2000}",
        'root ::= [^\\n]* "\\n" [a-z .,]* "."',
        'root ::= s{1,9}\ns ::= [A-Z] w (" " w){3,20} [.!?] " "?\nw ::= [a-z]+ ("," | "-" [a-z]+)?',
        'root ::= ("a " | "the ")? ("red ")? ("big ")? ("old ")? ("fine ")? "fox"',
        "root ::= " + "(" * 190 + '"a"?' + ")?" * 190,
        "root ::= [a-z]{0,64} <[5]> !<[6]>",
        'root ::= "a"{1999}',
    ],
    ids=lambda grammar: grammar[:24],
)
def test_grammars_that_people_write_pass(grammar: str) -> None:
    check_grammar(grammar)


def test_the_grammars_of_all_seed_templates_pass() -> None:
    files = resources.files("onbook.domain.seed_templates").iterdir()
    read = [tomllib.loads(file.read_text("utf-8")) for file in files if file.name[-5:] == ".toml"]
    grammars = [str(one["grammar"]) for one in read if "grammar" in one]
    assert grammars
    for grammar in grammars:
        check_grammar(re.sub(r"\{\{[^{}]*\}\}", "a red fox by the sea", grammar))
