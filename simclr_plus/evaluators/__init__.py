"""Evaluators: a frozen encoder and labelled images in, numbers out. None of them knows the trainer."""
