"""Recognising that a model declined instead of writing a prompt."""

import re

from onbook.domain.must_keep import opaque_spans

_CANNOT = (
    r"i(?:['\u2019]m| am) (?:unable|not able|not allowed)\b|i (?:can(?:not|['\u2019]t| not)"
    r"|won['\u2019]t|will not|(?:(?:must|have to) )?(?:\w{1,12}ly )?decline|refuse to)\b"
    r"|i (?:don['\u2019]t|do not) (?:think|believe|feel) (?:that )?i (?:can|could|should)\b"
)
_ACTS = (
    r"(?:assist|help (?:you|with)|create|generate|fulfil|fulfill|provide|comply|write"
    r"|produce|do (?:that|this)|depict|describe)\b"
)
_WE_CANNOT = (
    r"we (?:can(?:not|['\u2019]t| not)|are (?:unable|not able) to|won['\u2019]t|will not"
    r"|refuse to) "
)
_AT_START = re.compile(
    r"[\"'“ ]{0,2}(?:"
    r"i(?:['\u2019]m| am) (?:\w{1,12} )?sorry[,.;:!]? ?(?:but|i|that|as|this|for|can)\b"
    r"|i(?:['\u2019]m| am) (?:\w{1,12} )?(?:afraid) (?:i|that)\b"
    r"|sorry[,.!;]? (?:but |i |this )"
    r"|(?:my )?apologies[,.]|i apologi[sz]e\b"
    rf"|(?:unfortunately,? )?(?:{_CANNOT}|{_WE_CANNOT}{_ACTS})"
    r"|as an? (?:ai|artificial intelligence|language model)\b"
    r"|(?:很?抱歉|对不起)|作为一?个?(?:AI|人工智能)"
    r")",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(
    r"(?=[aiv无])(?:\bas an ai (?:language )?(?:model|assistant)\b"
    r"|\b(?:i can(?:not|['\u2019]t| not)|i(?:['\u2019]m| am) (?:unable|not able) to|i won['\u2019]t"
    rf"|i will not|i refuse to) {_ACTS}"
    r"|\bagainst my (?:guidelines|programming|policy)\b"
    r"|\bviolates? (?:my|our|the) (?:content )?(?:guidelines|policy|policies)\b"
    r"|无法(?:生成|提供|协助))",
    re.IGNORECASE,
)
# A refusal speaks at once; what comes later is a scene.
_HEAD = 400


def is_refusal(text: str) -> bool:
    """Say whether the model declined; text in quotes or brackets belongs to the picture."""
    head = text.lstrip()[:_HEAD]
    if _AT_START.match(head) is None and _ANYWHERE.search(head) is None:
        return False
    plain = list(head)
    for start, end in opaque_spans(head):
        # What is quoted as a whole is the answer itself, in quotes.
        if (start, end) != (0, len(head.rstrip())):
            plain[start:end] = "\0" * (end - start)
    said = "".join(plain)
    return _AT_START.match(said) is not None or _ANYWHERE.search(said) is not None
