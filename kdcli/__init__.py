"""What all commands share: flags, config files, wording, progress, atomic writes. Imports neither cache nor kdlib."""
