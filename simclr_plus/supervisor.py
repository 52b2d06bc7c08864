"""launch/supervisor.py by the name that batch scripts of version 0.1.0 call: `python -m simclr_plus.supervisor RUN`.

A job may wait for days, and it returns to the queue at each time limit: its script goes on to work.
"""

from simclr_plus.launch.supervisor import main

if __name__ == "__main__":
    main()
