"""What names, labels and annotations may look like, and how the real server says that one does not. Pure.

Rules and words are those of k8s.io/apimachinery, `util/validation`.
"""

from __future__ import annotations

import re
from typing import Final

MAX_LABEL: Final = 63
MAX_SUBDOMAIN: Final = 253

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = f"{_LABEL}(\\.{_LABEL})*"
_OLD_LABEL: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
_NAME: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE: Final = f"({_NAME})?"


def label_problems(name: str) -> list[str]:
    """Why `name` is no label of RFC 1123: namespaces, containers."""
    told = (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
        f"end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
    )
    return _problems(name, MAX_LABEL, _LABEL, told)


def old_label_problems(name: str) -> list[str]:
    """Why `name` is no label of RFC 1035, which begins with a letter: services."""
    told = (
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
        "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation "
        f"is '{_OLD_LABEL}')"
    )
    return _problems(name, MAX_LABEL, _OLD_LABEL, told)


def subdomain_problems(name: str) -> list[str]:
    """Why `name` is no subdomain of RFC 1123: most objects."""
    told = (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
        "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
        f"'{_SUBDOMAIN}')"
    )
    return _problems(name, MAX_SUBDOMAIN, _SUBDOMAIN, told)


def key_problems(key: str) -> list[str]:
    """Why `key` is no key of a label, `NAME` or `SUBDOMAIN/NAME`."""
    rule = (
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
        f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_NAME}')"
    )
    match key.split("/"):
        case [name]:
            found = []
        case [prefix, name]:
            found = subdomain_problems(prefix) if prefix else ["must be non-empty"]
        case _:
            return [
                f"a qualified name {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ]
    found = [f"prefix part {problem}" for problem in found]
    if not name:
        found.append("name part must be non-empty")
    return found + [f"name part {problem}" for problem in _problems(name, MAX_LABEL, _NAME, rule)]


def value_problems(value: str) -> list[str]:
    """Why `value` cannot be that of a label."""
    told = (
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
        "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
        f"validation is '{_VALUE}')"
    )
    return _problems(value, MAX_LABEL, _VALUE, told)


def _problems(text: str, longest: int, rule: str, told: str) -> list[str]:
    found = [] if len(text) <= longest else [f"must be no more than {longest} characters"]
    return found if re.fullmatch(rule, text) else [*found, told]
