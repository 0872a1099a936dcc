import json
import subprocess
import sys


def test_an_event_is_one_line_of_json_with_its_values() -> None:
    program = (
        "from k8sovs import logs; logs.configure(form=logs.LogFormat.JSON);"
        "logs.get_logger('agent').info('pod-attached', pod='a/b', address='172.11.0.2')"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    event = json.loads(output)
    assert output.count("\n") == 1
    assert (event["event"], event["level"], event["pod"]) == ("pod-attached", "info", "a/b")
