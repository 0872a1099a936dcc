"""The node daemon: one module for each device it owns, the CNI server, and the reconciler between them."""
