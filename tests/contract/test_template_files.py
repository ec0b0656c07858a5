"""Templates as TOML files: lossless both ways, and every mistake has its line."""

import string
import tomllib
from dataclasses import replace
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onbook.adapters.files.packaged import packaged_templates
from onbook.adapters.files.template_toml import from_toml, to_toml
from onbook.adapters.files.toml_lines import key_lines
from onbook.adapters.template_text import MAX_FILE_BYTES, read_file
from onbook.domain.templates import (
    CONTENT_MODES,
    TOKEN_UNITS,
    USE_CASES,
    Example,
    Template,
    TemplateInvalid,
    TemplateSampling,
    TemplateTest,
    Variable,
    checked,
)

# What is hard to write down: quotes, escapes, line ends, and what an editor would trim or join.
_PIECES = st.sampled_from(
    ["'''", '"""', "'", '"', "\\", "\\n", "\r\n", "\r", "\n", "\t", "  \n", " ", "# ", "= ", "[x]",
     "\x85", "\u2028", "\x01", "\x7f", "\ufeff", "é", "汉字", "👩\u200d🚀", "word",
     "[[tests]]\nname = 1"]
)  # fmt: skip
_CHARS = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
_ANY_TEXT = st.one_of(st.text(_CHARS, max_size=40), st.lists(_PIECES, max_size=12).map("".join))
_TEXT = _ANY_TEXT.filter(lambda text: "{{" not in text)
_FILLED = _TEXT.filter(lambda text: text.strip())
_LINE = st.text(string.ascii_letters + " é'\"\\=[]#.", min_size=1, max_size=20).filter(str.strip)
_NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=8).filter("prompt".__ne__)
_NUMBERS: dict[str, st.SearchStrategy[str | int | float]] = {
    "string": _TEXT,
    "integer": st.integers(-(2**53), 2**53),
    "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
    "boolean": st.booleans(),
}


def _floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high)


@st.composite
def _variables(draw: st.DrawFn) -> tuple[Variable, ...]:
    names = draw(st.lists(_NAMES, max_size=3, unique=True))
    variables = []
    for name in names:
        kind = draw(st.sampled_from(["string", "integer", "number", "boolean"]))
        default = draw(st.none() | _NUMBERS[kind])
        required = draw(st.booleans())
        variables.append(Variable(name, kind, required, default))  # type: ignore[arg-type]  # a kind
    return tuple(variables)


@st.composite
def _tests(draw: st.DrawFn, variables: tuple[Variable, ...]) -> tuple[TemplateTest, ...]:
    names = draw(st.lists(_LINE, max_size=2, unique=True))
    return tuple(
        TemplateTest(
            name=name,
            input=draw(_FILLED),
            must_keep=tuple(draw(st.lists(_FILLED, max_size=2))),
            must_not=tuple(draw(st.lists(_FILLED, max_size=2))),
            max_tokens=draw(st.none() | st.integers(1, 32_768)),
            mode=draw(st.none() | st.just("sfw")),
            seed=draw(st.integers(0, 2**32 - 2)),
            variables={item.name: draw(_NUMBERS[item.type]) for item in variables},
        )
        for name in names
    )


@st.composite
def _templates(draw: st.DrawFn) -> Template:
    variables = draw(_variables())
    examples = tuple(draw(st.lists(st.builds(Example, _ANY_TEXT, _ANY_TEXT), max_size=3)))
    slots = "".join(f"{{{{{item.name}}}}}" for item in variables)
    grammar = st.builds(lambda text: f'root ::= "{{{{prompt}}}}" #{text}', _TEXT.filter(
        lambda text: "rotate" not in text
    ))  # fmt: skip
    return checked(
        Template(
            template_name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)),
            version=draw(st.integers(1, 2**31 - 1)),
            model_type=draw(_FILLED),
            use_case=draw(st.sampled_from(USE_CASES)),
            content_mode=draw(st.sampled_from(CONTENT_MODES)),
            target=draw(st.none() | _FILLED),
            system_prompt=draw(_FILLED) + slots + draw(_TEXT),
            token_limit=draw(st.integers(1, 1_000_000)),
            token_unit=draw(st.sampled_from(TOKEN_UNITS)),
            max_tokens=draw(st.integers(1, 32_768)),
            user_format=draw(st.none() | st.builds("{}{{{{prompt}}}}{}".format, _TEXT, _TEXT)),
            sampling=draw(
                st.builds(
                    TemplateSampling,
                    temperature=_floats(0, 5),
                    top_p=_floats(1e-9, 1),
                    top_k=st.none() | st.integers(0, 100_000),
                    min_p=st.none() | _floats(0, 1),
                    repetition_penalty=st.none() | _floats(0.1, 5),
                    frequency_penalty=st.none() | _floats(-2, 2),
                    presence_penalty=st.none() | _floats(-2, 2),
                    dry_multiplier=st.none() | _floats(0, 10),
                    stop=st.lists(
                        _ANY_TEXT.filter(lambda text: 1 <= len(text) <= 256), max_size=3
                    ).map(tuple),
                )
            ),
            examples=examples,
            examples_sent=draw(st.integers(0, len(examples))),
            grammar=draw(st.none() | grammar),
            variables=variables,
            negative_prompt=draw(st.none() | _ANY_TEXT),
            description=draw(_ANY_TEXT),
            tests=draw(_tests(variables)),
        )
    )


