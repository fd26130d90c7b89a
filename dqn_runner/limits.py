"""The largest numbers that a setting takes: beyond them a machine fails, and with no line."""

MOST_THREADS = 1024  # torch crashes where the system gives it fewer than it was promised
MOST_ENVIRONMENTS = 10_000  # of a run, all in one process
MOST_EPISODES = 1_000_000  # of an evaluation; each has a seed that is drawn beforehand
MOST_JOBS = 100_000  # of a sweep; each is composed and checked beforehand
LONGEST_WAIT = 10_000_000.0  # seconds, four months; a system's clocks refuse what is beyond years
