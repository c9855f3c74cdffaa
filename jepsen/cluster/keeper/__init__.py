"""The keeper: one process per cluster that owns the node processes, their network namespaces and the traffic.

It ends when the suite does, whatever ended that: its standard input closes. Then it kills its nodes; unnamed
namespaces, devices, proxies and ports vanish with it. Were the keeper itself killed, the kernel kills the nodes
(PR_SET_PDEATHSIG, which is of the thread that forked: the reason why the suite's threads do not fork nodes).
Runs one thread with an asyncio loop. The suite's end of the line is jepsen/cluster/keeping.py.
"""
