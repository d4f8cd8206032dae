"""The load generator behind `modelmill bench`.

The command makes one request (`inputs`), hands it to a process of its own (`worker`) that does nothing but send it
(`loops`, `connection`), and draws what that tells each second (`table`, `summary`): drawing takes milliseconds that would
otherwise be in somebody's latency.

A closed loop keeps N requests under way and sends the next when one was answered: it finds the throughput. An open loop
sends at random times of a given rate, like many independent clients (a Poisson process). Its latencies count from the
time at which a request was *due*, not from when it could be sent: a server that stalls is charged for everybody who had
to wait, which is what Gil Tene calls avoiding coordinated omission ("How NOT to Measure Latency", 2013).
"""
