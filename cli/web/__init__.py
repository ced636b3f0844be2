"""What the servers on this machine share: where they listen, and who may use them."""
