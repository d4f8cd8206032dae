"""All the I/O of the operator: it observes, asks a planner what to do, and does it.

kopf watches (`watch`) and fills the `store`; what changed is put into the `queue`; the workers of `loop` take keys from it, plan
and `execute`, while they hold the `lease`. `sweep` finds what a watch missed, `reports` answers launchers, `scaling` asks
servers for their load, `health` and `metrics` tell how it goes, `app` puts the pieces together.
"""
