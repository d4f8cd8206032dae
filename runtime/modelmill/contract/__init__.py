"""What the operator and its pods say to each other, versioned from the first day.

The operator writes a job file (or a service file) into a pod's environment; launchers report to the operator and are
told which attempt to run; every stage leaves one small result as its termination message. Nothing here imports more
than the standard library, so both sides can afford it. A new operator keeps understanding the pods of an old one:
fields are only ever added, unknown fields are ignored, and `CONTRACT_VERSION` rises when a meaning changes.
"""

CONTRACT_VERSION = 1
