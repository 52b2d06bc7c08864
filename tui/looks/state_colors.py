"""The colour of each state of a run, of the 16 that every terminal has."""

COLORS = {
    "running": "green",
    "starting": "green",
    "stopping": "yellow",
    "queued": "yellow",
    "finished": "blue",
    "failed": "red",
    "lost": "red",
    "stale": "red",
    "unreadable": "red",
    "gone": "red",
}
