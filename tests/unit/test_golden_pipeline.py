"""The whole pipeline of one node, flow by flow, as it was last agreed on.

`python -m tests.unit.test_golden_pipeline` writes the golden file anew.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from flows.desired import desired_flows, desired_rules
from flows.flow import Flow
from flows.group import GroupEntry
from flows.snapshot import Mode, Tenancy
from flows.tables import RULE_VERSION, TABLES
from flows.text import flow_text, group_text
from tests.support.services import examples
from tests.support.worlds import Pod, World, tenant

GOLDEN = Path(__file__).parent / "golden" / "pipeline.txt"
GOLDEN_SERVICES = GOLDEN.with_name("services.txt")

WORLD = World(
    Mode.MULTITENANT,
    nodes=3,
    pods=(
        Pod(0, 0, tenant(10)),
        Pod(0, 1, tenant(0)),
        Pod(0, 2, Tenancy(10, frozenset({10, 11}))),  # in the middle of a join
        Pod(1, 0, tenant(10)),
    ),
)

WHAT_TO_DO = f"""The pipeline is not the one in {GOLDEN.name}.
If that was not intended, the difference below is the defect. If it was:
  1. raise RULE_VERSION in flows/tables.py (now {RULE_VERSION}),
  2. write the file anew:  .venv/bin/python -m tests.unit.test_golden_pipeline
  3. read its difference as a reviewer would, and bring docs/pipeline.md up to date."""


def rendered_services() -> str:
    """The same for what Services of every kind add to it, then the groups."""
    with_services, without = (
        desired_rules(replace(WORLD, services=found).snapshot(0)).values() for found in (examples(), None)
    )
    added = [rule for rule in with_services if rule not in without]
    groups = sorted(group_text(rule) for rule in added if isinstance(rule, GroupEntry))
    flows = _by_table([rule for rule in added if isinstance(rule, Flow)])
    return "\n".join([f"# rule version {RULE_VERSION}", *flows, "", "# groups", *groups]) + "\n"


def rendered() -> str:
    """The golden file as it should be: the rule version, then every flow under its table."""
    flows = list(desired_flows(WORLD.snapshot(0)).values())
    return "\n".join([f"# rule version {RULE_VERSION}", *_by_table(flows)]) + "\n"


def _by_table(flows: list[Flow]) -> list[str]:
    lines: list[str] = []
    for table in TABLES:
        lines += ["", f"# {table.name}"]
        ours = sorted((flow for flow in flows if flow.table == table.number), key=lambda flow: -flow.priority)
        lines += [flow_text(flow) for flow in ours]
    return lines


def test_the_pipeline_is_the_one_that_was_agreed_on() -> None:
    assert rendered() == GOLDEN.read_text(), WHAT_TO_DO


def test_what_services_add_is_what_was_agreed_on() -> None:
    assert rendered_services() == GOLDEN_SERVICES.read_text(), WHAT_TO_DO


def test_flow_texts_show_ports_addresses_and_registers_as_people_write_them() -> None:
    text = rendered()
    peer = IPv4Address("192.0.2.12")
    assert (
        f"table=80,priority=300,eth_type=0x800,nw_dst=172.11.4.0/22 "
        f"actions=move:reg0[0..23]->tun_id[0..23],set_field:{peer}->tun_dst,output:1"
    ) in text


if __name__ == "__main__":
    if GOLDEN.exists() and GOLDEN.read_text().startswith(f"# rule version {RULE_VERSION}\n"):
        raise SystemExit(f"raise RULE_VERSION first: {GOLDEN} is of version {RULE_VERSION} already")
    GOLDEN.write_text(rendered())
    GOLDEN_SERVICES.write_text(rendered_services())
