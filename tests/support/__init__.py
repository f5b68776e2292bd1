"""What tests share: small stores, tiny runs, servers on loopback, a browser."""
