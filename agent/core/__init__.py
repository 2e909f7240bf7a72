"""The agent without I/O: messages, results and the clock in; effects and the next deadline out."""
