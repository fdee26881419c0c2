"""How several processes on this machine are told to join, for tests and endurance/kill.py."""

import socket


def joining(num_processes):
    """Return the arguments that each process of a job needs, beside its script's: a coordinator at
    a free port of this machine.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = [
        "--coordinator_address",
        f"127.0.0.1:{port}",
        "--num_processes",
        str(num_processes),
        "--process_id",
    ]
    return [[*where, str(process)] for process in range(num_processes)]
