"""The data that ships inside the package: the seed templates and the content-mode lexicon."""

from collections.abc import Iterable
from importlib import resources

from onbook.adapters.files.template_toml import from_toml
from onbook.domain.templates import Template, TemplateInvalid


def packaged_templates() -> tuple[Template, ...]:
    """Return the packaged templates, by file name.

    Raises:
        TemplateInvalid: a file is not TOML, breaks a rule, or repeats another one's name or key;
            the message names the file and the field.
    """
    return templates_from_files(
        (entry.name, entry.read_bytes())
        for entry in sorted(
            resources.files("onbook.domain.seed_templates").iterdir(), key=lambda entry: entry.name
        )
        if entry.name.endswith(".toml")
    )


def templates_from_files(files: Iterable[tuple[str, bytes]]) -> tuple[Template, ...]:
    """Return one template per ``(file name, TOML)``, in order.

    Raises:
        TemplateInvalid: as ``packaged_templates``.
    """
    templates: dict[str, Template] = {}
    keys: dict[object, str] = {}
    for name, data in files:
        template = from_toml(data, file=name).template
        if template.template_name in templates:
            raise _invalid(name, "template_name", "is that of another file")
        if template.key in keys:
            raise _invalid(
                name, "model_type", f"and the rest of the key are those of {keys[template.key]}"
            )
        templates[template.template_name] = template
        keys[template.key] = name
    return tuple(templates.values())


def packaged_lexicon_bytes() -> bytes:
    """Return the packaged content-mode lexicon as it is on disk, so that it can be hashed.

    Raises:
        OSError: the installation is incomplete.
    """
    return resources.files("onbook.domain.content_mode").joinpath("lexicon.toml").read_bytes()


def _invalid(name: str, key: str, problem: str) -> TemplateInvalid:
    return TemplateInvalid(f"{name}: {key} {problem}.", details={"file": name, "fields": [key]})
