"""What the run folders say: runs, curves, alarms, machines, logs."""
