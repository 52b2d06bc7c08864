"""Whether it works here: the demo, the doctor, the proof that processes agree."""
