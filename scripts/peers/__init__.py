"""What recording is compared with: other ways to get a generation's attention, each in a file of its own."""
