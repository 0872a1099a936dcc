"""The cluster daemon: allocates VNIs and node subnets, and carries out what operators ask of a namespace."""
