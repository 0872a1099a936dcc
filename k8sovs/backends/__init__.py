"""The pods behind Services, for a load balancer outside the cluster: found, written as its configuration, kept current.

Kubernetes alone is asked. `model` decides who is a backend and `render` writes the list down, both pure; `follow` keeps
what Kubernetes says, `publish` writes the file and has it read.
"""

from k8sovs.backends.follow import BackendSource, resolve_once
from k8sovs.backends.model import Backend, BackendList, Target, Unresolved, resolve
from k8sovs.backends.publish import Publisher, write_atomically
from k8sovs.backends.render import Format, render

__all__ = [
    "Backend",
    "BackendList",
    "BackendSource",
    "Format",
    "Publisher",
    "Target",
    "Unresolved",
    "render",
    "resolve",
    "resolve_once",
    "write_atomically",
]