@settings(max_examples=60, deadline=None)
@given(template=_templates())
def test_a_template_comes_back_as_it_was(template: Template) -> None:
    text = to_toml(template, version=template.version)
    back = from_toml(text.encode(), file="t.toml")
    assert back.template == template
    assert back.base_version == template.version
    # 1, 1.0 and True are equal to Python, and different to a template.
    assert repr(back.template) == repr(template)
    # A second export is the same file: a version control system shows what a person changed.
    assert to_toml(back.template, version=template.version) == text


@settings(max_examples=40, deadline=None)
@given(template=_templates())
def test_the_line_of_each_key_is_where_it_stands(template: Template) -> None:
    text = to_toml(template, version=3)
    lines = text.split("\n")
    found = key_lines(text)
    for path, line in found.items():
        key = path.rpartition(".")[2]
        head = lines[line - 1]
        if key.endswith("]") or head.startswith("["):
            assert head.strip("[]") == path.partition("[")[0] or path == head.strip("[]").replace(
                "tests.", f"tests[{path[6:].partition(']')[0]}]."
            )
        else:
            assert head.split(" = ")[0].strip('"') == key
    top = {item for item in found if "[" not in item and not item.startswith("sampling.")}
    assert top == set(tomllib.loads(text))


def test_without_a_version_nothing_is_said_of_it() -> None:
    template = packaged_templates()[0]
    text = to_toml(template, version=None)
    assert text.startswith("template_name = ")
    assert from_toml(text.encode(), file="t.toml").base_version is None


@pytest.mark.parametrize("template", packaged_templates(), ids=lambda item: item.template_name)
def test_a_packaged_template_is_exported_for_a_person(template: Template) -> None:
    text = to_toml(replace(template, version=4), version=4)
    assert text.startswith("version = 4\n")
    assert from_toml(text.encode(), file="t.toml").template == replace(template, version=4)
    # The prompt and the grammar stand there as they are, on lines of their own.
    assert f'system_prompt = """\n{template.system_prompt}"""' in text or "'''" in text
    if template.grammar:
        assert f"grammar = '''\n{template.grammar}'''" in text
    assert "None" not in text


GOOD = """\
version = 7
template_name = "t"
model_type = "qwen_instruct"
use_case = "enhancement"
content_mode = "sfw"
token_limit = 75
token_unit = "clip"
max_tokens = 200
system_prompt = '''
max_tokens = 1
[sampling]
temperature = 9
Write for {{reader}}. secret words'''

[sampling]
temperature = 0.5
stop = [
  "\\n", # ]
  "x",
]

[[variables]]
name = "reader"
default = "SDXL"

[[examples]]
user = "a"
assistant = "b"

[[examples]]
user = "c"
assistant = "d"

[[tests]]
name = "n"
input = "a red hat"
must_keep = ["red"]

[tests.variables]
reader = "all"
"""


def _refused(text: str | bytes) -> TemplateInvalid:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(TemplateInvalid) as caught:
        from_toml(data, file="enhancement.toml")
    assert "secret" not in caught.value.message
    assert caught.value.message.count("\n") == 0
    return caught.value


