"""The index after any edits is the index of what there is then."""

from collections.abc import Callable
from dataclasses import replace
from time import process_time

from hypothesis import given
from hypothesis import strategies as st

from onbook.domain.templates import Template, TemplateKey, checked
from onbook.flows.template_index import TemplateIndex

BASE = checked(
    Template(
        template_name="t",
        version=1,
        model_type="m",
        use_case="enhancement",
        content_mode="sfw",
        target="sdxl",
        system_prompt="s",
        token_limit=75,
        token_unit="clip",
        max_tokens=200,
    )
)
MODELS, TARGETS = ("m", "n", "o"), ("sdxl", "wan", None)
TEMPLATES = st.builds(
    replace,
    st.just(BASE),
    template_name=st.sampled_from("abcde"),
    version=st.integers(1, 3),
    model_type=st.sampled_from(MODELS),
    target=st.sampled_from(TARGETS),
    content_mode=st.sampled_from(["sfw", "nsfw"]),
)
EDITS = st.lists(
    st.tuples(st.lists(TEMPLATES, max_size=3), st.lists(st.sampled_from("abcde"), max_size=2))
)
KEYS = [
    TemplateKey(model, "enhancement", mode, target)
    for model in (*MODELS, "unknown")
    for mode in ("sfw", "nsfw")
    for target in (*TARGETS, "other")
]


@given(EDITS)
def test_edits_one_by_one_give_what_a_new_index_gives(
    edits: list[tuple[list[Template], list[str]]],
) -> None:
    index, there = TemplateIndex(), dict[str, Template]()
    for active, gone in edits:
        index.apply(active, gone)
        for name in gone:
            there.pop(name, None)
        there.update({template.template_name: template for template in active})
        new = TemplateIndex(there.values())
        assert dict(index.by_name) == there
        assert [index.find(key) for key in KEYS] == [new.find(key) for key in KEYS]
        assert index.content_sum == new.content_sum
        assert index.model_types == {item.model_type for item in there.values()}
        assert index.targets == {item.target for item in there.values() if item.target}
        assert [item.template_name for item in index.templates()] == sorted(there)


@given(st.lists(TEMPLATES, max_size=8))
def test_no_key_ever_finds_another_content_mode(templates: list[Template]) -> None:
    index = TemplateIndex(templates)
    for key in KEYS:
        found = index.find(key)
        assert found is None or found.content_mode == key.content_mode
        assert found is None or found.target in (key.target, None)


def test_neither_look_up_nor_edit_grows_with_the_book() -> None:
    def cost(work: Callable[[], object]) -> float:
        best = 1.0
        for _ in range(5):
            started = process_time()
            for _ in range(300):
                work()
            best = min(best, process_time() - started)
        return best

    costs = []
    for size in (100, 20_000):
        index = TemplateIndex(
            replace(BASE, template_name=f"t{n:05d}", target=f"target {n}") for n in range(size)
        )
        edited = replace(BASE, template_name="t00050", target="target 50", version=2)
        key = edited.key
        costs.append(
            (
                cost(lambda index=index, key=key: index.find(key)),  # type: ignore[misc]  # defaults bind the loop's values
                cost(lambda index=index, edited=edited: index.apply([edited], ())),  # type: ignore[misc]  # as above
            )
        )
    (find_few, apply_few), (find_many, apply_many) = costs
    # 200 times the size: even a tenth of it in the cost would be 20 times as much.
    assert find_many < find_few * 5
    assert apply_many < apply_few * 5
