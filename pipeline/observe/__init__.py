"""What a process says about itself: metrics, health, logs, and the HTTP server that shows them."""
