"""Whom to credit, as CITATION.cff, BibTeX and the forms other metadata wants."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from zookeeper.errors import InputError
from zookeeper.publish.licences import Licence

CITATION = "CITATION.cff"


@dataclass(frozen=True, slots=True)
class Author:
    """A person (``Family, Given``) or a group (one name without a comma)."""

    family: str
    given: str = ""

    @property
    def name(self) -> str:
        """The name as one reads it."""
        return f"{self.given} {self.family}" if self.given else self.family

    def to_schema(self) -> dict[str, str]:
        """The author in the words of schema.org."""
        return {"@type": "sc:Person" if self.given else "sc:Organization", "name": self.name}


@dataclass(frozen=True, slots=True)
class Credits:
    """Authors, date (ISO 8601), version, keywords and address of a publication."""

    authors: tuple[Author, ...]
    date: str
    version: str = "1.0.0"
    keywords: tuple[str, ...] = ("model zoo", "weight space learning", "neural network weights")
    url: str = ""

    @property
    def names(self) -> str:
        """All authors in one line."""
        return ", ".join(author.name for author in self.authors)

    def to_bibtex(self, title: str) -> str:
        """Write a BibTeX entry in one line.

        >>> Credits((Author("Lovelace", "Ada"),), "2026-01-02").to_bibtex("A zoo")
        '@misc{lovelace2026zoo, title={{A zoo}}, author={Lovelace, Ada}, year={2026}}'
        """
        people = " and ".join(f"{a.family}, {a.given}" if a.given else f"{{{a.family}}}" for a in self.authors)
        key = re.sub(r"[^a-z0-9]", "", self.authors[0].family.lower()) + self.date[:4] + "zoo"
        where = f", url={{{self.url}}}" if self.url else ""
        return f"@misc{{{key}, title={{{{{title}}}}}, author={{{people}}}, year={{{self.date[:4]}}}{where}}}"


def parse_authors(names: Sequence[str], fallback: str) -> tuple[Author, ...]:
    """Read authors given as ``Family, Given`` or as the name of a group; without any, credit ``fallback``.

    >>> parse_authors(["Lovelace, Ada", "The Zoo Group"], "nobody")
    (Author(family='Lovelace', given='Ada'), Author(family='The Zoo Group', given=''))

    Raises
    ------
    InputError
        If a name is empty or has several commas.
    """
    authors = []
    for name in names:
        parts = [part.strip() for part in name.split(",")]
        if not 1 <= len(parts) <= 2 or not all(parts) or not name.isprintable():
            raise InputError(f"--author: cannot read {name!r}; expected 'Family, Given' or one name without a comma.")
        authors.append(Author(*parts))
    return tuple(authors) or (Author(fallback),)


def format_citation(title: str, abstract: str, licence: Licence, credits: Credits) -> str:
    """Write CITATION.cff in format 1.2.0.

    Text is quoted as JSON strings, which are YAML too.
    """
    lines = [
        "cff-version: 1.2.0",
        "message: If you use this data set, please cite it as below.",
        "type: dataset",
        f"title: {_quoted(title)}",
        f"abstract: {_quoted(abstract)}",
        "authors:",
    ]
    for author in credits.authors:
        if author.given:
            lines += [f"  - family-names: {_quoted(author.family)}", f"    given-names: {_quoted(author.given)}"]
        else:
            lines.append(f"  - name: {_quoted(author.family)}")
    lines += [f"version: {_quoted(credits.version)}", f"date-released: {_quoted(credits.date)}"]
    lines += [f"license: {licence.spdx}", "keywords:", *(f"  - {_quoted(word)}" for word in credits.keywords)]
    if credits.url:
        lines.append(f"url: {_quoted(credits.url)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
