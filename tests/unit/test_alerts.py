"""The alert rules, judged by Prometheus' own promtool: each fires when it should, for whom it should, and not else."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "alerts" / "k8sovs.rules.yaml"
DASHBOARD = DEPLOY / "grafana" / "k8sovs.json"
DOCUMENTED = Path(__file__).parents[2] / "docs" / "metrics.md"

FIRES = {
    "K8sovsSwitchWithoutFlows": ({'k8sovs_flows_current{instance="n"}': "0x80"}, 'instance="n"'),
    "K8sovsDisconnected": ({'k8sovs_connected{instance="n",to="etcd"}': "1x40 0x40"}, 'instance="n", to="etcd"'),
    "K8sovsFlowsBehind": ({'k8sovs_flow_backlog{instance="n"}': "3x80"}, 'instance="n"'),
    "K8sovsFlowRefused": (
        {'k8sovs_bundle_errors_total{instance="n",cause="rejected"}': "0x60 1x20"},
        'instance="n", cause="rejected"',
    ),
    "K8sovsFlowsTouched": ({'k8sovs_flows_touched_total{instance="n"}': "0x60 1x20"}, 'instance="n"'),
    "K8sovsPodsFail": (
        {
            'k8sovs_cni_errors_total{instance="n",verb="ADD",code="11"}': "0+1x80",
            'k8sovs_cni_call_duration_seconds_count{instance="n",verb="ADD"}': "0+5x80",
        },
        'instance="n"',
    ),
    "K8sovsPodsSlow": (
        {
            'k8sovs_cni_call_duration_seconds_bucket{instance="n",verb="ADD",le="1"}': "0+1x80",
            'k8sovs_cni_call_duration_seconds_bucket{instance="n",verb="ADD",le="10"}': "0+2x80",
            'k8sovs_cni_call_duration_seconds_bucket{instance="n",verb="ADD",le="+Inf"}': "0+2x80",
        },
        'instance="n"',
    ),
    "K8sovsPodAddressesExhausted": ({'k8sovs_pod_addresses_free{instance="n"}': "0x80"}, 'instance="n"'),
    "K8sovsPodAddressesScarce": (
        {'k8sovs_pod_addresses_free{instance="n"}': "9x80", 'k8sovs_pod_addresses_used{instance="n"}': "91x80"},
        'instance="n"',
    ),
    "K8sovsSpoofing": (
        {'k8sovs_dropped_packets_total{instance="n",table="pod_in"}': "0+300x80"},
        'instance="n", table="pod_in"',
    ),
    "K8sovsBandwidthRefused": (
        {'k8sovs_bandwidth_refused_total{instance="n",cause="value"}': "0x60 1x20"},
        'instance="n", cause="value"',
    ),
    "K8sovsRecordUnreadable": (
        {'k8sovs_malformed_records_total{instance="n",kind="vnid"}': "0x60 1x20"},
        'instance="n", kind="vnid"',
    ),
    "K8sovsNoLeader": ({'k8sovs_leader{instance="n"}': "0x80"}, ""),
    "K8sovsTwoLeaders": ({'k8sovs_leader{instance="n"}': "1x80", 'k8sovs_leader{instance="m"}': "1x80"}, ""),
    "K8sovsLeaderChanges": ({'k8sovs_leadership_lost_total{instance="n"}': "0+1x80"}, ""),
    "K8sovsActionsRefused": (
        {'k8sovs_namespace_steps_total{instance="n",outcome="action-refused"}': "0x60 1x20"},
        "",
    ),
    "K8sovsWritesFail": ({'k8sovs_transaction_errors_total{instance="n"}': "0+1x80"}, 'instance="n"'),
    "K8sovsSubnetsScarce": (
        {
            'k8sovs_subnets_free{instance="n"}': "5x80",
            'k8sovs_subnets{instance="n"}': "64x80",
            'k8sovs_leader{instance="n"}': "1x80",
        },
        'instance="n"',
    ),
    "K8sovsSubnetProblem": (
        {'k8sovs_subnet_problems{instance="n"}': "1x80", 'k8sovs_leader{instance="n"}': "1x80"},
        'instance="n"',
    ),
    "K8sovsControllerBehind": ({'k8sovs_controller_backlog{instance="n"}': "7x80"}, 'instance="n"'),
}
"""By alert: samples, one each 15 s for 20 minutes, that make it fire, and the labels that it then has."""

HEALTHY = {
    'k8sovs_flows_current{instance="h"}': "1x40 0x1 1x39",
    'k8sovs_connected{instance="h",to="etcd"}': "1x40 0x3 1x37",
    'k8sovs_flow_backlog{instance="h"}': "0x40 2x1 0x39",
    'k8sovs_bundle_errors_total{instance="h",cause="rejected"}': "0x80",
    'k8sovs_bundle_errors_total{instance="h",cause="disconnected"}': "0x60 1x20",
    'k8sovs_flows_touched_total{instance="h"}': "0x80",
    'k8sovs_cni_errors_total{instance="h",verb="ADD",code="11"}': "0x20 1x60",
    'k8sovs_cni_call_duration_seconds_count{instance="h",verb="ADD"}': "0+5x80",
    'k8sovs_cni_call_duration_seconds_bucket{instance="h",verb="ADD",le="1"}': "0+5x80",
    'k8sovs_cni_call_duration_seconds_bucket{instance="h",verb="ADD",le="10"}': "0+5x80",
    'k8sovs_cni_call_duration_seconds_bucket{instance="h",verb="ADD",le="+Inf"}': "0+5x80",
    'k8sovs_pod_addresses_free{instance="h"}': "900x80",
    'k8sovs_pod_addresses_used{instance="h"}': "100x80",
    'k8sovs_dropped_packets_total{instance="h",table="pod_in"}': "0+1x80",
    'k8sovs_dropped_packets_total{instance="h",table="deliver"}': "0+900x80",
    'k8sovs_bandwidth_refused_total{instance="h",cause="value"}': "0x80",
    'k8sovs_malformed_records_total{instance="h",kind="vnid"}': "0x80",
    'k8sovs_leader{instance="h"}': "1x80",
    'k8sovs_leader{instance="standby"}': "0x80",
    'k8sovs_leadership_lost_total{instance="h"}': "0x40 1x40",
    'k8sovs_namespace_steps_total{instance="h",outcome="action-refused"}': "0x80",
    'k8sovs_namespace_steps_total{instance="h",outcome="action-carried-out"}': "0+1x80",
    'k8sovs_transaction_errors_total{instance="h"}': "0x80",
    'k8sovs_subnets_free{instance="h"}': "50x80",
    'k8sovs_subnets_free{instance="standby"}': "0x80",
    'k8sovs_subnets{instance="h"}': "64x80",
    'k8sovs_subnets{instance="standby"}': "64x80",
    'k8sovs_subnet_problems{instance="h"}': "0x80",
    'k8sovs_controller_backlog{instance="h"}': "0x40 9x3 0x37",
}
"""A cluster in which the odd thing happens that nobody need be told of."""


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def judge(directory: Path, series: dict[str, str], firing: list[str]) -> None:
    """Let promtool say whether exactly `firing`, as Prometheus writes series, fires after 20 minutes."""
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count without (alertstate, severity) (ALERTS{alertstate="firing"})',
                "eval_time": "20m",
                "exp_samples": [{"labels": labels, "value": 1} for labels in firing],
            }
        ],
    }
    file = directory / "case.yaml"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [case]}))
    promtool("test", "rules", file)


@pytest.mark.parametrize("alert", FIRES)
def test_an_alert_fires_for_what_it_is_about_and_no_other_does(alert: str, tmp_path: Path) -> None:
    series, labels = FIRES[alert]
    leader = {} if any("k8sovs_leader{" in name for name in series) else {'k8sovs_leader{instance="l"}': "1x80"}
    judge(tmp_path, series | leader, [f'{{alertname="{alert}"{", " if labels else ""}{labels}}}'])


def test_nothing_fires_in_a_healthy_cluster(tmp_path: Path) -> None:
    judge(tmp_path, HEALTHY, [])


def test_a_cluster_without_any_controller_has_no_leader(tmp_path: Path) -> None:
    judge(tmp_path, {'k8sovs_flows_current{instance="n"}': "1x80"}, ['{alertname="K8sovsNoLeader"}'])


def test_every_rule_has_a_case_a_severity_and_something_to_do() -> None:
    rules = re.split(r"^\s+- alert: ", RULES.read_text(), flags=re.MULTILINE)[1:]
    assert [rule.split()[0] for rule in rules] == list(FIRES)
    for rule in rules:
        assert re.search(r"severity: (page|ticket)\}", rule)
        assert re.search(r'action: ".{20,}"', rule)


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=["alerts", "dashboard"])
def test_only_documented_metrics_are_asked_for(file: Path) -> None:
    known = set(re.findall(r"^\| `(k8sovs_\w+)`", DOCUMENTED.read_text(), re.MULTILINE))
    asked = set(re.findall(r"\bk8sovs_[a-z_]+", file.read_text()))
    assert {re.sub(r"(?<=seconds)_(bucket|sum|count)$", "", name) for name in asked} <= known
