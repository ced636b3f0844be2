"""What people read: events as lines of the console, and how they look in a terminal."""
