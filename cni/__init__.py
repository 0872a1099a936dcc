"""The Container Network Interface as data: requests, results, errors, conf files; the executable is in shim/."""
