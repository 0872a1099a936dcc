"""What a flow matches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from flows.fields import Field

Value = int | IPv4Address | IPv4Network


@dataclass(frozen=True, slots=True)
class Match:
    """A conjunction of (field, value, mask), each field once, in the order of the fields.

    A mask of None is an exact match. Two matches are equal if and only if they match the same packets in the
    same words, so a match read back from a switch equals the one that was sent.
    """

    terms: tuple[tuple[Field, int, int | None], ...] = ()

    @classmethod
    def of(cls, fields: Mapping[Field, Value]) -> Match:
        """A match on these values; a network matches its prefix.

        Raises ValueError for a value wider than its field.
        """
        return cls(
            tuple(
                sorted(
                    (
                        _term(field, value)
                        for field, value in fields.items()
                        if not (isinstance(value, IPv4Network) and value.prefixlen == 0)
                    ),
                    key=_by_field,
                )
            )
        )

    @classmethod
    def masked(cls, terms: Mapping[Field, tuple[int, int]]) -> Match:
        """A match on the (value, mask) of each field, in canonical form: bits outside a mask are zero."""
        canonical = (
            (field, value & mask, None if mask == field.all_ones else mask)
            for field, (value, mask) in terms.items()
            if mask
        )
        return cls(tuple(sorted(canonical, key=_by_field)))

    def __iter__(self) -> Iterator[tuple[Field, int, int | None]]:
        return iter(self.terms)

    def get(self, field: Field) -> int | None:
        """The value matched for `field`, or None if it is left open."""
        return next((value for candidate, value, _ in self.terms if candidate == field), None)


def _by_field(term: tuple[Field, int, int | None]) -> tuple[int, int]:
    field = term[0]
    return field.oxm_class, field.number


def _term(field: Field, value: Value) -> tuple[Field, int, int | None]:
    mask: int | None = None
    if isinstance(value, IPv4Network):
        mask = None if value.prefixlen == 32 else int(value.netmask)
        value = value.network_address
    number = int(value)
    if not 0 <= number <= field.all_ones:
        raise ValueError(f"{field.name}: {value} does not fit into {field.bits} bits")
    return field, number, mask
