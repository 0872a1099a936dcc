"""Settings of every tier."""

from hypothesis import settings

# How long an example takes says something about the machine, not about the code: speed is measured in `make bench`.
settings.register_profile("k8sovs", deadline=None)
settings.load_profile("k8sovs")
