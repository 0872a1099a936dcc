"""A whole cluster on one machine: nodes as network namespaces, real etcd, real Open vSwitch, a small Kubernetes.

`layout` says where everything of a lab is and how it is called; `supervisor` is the one process that builds a lab and
keeps it running; `teardown` removes it, whatever state it is in. The command line talks to the supervisor through
`control`.
"""
