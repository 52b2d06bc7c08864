"""What several screens show: dialogs, the bar of keys, tables."""
