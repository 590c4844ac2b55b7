"""Verification: whether a solution computes what it is timed for, on every call and not only on those that are looked at.

`judge` drives it. The parent process makes cases, holds the references and compares; the solution runs in a child
(`child`), which is told what to do call by call (`protocol`) and hands back every output.
"""
