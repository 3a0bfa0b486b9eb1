"""Set-up on the CPU: the network evaluated once per pattern of conductances, and again only where something changed."""
