"""Flows of one source in terms of tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.actions import Action
from flows.fields import Field
from flows.flow import Flow, Source
from flows.match import Match, Value
from flows.tables import Priority, Table

Words = Mapping[Field, Value]


@dataclass(frozen=True, slots=True)
class Rules:
    """Writes flows of `source`."""

    source: Source

    def drop(self, table: Table, priority: Priority, words: Words) -> Flow:
        """What matches ends here."""
        return Flow(table.number, priority, Match.of(words), (), None, self.source)

    def act(self, table: Table, priority: Priority, words: Words, *actions: Action) -> Flow:
        """What matches is done with as `actions` say."""
        return Flow(table.number, priority, Match.of(words), actions, None, self.source)

    def goto(self, table: Table, priority: Priority, words: Words, target: Table, *actions: Action) -> Flow:
        """What matches goes on to `target`, after `actions`."""
        return Flow(table.number, priority, Match.of(words), actions, target.number, self.source)
