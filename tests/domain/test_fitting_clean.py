import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onbook.domain.fitting.clauses import Style, join_exactly, repeats, split_clauses, without
from onbook.domain.fitting.clean import clean

PROMPT = "a cat on a sofa, soft window light, 35mm lens"


@pytest.mark.parametrize(
    ("raw", "step"),
    [
        (f"Sure! Here is the enhanced prompt:\n\n{PROMPT}", "preamble"),
        (f"Certainly, {PROMPT}", "preamble"),
        (f"Here's your enhanced prompt:\n{PROMPT}", "preamble"),
        (f"Here is a detailed description of the image\n{PROMPT}", "preamble"),
        (f"I've enhanced the prompt for you:\n{PROMPT}", "preamble"),
        (f"Prompt: {PROMPT}", "label"),
        (f"Enhanced prompt: {PROMPT}", "label"),
        (f"**Prompt**: {PROMPT}", "label"),
        (f"**Enhanced Prompt:** {PROMPT}", "label"),
        (f"Original prompt: a cat\nEnhanced prompt: {PROMPT}", "label"),
        (f'"{PROMPT}"', "wrapping_quotes"),
        (f"“{PROMPT}”", "wrapping_quotes"),
        (f"'{PROMPT}'", "wrapping_quotes"),
        (f"**{PROMPT}**", "markdown"),
        (f"### {PROMPT}", "markdown"),
        (f"> {PROMPT}", "markdown"),
        (f"`{PROMPT}`", "markdown"),
        (f"```\n{PROMPT}\n```", "code_fence"),
        (f"```text\n{PROMPT}\n```\nThat is it.", "code_fence"),
        (f'{{"prompt": "{PROMPT}"}}', "json"),
        (f'```json\n{{"prompt": "{PROMPT}"}}\n```', "json"),
        (f"<think>a cat? fine.</think>\n{PROMPT}", "think_block"),
        (f"a cat? fine.</think>\n{PROMPT}", "think_block"),
        (f"{PROMPT}\n<think>and now", "think_block"),
        (f"{PROMPT}<|im_end|>\n<|im_start|>user\nmore", "control_tokens"),
        (f"<|im_start|>assistant\n{PROMPT}<|im_end|>", "control_tokens"),
        (f"[INST] {PROMPT} </s>", "control_tokens"),
        (f"1. {PROMPT}\n2. a dog\n3. a cow", "first_candidate"),
        (f"Option 1: {PROMPT}\nOption 2: a dog", "first_candidate"),
        ("- a cat on a sofa\n- soft window light\n- 35mm lens", "first_candidate"),
        ("a cat on a sofa\nsoft window light\n35mm lens", "newlines"),
        (f"{PROMPT}. Note: I added light.", "trailing_note"),
        (f"{PROMPT}\n\nI hope this helps!", "trailing_note"),
        (f"{PROMPT}\n\nNegative prompt: blur", "trailing_note"),
        (f"{PROMPT}, soft window light, soft window light", "repetition"),
    ],
)
def test_what_is_no_prompt_is_removed_and_named(raw: str, step: str) -> None:
    cleaned = clean(raw, style="tags")
    assert cleaned.text.rstrip(".") == PROMPT
    assert step in cleaned.steps
    assert not cleaned.refusal


def test_a_clean_text_passes_unchanged_and_without_steps() -> None:
    assert clean(PROMPT, style="tags").steps == ()
    assert clean(PROMPT, style="tags").text == PROMPT


@pytest.mark.parametrize(
    "text",
    [
        "a cat, (red:1.2), ((blue)), [old], <lora:x:0.8>, __colors/*__, {a|b} fur --ar 16:9",
        'a sign that says "PROMPT: EAT", neon',
        "a musical note on paper",
        "a robot, as if alive, 1.5 m tall, 1,000 rivets",
        "snake_case_tag, very_long_hair",
    ],
)
@pytest.mark.parametrize("style", ["tags", "sentences"])
def test_syntax_and_harmless_words_are_left_alone(text: str, style: Style) -> None:
    assert clean(text, style=style).text == text


@pytest.mark.parametrize(
    "raw",
    [
        "I'm sorry, but I can't help with that.",
        "I am sorry, I cannot create this image.",
        "Sorry, I can't do this.",
        "As an AI language model, I cannot see.",
        "Unfortunately, I am unable to do so.",
        "I cannot assist with this request.",
        "Sure! I\u2019m sorry, but I can\u2019t write that.",
        "A cat. As an AI assistant I have no eyes.",
        "抱歉\uff0c我不能这样做。",
        "<think>no</think>I won't help you with that.",
        "I must respectfully decline.",
        "I don't think I can help with that.",
        "We cannot create this.",
        "Unfortunately, we can't create this image.",
        "I refuse to write this.",
        "\"I'm sorry, but I can't help with that.\"",
    ],
)
def test_refusals_are_recognised(raw: str) -> None:
    cleaned = clean(raw, style="tags")
    assert cleaned.refusal
    assert cleaned.text == ""


@pytest.mark.parametrize(
    "raw",
    [
        'a sign that says "I cannot help you", neon',
        "a robot that is sorry, blue light",
        '"I\'m sorry, but" neon sign, night',
        "we cannot stop, poster lettering, bold colors",
        "an apology card, pastel paper",
    ],
)
def test_scenes_are_no_refusals(raw: str) -> None:
    assert not clean(raw, style="tags").refusal


