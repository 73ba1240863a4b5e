"""The pair under fire: two replicas and their clients in network namespaces, and one replica made to fail.

sites        namespaces, addresses, links; what is done to a link
replicas     stores, daemons, and who starts them again
programs     Kamailio, Unbound and keepalived beside them
askers       who asks, in a process of its own: one line for each question
injections   what is done to one replica, and undone
report       figures of what was asked, the table, what is kept
__main__     `python -m bench.faults`
"""
