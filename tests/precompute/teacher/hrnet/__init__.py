"""Tests of HRNet, and its parity with the official code."""
