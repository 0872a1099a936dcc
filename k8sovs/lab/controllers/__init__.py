"""What a cluster's controller manager and scheduler do, as far as the users of a pod network meet it.

Each controller is a pure plan: from the objects as they are to the writes that are missing. `loop` watches the API,
asks every plan after every change, and carries out what they say; a write that came too late is planned again. They
are clients of the API like any other, and so work with the embedded server and with the real one.

Not here, though the real ones have it: rollback and surge limits of Deployments, taints and resources in scheduling,
adoption of pods, deletion that orphans.
"""
