"""What agent, controller, command line and lab share: settings, records, the etcd store, Kubernetes, logs, metrics."""

__version__ = "0.1.0"
