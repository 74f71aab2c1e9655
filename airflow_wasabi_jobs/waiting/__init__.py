"""What the sensors and the submit operator share: how a wait polls, logs, times out and ends."""
