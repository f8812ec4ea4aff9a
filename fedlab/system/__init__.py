"""What each way costs in bytes, seconds and joules."""
