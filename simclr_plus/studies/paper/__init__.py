"""Which experiments the paper reports: a file each, with its plan and its page."""
