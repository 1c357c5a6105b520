"""The naming convention of synced columns for dlt: snake_case that keeps every script.

dlt's own snake_case replaces everything that is not ASCII, so that two Japanese names become one
column. For ASCII names the two conventions agree, so tables of earlier loads keep their columns.
"""

import unicodedata
from itertools import groupby

from dlt.common.normalizers.naming import snake_case

# PostgreSQL's limit, in bytes.
MAX_BYTES = 63


class NamingConvention(snake_case.NamingConvention):
    """snake_case with the letters, digits and combining marks of all scripts."""

    def normalize_identifier(self, identifier: str) -> str:
        """The column's name; raises ValueError for a blank one."""
        identifier = identifier.strip()
        if not identifier:
            raise ValueError("a blank name")
        text = unicodedata.normalize("NFC", identifier).translate(self._TR_REDUCE_ALPHABET)
        groups = groupby(text, _stays)
        text = "".join("".join(group) if stays else "_" for stays, group in groups)
        return _shortened(self._to_snake_case(text), identifier)


def _stays(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LMN"


def _shortened(name: str, identifier: str) -> str:
    """The name within PostgreSQL's limit; a hash of the whole keeps long names distinct."""
    if len(name.encode()) <= MAX_BYTES:
        return name
    if name.isascii():
        return str(NamingConvention.shorten_identifier(name, identifier, MAX_BYTES))
    tag = NamingConvention._compute_tag(identifier, NamingConvention._DEFAULT_COLLISION_PROB)
    return name.encode()[: MAX_BYTES - len(tag)].decode(errors="ignore") + str(tag)
