"""The real haproxy and nginx on an edge host of a lab, as an operator would configure them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.lab import K8SOVS, LabUnderTest, eventually

HAPROXY_TCP, HAPROXY_HTTP, NGINX_STREAM, NGINX_HTTP = 8001, 8002, 8003, 8004
PORTS = {
    "haproxy tcp": HAPROXY_TCP,
    "haproxy http": HAPROXY_HTTP,
    "nginx stream": NGINX_STREAM,
    "nginx http": NGINX_HTTP,
}

HAPROXY = """
defaults
    timeout connect 1s
    timeout client 10s
    timeout server 10s
    retries 3
    option redispatch
    balance roundrobin
    default-server check inter 200ms fall 2 rise 1

frontend tcp
    bind :{HAPROXY_TCP}
    mode tcp
    default_backend tcp

backend tcp
    mode tcp
{servers}

frontend http
    bind :{HAPROXY_HTTP}
    mode http
    default_backend http

backend http
    mode http
    option httpchk GET /
{servers}
"""

NGINX = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
stream {{
    proxy_connect_timeout 1s;
    upstream pods {{
        {servers}
    }}
    server {{
        listen {NGINX_STREAM};
        proxy_pass pods;
    }}
}}
http {{
    access_log off;
    client_body_temp_path {directory};
    proxy_temp_path {directory};
    fastcgi_temp_path {directory};
    uwsgi_temp_path {directory};
    scgi_temp_path {directory};
    proxy_connect_timeout 1s;
    upstream pods {{
        {servers}
    }}
    server {{
        listen {NGINX_HTTP};
        location / {{
            proxy_pass http://pods;
        }}
    }}
}}
"""


@dataclass
class Balancers:
    """haproxy and nginx on an edge host, in front of `servers` (HOST:PORT by name); both have each of them twice."""

    lab: LabUnderTest
    host: str
    servers: Mapping[str, str]
    directory: Path

    def __enter__(self) -> Self:
        ports = {name: value for name, value in globals().items() if name.startswith(("HAPROXY_", "NGINX_"))}
        lines = [f"    server {name} {address}" for name, address in self.servers.items()]
        haproxy = self.directory / "haproxy.cfg"
        haproxy.write_text(HAPROXY.format(servers="\n".join(lines), **ports))
        lines = [f"server {address} max_fails=1 fail_timeout=30s;" for address in self.servers.values()]
        nginx = self.directory / "nginx.conf"
        nginx.write_text(NGINX.format(servers=" ".join(lines), directory=self.directory, **ports))
        self._processes = [
            self._start("haproxy", "-db", "-f", str(haproxy)),
            self._start("nginx", "-c", str(nginx), "-e", str(self.directory / "error.log"), "-g", "daemon off;"),
        ]
        for port in ports.values():
            listening = ("exec", self.host, "--", "ss", "-Hltn", f"sport = :{port}")
            eventually(lambda listening=listening: self.lab(*listening), f"somebody listens on {port}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            # A session of its own: the master's workers go along.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=20)

    def _start(self, *argv: str) -> subprocess.Popen[bytes]:
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            K8SOVS,
            "lab",
            "exec",
            "--name",
            self.lab.name,
            self.host,
            "--",
            *argv,
        ]
        log = (self.directory / f"{argv[0]}.log").open("wb")
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