def test_the_good_file_of_these_tests_is_good() -> None:
    read = from_toml(GOOD.encode(), file="enhancement.toml")
    assert (read.base_version, read.template.version) == (7, 7)
    assert read.template.sampling.stop == ("\n", "x")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("temperature = 0.5", "temperature = 7",
         "line 16: sampling.temperature must be from 0.0 to 5.0."),
        ("temperature = 0.5", "temperture = 7",
         "line 16: sampling.temperture is not a sampling field."),
        ("max_tokens = 200", "token_limit = 7",
         "line 8: is not TOML at column 16: a key is given twice."),
        ('  "x",', "  7,", "line 17: sampling.stop must be a list of texts."),
        ("version = 7", "version = 0", "line 1: version must be a whole number from 1."),
        ("version = 7", "version = true", "line 1: version must be a whole number from 1."),
        ("version = 7", "colour = 7", "line 1: colour is not a field of a template."),
        ("token_limit = 75", 'token_limit = "75"', "line 6: token_limit must be a whole number."),
        ("token_limit = 75", "token_limit = 1979-05-27",
         "line 6: token_limit must be a whole number."),
        ("token_limit = 75\n", "", "token_limit must be a whole number."),
        ('"enhancement"', '"poetry"',
         "line 4: use_case must be one of enhancement, chat, generation, playground."),
        ('default = "SDXL"', "default = 7",
         "line 22: variables.reader has a default that is not of its type string."),
        ('default = "SDXL"', "defualt = 7",
         "line 24: variables[0].defualt is not one of name, type, required, default."),
        ('user = "c"', "user = 7", "line 31: examples[1].user must be a text."),
        ('user = "c"\n', "", "line 30: examples[1].user must be a text."),
        ('reader = "all"', "reader = 7",
         "line 40: tests[0].variables.reader is not of the type string."),
        ('must_keep = ["red"]', 'must_keep = [""]',
         "line 37: tests[0].must_keep must hold no empty text."),
        ('must_keep = ["red"]', "must_keep = [",
         "line 39: is not TOML at column 2: a value is missing, or is not valid TOML."),
        ('name = "n"', 'name = "n',
         "line 35: is not TOML at column 10: a character is not allowed"),
        ("[sampling]\ntemperature = 0.5", "[sampling]\n[sampling]",
         "line 16: is not TOML at column 10: a table is given twice."),
        ("version = 7", "v" + ".v" * 17 + " = 7", "line 1: has a key of too many parts."),
        ("version = 7", "v" + ".v" * 16 + " = 7", "line 1: v is not a field of a template."),
        ("version = 7", "\ufeffversion = 7", "starts with a byte-order mark; save it as UTF-8"),
        ("version = 7", "#\nversion\x00 = 7", "line 2: holds a NUL byte."),
        ("secret", "\x01", "line 13: is not TOML at column 23: a character is not allowed"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_its_line(old: str, new: str, message: str) -> None:
    assert old in GOOD
    cut = GOOD.rindex(old)
    error = _refused(GOOD[:cut] + new + GOOD[cut + len(old) :])
    separator = ", " if message.startswith("line ") else ": "
    assert error.message.startswith(f"enhancement.toml{separator}{message}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = 1\nb = '\xff'\n", "enhancement.toml, line 2: is not UTF-8."),
        ("version = 7".encode("utf-16"), "enhancement.toml: is UTF-16; save it as UTF-8."),
        (b"#" * (MAX_FILE_BYTES + 1), "enhancement.toml: is larger than 1024 KiB."),
        (b"a = " + b"[" * 200_000, "enhancement.toml: is nested too deeply."),
        (b"a = 1" + b"0" * 5_000, "enhancement.toml: is not TOML: a mistake."),
        (b"", "enhancement.toml: is empty."),
        (b'"' + b"k" * 500 + b'\\n" = 1', f"enhancement.toml, line 1: {'k' * 80} is not a field"),
    ],
    ids=["bytes", "utf-16", "large", "deep", "digits", "empty", "key"],
)
def test_what_is_no_text_is_refused_as_such(data: bytes, message: str) -> None:
    assert _refused(data).message.startswith(message)


def test_of_a_large_file_no_more_is_read_than_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    with path.open("wb") as stream:
        stream.truncate(10 * MAX_FILE_BYTES)
    with pytest.raises(TemplateInvalid, match=r"^large\.toml: is larger than 1024 KiB\.$"):
        read_file(path)
    path.write_text(GOOD)
    assert read_file(path) == GOOD.encode()


@pytest.mark.parametrize(
    "piece",
    ["'", '"', "\\", "#", "[", "a = '\n", "'''x'''\n", '"\\', '"""\\', "x'''", 'x""', "a.", "[a.",
     "=", "a = {", "k = 1.5\n", "[[a]]\n"],
)  # fmt: skip
def test_hostile_files_are_read_in_time(piece: str) -> None:
    text = piece * (400_000 // len(piece))
    start = process_time()
    with pytest.raises(TemplateInvalid):
        from_toml(text.encode(), file="t.toml")
    # Processor time, and generous: what it guards against takes minutes.
    assert process_time() - start < 5
