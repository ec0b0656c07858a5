from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.adapters.model_hub.catalogue import CATALOGUE
from onbook.adapters.model_hub.choice import (
    HubFile,
    checked_name,
    checked_revision,
    chosen_file,
    quantisation_of,
    reference,
)
from onbook.adapters.model_hub.errors import PullFailed

SHA = "a" * 64


def files(*paths: str) -> list[HubFile]:
    return [HubFile(path, 10, SHA) for path in paths]


@pytest.mark.parametrize(
    ("paths", "quantisation", "chosen"),
    [
        (["a-q8_0.gguf", "a-q4_k_m.gguf", "a-fp16.gguf"], None, "a-q4_k_m.gguf"),
        (["a-Q8_0.gguf", "README.md", "mmproj-a-F16.gguf"], None, "a-Q8_0.gguf"),
        (["a.Q4_K_M.gguf", "a.Q5_K_M.gguf"], "q5_k_m", "a.Q5_K_M.gguf"),
        (["a.IQ4_XS.gguf", "a.Q4_K_M.gguf"], "iq4_xs", "a.IQ4_XS.gguf"),
        (["Q4_K_M/a-Q4_K_M.gguf", "BF16/a-BF16.gguf"], "BF16", "BF16/a-BF16.gguf"),
        (
            ["a-q4_k_m-00001-of-00002.gguf", "a-q4_k_m-00002-of-00002.gguf", "a-q8_0.gguf"],
            None,
            "a-q8_0.gguf",
        ),
    ],
)
def test_the_file_is_chosen_by_its_quantisation(
    paths: list[str], quantisation: str | None, chosen: str
) -> None:
    found = chosen_file(files(*paths), "o/r", path=None, quantisation=quantisation)
    assert found.path == chosen


@pytest.mark.parametrize(
    ("paths", "options", "says"),
    [
        (["README.md"], {}, "has no GGUF file"),
        (["a-q4_0.gguf", "a-q8_0.gguf"], {"quantisation": "q5_0"}, "it has Q4_0, Q8_0"),
        (["a-q4_0.gguf"], {"path": "b.gguf"}, "no such file; it has a-q4_0.gguf"),
        (["x.gguf", "y.gguf"], {}, "name one with --file: x.gguf, y.gguf"),
        (["a-q4_0-00001-of-00003.gguf"], {"quantisation": "Q4_0"}, "split into several files"),
        (["a-q4_0-00001-of-00003.gguf"], {"path": "a-q4_0-00001-of-00003.gguf"}, "split into"),
        (["../a-q4_0.gguf"], {}, "would leave its directory"),
        (["x/../../a-q4_0.gguf"], {"quantisation": "q4_0"}, "would leave its directory"),
        (["/etc/a-q4_0.gguf"], {}, "would leave its directory"),
        (["x\x1b[2J/a-q4_0.gguf"], {"quantisation": "q4_0"}, "cannot be shown"),
        (["..\\a-q4_0.gguf"], {}, "name cannot be used here"),
        ([".a-q4_0.gguf"], {}, "name cannot be used here"),
        (["a\n-q4_0.gguf"], {}, "cannot be shown"),
        (["README.md"], {"path": "README.md"}, "name cannot be used here"),
    ],
)
def test_what_is_not_one_model_in_one_file_is_refused(
    paths: list[str], options: dict[str, str], says: str
) -> None:
    path, quantisation = options.get("path"), options.get("quantisation")
    with pytest.raises(PullFailed, match=says):
        chosen_file(files(*paths), "o/r", path=path, quantisation=quantisation)


@pytest.mark.parametrize("size", [None, 0, -1, 2**62])
def test_a_size_that_cannot_be_is_refused(size: int | None) -> None:
    with pytest.raises(PullFailed, match="states no size"):
        chosen_file([HubFile("a.gguf", size, SHA)], "o/r", path=None, quantisation=None)


def test_a_digest_that_is_none_is_refused() -> None:
    with pytest.raises(PullFailed, match="SHA-256 that is none"):
        chosen_file([HubFile("a.gguf", 1, "../" * 21)], "o/r", path=None, quantisation=None)


@given(st.text(st.sampled_from("aZ0._-/\\ \n:\0é"), max_size=30))
def test_no_name_that_passes_can_leave_a_directory(name: str) -> None:
    try:
        passed = checked_name(f"{name}.gguf")
    except PullFailed:
        return
    where = Path("/models") / passed
    assert where.parent == Path("/models")
    assert where.name == passed
    assert not passed.startswith(".")


@pytest.mark.parametrize(
    ("name", "quantisation"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Qwen3-4B-UD-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model-BF16.gguf", "BF16"),
        ("q4-shop.gguf", "Q4"),
        ("model.gguf", None),
        ("aq4_0.gguf", None),
    ],
)
def test_a_quantisation_is_read_from_the_name(name: str, quantisation: str | None) -> None:
    assert quantisation_of(name) == quantisation


@pytest.mark.parametrize(
    "text", ["", "qwen", "a/b/c", "../x", "a/..", "a/b:", "http://x/y", "a/b c", "a\n/b", "-a/b"]
)
def test_what_names_no_repository_is_refused(text: str) -> None:
    with pytest.raises(PullFailed, match="A model is named by"):
        reference(text)


def test_short_names_name_repositories_of_free_models() -> None:
    for name, entry in CATALOGUE.items():
        meant = reference(name.upper())
        assert (meant.repository, meant.quantisation) == (entry.repository, entry.quantisation)
        assert reference(f"{entry.repository}:{entry.quantisation}").repository == entry.repository
        assert entry.licence == "apache-2.0"
        assert quantisation_of(f"x-{entry.quantisation}.gguf") == entry.quantisation


@pytest.mark.parametrize("text", ["", "..", "a/../b", "a b", "a?x=1", "a#b", "-a", "a\n"])
def test_what_is_no_revision_is_refused(text: str) -> None:
    with pytest.raises(PullFailed, match="not the name of a branch"):
        checked_revision(text)
