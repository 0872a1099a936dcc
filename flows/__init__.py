"""The switch, as data: table map, matches and actions, the OpenFlow codec, and the desired flows of a node.

Nothing here does input or output. The agent hands in a `flows.snapshot.Snapshot` and gets back every flow that
the switch should hold; bytes go in and come out of `flows.openflow` without a socket in sight.
"""
