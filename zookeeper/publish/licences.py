"""Licences under which data is commonly published, by SPDX identifier."""

from __future__ import annotations

import re
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
_SIGNS = {
    "CC0-1.0": "CC0 1.0 Universal",
    "CC-BY-4.0": "Attribution 4.0 International",
    "CC-BY-SA-4.0": "Attribution-ShareAlike 4.0 International",
    "CC-BY-NC-4.0": "Attribution-NonCommercial 4.0 International",
    "CC-BY-NC-SA-4.0": "Attribution-NonCommercial-ShareAlike 4.0 International",
    "ODC-By-1.0": "Open Data Commons Attribution License",
    "ODbL-1.0": "Open Database License",
    "PDDL-1.0": "Public Domain Dedication",
    "MIT": "MIT License",
    "Apache-2.0": "Apache License Version 2.0",
}
_MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


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
    """Take the licence asked for, else the first that spec or provenance names or quotes, else CC-BY-4.0.

    Raises
    ------
    InputError
        If the licence asked for, or that of an imported zoo, is none of those that are known here.

    Examples
    --------
    >>> choose_licence(None, {"name": "digits"}, {"license": "MIT"}).spdx, choose_licence(None, None).spdx
    ('MIT', 'CC-BY-4.0')
    >>> choose_licence(None, {"licence": "Attribution 4.0 International\\n\\n(text)"}).spdx
    'CC-BY-4.0'
    """
    if wanted is not None:
        return find_licence(wanted)
    for source in sources:
        if named := _named(source):
            found = _recognise(named)
            if found is None:
                first = named.strip().partition("\n")[0][:60]
                raise InputError(
                    f"licence of the zoo: {first!r} is not known here; expected one of {', '.join(NAMES)}. "
                    "Say which one holds with --license."
                )
            return found
    return _LICENCES[DEFAULT]


def quoted_licence(*sources: Mapping[str, Any] | None) -> str | None:
    """The text of the licence under which a zoo was imported, if it came with one."""
    texts = [named for source in sources if (named := _named(source)) and "\n" in named.strip()]
    return texts[0].strip() if texts else None


def _named(source: object) -> str | None:
    """What a spec or provenance says of the licence, itself or in what it tells of an import."""
    if not isinstance(source, Mapping):
        return None
    for key in ("license", "licence"):
        named = source.get(key)
        if isinstance(named, str) and named.strip():
            return named
    deeper = (_named(source.get(key)) for key in ("imported", "exported", "spec", "provenance"))
    return next((named for named in deeper if named), None)


def _recognise(named: str) -> Licence | None:
    """The licence that a name, an SPDX line or the head of a text stands for."""
    by_name = {name.lower(): licence for name, licence in _LICENCES.items()}
    line = re.search(r"SPDX-License-Identifier:\s*(\S+)", named)
    if found := by_name.get((line[1] if line else named.strip()).lower()):
        return found
    head = " ".join(named[:500].split()).lower()
    signs = [spdx for spdx, sign in _SIGNS.items() if sign.lower() in head]
    return _LICENCES[signs[0]] if len(signs) == 1 else None


def licence_text(licence: Licence, title: str, authors: str, year: str, quoted: str | None = None) -> str:
    """Write what goes beside the data: the whole licence if it is MIT, which asks for that, else a notice.

    A notice names the licence and the address of its text, which licences of data allow. No small package is known that
    keeps the texts of all of them whole and up to date. ``quoted`` is the text an imported zoo came with; it is kept.
    """
    if quoted is not None:
        own = licence_text(licence, title, authors, year)
        return f"{own}\nThe networks were imported with this licence:\n\n{quoted}\n"
    head = f"{title}\nCopyright (c) {year} {authors}\n\n"
    if licence.spdx == "MIT":
        return f"MIT License\nSPDX-License-Identifier: MIT\n\n{head}{_MIT}"
    return (
        f"{head}This data set is licensed under the {licence.title}.\n"
        f"SPDX-License-Identifier: {licence.spdx}\n\n"
        f"In short (the licence decides): {licence.terms}\n"
        f"The whole text is part of this notice and is found at\n{licence.url}\n"
    )
