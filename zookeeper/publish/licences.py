"""Licences under which data is commonly published, by SPDX identifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zookeeper.errors import InputError
from zookeeper.query import suggest

DEFAULT = "CC-BY-4.0"


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence: its SPDX identifier, its name, where its text is, and what it asks in a sentence."""

    spdx: str
    title: str
    url: str
    terms: str

    @property
    def tag(self) -> str:
        """The identifier as the Hugging Face Hub writes it: without the version where it knows one only.

        >>> find_licence("CC-BY-4.0").tag, find_licence("ODbL-1.0").tag
        ('cc-by-4.0', 'odbl')
        """
        name = self.spdx.lower()
        return name.removesuffix("-1.0") if name.startswith(("odc", "odbl", "pddl")) else name


_CC = "https://creativecommons.org/licenses"
_ODC = "https://opendatacommons.org/licenses"
_CREDIT = "You may use, change and pass on the data for any purpose if you name its creators"
_LICENCES = {
    licence.spdx: licence
    for licence in (
        Licence(
            "CC0-1.0",
            "Creative Commons Zero 1.0 Universal",
            "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
            "The creators waive their rights; you may use the data for any purpose.",
        ),
        Licence(
            "CC-BY-4.0",
            "Creative Commons Attribution 4.0 International",
            f"{_CC}/by/4.0/legalcode",
            f"{_CREDIT} and say what you changed.",
        ),
        Licence(
            "CC-BY-SA-4.0",
            "Creative Commons Attribution-ShareAlike 4.0 International",
            f"{_CC}/by-sa/4.0/legalcode",
            f"{_CREDIT}, say what you changed, and share what you make of it under the same terms.",
        ),
        Licence(
            "CC-BY-NC-4.0",
            "Creative Commons Attribution-NonCommercial 4.0 International",
            f"{_CC}/by-nc/4.0/legalcode",
            "You may use, change and pass on the data for non-commercial purposes if you name its creators.",
        ),
        Licence(
            "CC-BY-NC-SA-4.0",
            "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International",
            f"{_CC}/by-nc-sa/4.0/legalcode",
            "You may use the data for non-commercial purposes if you name its creators and share alike.",
        ),
        Licence(
            "ODC-By-1.0",
            "Open Data Commons Attribution License 1.0",
            f"{_ODC}/by/1-0/",
            f"{_CREDIT}.",
        ),
        Licence(
            "ODbL-1.0",
            "Open Data Commons Open Database License 1.0",
            f"{_ODC}/odbl/1-0/",
            f"{_CREDIT} and share databases made of it under the same terms.",
        ),
        Licence(
            "PDDL-1.0",
            "Open Data Commons Public Domain Dedication and License 1.0",
            f"{_ODC}/pddl/1-0/",
            "The creators waive their rights; you may use the data for any purpose.",
        ),
        Licence("MIT", "MIT License", "https://opensource.org/license/mit", f"{_CREDIT} and keep this notice."),
        Licence(
            "Apache-2.0",
            "Apache License 2.0",
            "https://www.apache.org/licenses/LICENSE-2.0",
            f"{_CREDIT}, keep notices, and say what you changed.",
        ),
    )
}
NAMES = tuple(_LICENCES)


def find_licence(spdx: str) -> Licence:
    """Look a licence up by its SPDX identifier, in any case; raises `InputError` with the nearest name.

    >>> find_licence("cc0-1.0").title
    'Creative Commons Zero 1.0 Universal'
    """
    by_name = {name.lower(): licence for name, licence in _LICENCES.items()}
    found = by_name.get(spdx.lower())
    if found is None:
        raise InputError(f"--license: unknown licence {spdx!r}. {suggest(spdx, NAMES)}")
    return found


def choose_licence(wanted: str | None, *sources: Mapping[str, Any] | None) -> Licence:
    """Take the licence asked for, else the first that spec or provenance names, else CC-BY-4.0.

    >>> choose_licence(None, {"name": "digits"}, {"license": "MIT"}).spdx, choose_licence(None, None).spdx
    ('MIT', 'CC-BY-4.0')
    """
    if wanted is not None:
        return find_licence(wanted)
    for source in sources:
        for key in ("license", "licence"):
            named = (source or {}).get(key)
            if isinstance(named, str) and named:
                return find_licence(named)
    return _LICENCES[DEFAULT]


def licence_text(licence: Licence, title: str, authors: str, year: str) -> str:
    """Write the licence notice that goes beside the data."""
    return (
        f"{title}\nCopyright (c) {year} {authors}\n\n"
        f"This data set is licensed under the {licence.title}.\n"
        f"SPDX-License-Identifier: {licence.spdx}\n\n"
        f"In short (the licence decides): {licence.terms}\n"
        f"The whole text is part of this notice and is found at\n{licence.url}\n"
    )