@pytest.mark.parametrize(
    ("raw", "style", "expected"),
    [
        ("a cat, soft light, 35", "tags", "a cat, soft light"),
        ("a cat, soft light,", "tags", "a cat, soft light,"),
        ("a cat", "tags", ""),
        ("A cat sits. It looks le", "sentences", "A cat sits."),
        ("A cat sits, looking left. It", "sentences", "A cat sits, looking left."),
        ("A cat sits.", "sentences", "A cat sits."),
    ],
)
def test_a_cut_off_end_is_dropped(raw: str, style: Style, expected: str) -> None:
    assert clean(raw, style=style, truncated=True).text == expected


def test_word_loops_without_commas_collapse() -> None:
    looped = "a cat " + "and a dog " * 6
    assert clean(looped, style="sentences").text == "a cat and a dog"


def test_clauses_repeat_by_the_words_that_tell_something() -> None:
    assert repeats(["a red cat", "the red cat", "red cat"]) == [1, 2]
    assert repeats(["a man on the left", "a man on the right", "man in a red hat"]) == []
    assert repeats(["a bird over a bridge", "a bird under a bridge"]) == []
    assert repeats(["a dog chases a cat", "a cat chases a dog"]) == [1]
    assert repeats(["a dog chases a cat", "a cat chases a dog"], exact=True) == []


def test_a_long_clause_is_a_loop_when_it_comes_the_third_time() -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen "
    assert repeats([long + "red", long + "blue"]) == []
    assert repeats([long + "red", long + "blue", long + "green", long + "grey"]) == [2, 3]
    assert repeats([long + "red", long + "blue", long + "green"], exact=True) == []


@pytest.mark.parametrize(
    "text",
    [
        "a board that says 2*3, 5*5 cm, 2**8",
        "The camera pans left. Feel free as the wind, it leaps over the fence. Warm light.",
        "This version of the park glows in warm light.",
        "A robot reads. Note: the sky is red. Warm light fills the room.",
    ],
)
def test_what_only_looks_like_markup_or_a_note_stays(text: str) -> None:
    assert clean(text, style="sentences").text == text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("A cat. Soft light. I hope this helps! Let me know.", "A cat. Soft light."),
        ("A cat.\nNote: it is soft. And warm. Yes.", "A cat."),
        ("A cat. Negative prompt: blur. Bad hands.", "A cat."),
        ("A *soft* **warm** light on `2*3`.", "A soft warm light on 2*3."),
    ],
)
def test_notes_and_emphasis_still_go(raw: str, expected: str) -> None:
    assert clean(raw, style="sentences").text == expected


def test_a_chat_reply_keeps_its_form() -> None:
    reply = "Sure! Two ideas:\n\n1. **Fog**\n2. Rain\n\nNote: both work."
    cleaned = clean(f"<think>hm</think>{reply}<|im_end|>", style="text")
    assert cleaned.text == reply
    assert cleaned.steps == ("think_block", "control_tokens")


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("a cat, a dog; a cow", ["a cat", "a dog", "a cow"]),
        ("1,000 birds, 16:9, 1.2 m", ["1,000 birds", "16:9", "1.2 m"]),
        ("(red, blue:1.2), <lora:a,b:1>", ["(red, blue:1.2)", "<lora:a,b:1>"]),
        ('says "Hi, you. Go." Then left', ['says "Hi, you. Go."', "Then left"]),
        ("by I.C. Gradients. Mr. Fox waits", ["by I.C. Gradients", "Mr. Fox waits"]),
        ("red,blue", ["red", "blue"]),
        ("Wait... what? Yes!", ["Wait", "what", "Yes"]),
        ("一只猫\uff0c一只狗\u3002好", ["一只猫", "一只狗", "好"]),
    ],
)
def test_clauses_split_where_nothing_is_broken(text: str, clauses: list[str]) -> None:
    assert [clause.text for clause in split_clauses(text)] == clauses


TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from([*"(),.;!?\"'\n :<>[]", "cat", "Dog ", "1", "…", "\uff0c", "<lora:x:1>"]),
        max_size=60,
    ).map("".join),
)


@settings(deadline=None)
@given(TEXTS)
def test_splitting_loses_nothing(text: str) -> None:
    clauses = split_clauses(text)
    assert join_exactly(clauses) == text
    assert all(text[c.start : c.end] == c.text for c in clauses)


def test_dropping_the_last_clause_of_a_sentence_keeps_its_full_stop() -> None:
    clauses = split_clauses("A cat sits, calm. It rains.")
    assert join_exactly(without(clauses, {1})) == "A cat sits. It rains."


@settings(deadline=None)
@given(TEXTS, st.sampled_from(["tags", "sentences", "text"]), st.booleans())
def test_cleaning_is_total_and_invents_no_word(text: str, style: Style, truncated: bool) -> None:  # noqa: FBT001 - hypothesis fills it
    cleaned = clean(text, style=style, truncated=truncated)
    assert cleaned == clean(text, style=style, truncated=truncated)
    letters = [c for c in cleaned.text if c.isalnum()]
    source = iter(text)
    assert all(letter in source for letter in letters)
    if style != "text":
        assert "\n" not in cleaned.text
