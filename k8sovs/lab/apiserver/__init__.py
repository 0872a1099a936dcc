"""A small Kubernetes API server, in memory, for the lab.

It keeps objects of the kinds that a network plugin and its users meet, and treats them as the real one does wherever a
client can tell: versions, watches, patches, selectors, graceful deletion, status, tables for kubectl. It has no
authentication, no admission beyond what is written here, no custom resources and no persistence.

From the inside out: `store` keeps versions and their history; `registry` gives them the meaning of an API, with the
peculiarities of single kinds in `strategies`; `server` speaks HTTP, with `watch` for streams and `tables` for people.
`patch`, `selectors`, `protobuf` and `resources` are pure and know nothing of the others.
"""
