"""bench_shaping MBIT...: limits pods of a lab to these rates and prints what they get, a line for each direction.

goodput     of one TCP stream over 10 s, as a share of the limit (which counts Ethernet frames: 0.955 is all of it)
delay       what the median ping waits longer beside that stream than alone
fairness    Jain's index of four streams over 10 s
reaction    the time from the answer of kubectl, which changed an annotation of a running pod, to the changed qdisc
neighbours  the rate of two other pods of the node beside a limited stream, as a share of their rate without it
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from k8sovs.lab.waiting import PATIENCE

LAB = "bench-shaping"
K8SOVS = str(Path(sys.executable).parent / "k8sovs")
SECONDS = 10
PINGS = 30
DIRECTIONS = ("ingress", "egress")

Pod = Mapping[str, str]


def lab(*argv: str) -> str:
    done = subprocess.run([K8SOVS, "lab", *argv, "--name", LAB], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def add_pod(name: str, **limits: int) -> Pod:
    annotations = [f"kubernetes.io/{direction}-bandwidth={rate}" for direction, rate in limits.items()]
    options = [word for annotation in annotations for word in ("--annotation", annotation)]
    pod: Pod = json.loads(lab("pod", "add", f"bench/{name}", "--node", "node1", "--json", *options))
    return pod


def inside(pod: Pod, *argv: str) -> list[str]:
    return ["nsenter", f"--net={pod['netns']}", "--", *argv]


@contextmanager
def server(pod: Pod) -> Iterator[None]:
    """An iperf3 server in `pod`, listening."""
    process = subprocess.Popen(inside(pod, "iperf3", "--server", "--forceflush"), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "listening" not in process.stdout.readline():
            pass
        yield
    finally:
        process.kill()
        process.wait()


def start_stream(sender: Pod, target: Pod, *options: str, seconds: int = SECONDS) -> subprocess.Popen[str]:
    argv = inside(sender, "iperf3", "--client", target["ip"], "--json", "--time", str(seconds), *options)
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def rates(stream: subprocess.Popen[str]) -> list[float]:
    """Bit/s that reached the reader, of each connection."""
    output, _ = stream.communicate(timeout=SECONDS * 6 * PATIENCE)
    report = json.loads(output)
    if "error" in report:
        sys.exit(f"bench-shaping: iperf3 did not measure: {report['error']}")
    return [float(one["receiver"]["bits_per_second"]) for one in report["end"]["streams"]]


def median_ping_ms(sender: Pod, target: Pod) -> float:
    argv = inside(sender, "ping", "-n", "-i", "0.2", "-c", str(PINGS), target["ip"])
    output = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
    return statistics.median(
        float(line.partition("time=")[2].split()[0]) for line in output.splitlines() if "time=" in line
    )


def jain(shares: Sequence[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def measure(datapath: str, direction: str, mbit: int, free: Pod) -> str:
    limited = add_pod(f"{direction}-{mbit}", **{direction: mbit * 10**6})
    sender, target = (free, limited) if direction == "ingress" else (limited, free)
    with server(target):
        alone_ms = median_ping_ms(sender, target)
        stream = start_stream(sender, target)
        beside_ms = median_ping_ms(sender, target)
        (rate,) = rates(stream)
    with server(target):  # a new one: the other may still be busy with what was on its way
        four = rates(start_stream(sender, target, "--parallel", "4"))
    lab("pod", "del", f"bench/{direction}-{mbit}")
    share = rate / (mbit * 1e6)
    return (
        f"{datapath:<8}  {mbit:>5} Mbit/s  {direction:<9}  {rate / 1e6:>7.2f} Mbit/s  {share:>7.3f}  "
        f"{beside_ms - alone_ms:>6.1f} ms  {jain(four):>8.3f}"
    )


def neighbours(free: Pod, mbit: int) -> float:
    limited, other, peer = add_pod("limited", ingress=mbit * 10**6), add_pod("other"), add_pod("peer")
    with server(limited), server(peer):
        (alone,) = rates(start_stream(other, peer))
        busy = start_stream(free, limited, seconds=SECONDS + 2)
        (beside,) = rates(start_stream(other, peer))
        rates(busy)
    return beside / alone


def reaction_ms() -> list[float]:
    """Of adding a limit to a running pod, changing it twice, and removing it."""
    add_pod("live")
    status = json.loads(lab("status", "--json"))
    qdiscs = ["nsenter", f"--net={status['nodes'][0]['netns']}", "--", "tc", "qdisc"]
    annotate = ["kubectl", "--kubeconfig", status["apiserver"]["kubeconfig"], "-n", "bench", "annotate", "--overwrite"]
    times = []
    for change, shown in (("=7M", "rate 7Mbit"), ("=8M", "rate 8Mbit"), ("=9M", "rate 9Mbit"), ("-", "")):
        annotation = f"kubernetes.io/ingress-bandwidth{change}"
        subprocess.run([*annotate, "pod", "live", annotation], stdout=subprocess.DEVNULL, check=True)
        answered = time.monotonic()
        while not _shows(subprocess.run(qdiscs, stdout=subprocess.PIPE, text=True, check=True).stdout, shown):
            assert time.monotonic() < answered + 10 * PATIENCE, f"{annotation} is not in force"
        times.append((time.monotonic() - answered) * 1e3)
    return times


def _shows(qdiscs: str, shown: str) -> bool:
    return shown in qdiscs if shown else "tbf" not in qdiscs


def main() -> int:
    lab("down")
    try:
        lab("up", "--nodes", "1")
        datapath = json.loads(lab("status", "--json"))["datapath"]
        print(f"{datapath} datapath, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
        print("datapath         asked  direction        goodput    share      delay  fairness")
        free = add_pod("free")
        for mbit in map(int, sys.argv[1:]):
            for direction in DIRECTIONS:
                print(measure(datapath, direction, mbit, free), flush=True)
        print("reaction to a changed annotation: " + ", ".join(f"{ms:.0f} ms" for ms in reaction_ms()), flush=True)
        print(f"neighbours beside a pod limited to 10 Mbit/s: {neighbours(free, 10):.2f} of their rate without it")
    finally:
        lab("down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
