"""Tests of kdcli/."""
