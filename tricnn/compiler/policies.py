"""Which rules of fusion are used: what ``fuse=`` and ``--fuse`` accept.

    none                   no rule: one kernel for each layer
    epilogue               pointwise chains only, at the end of the kernel before them: what every compiler does
    all                    every rule wherever it is legal: the fewest bytes
    auto                   every rule of ``all`` where it is predicted to be faster, for this batch and this GPU
    prologue,side_sums     these rules (any of ``RULES``), and no other

Each uses more rules than the one above it (``auto`` at most those of ``all``). The rules' equations
are in fusion/, a file for each (fuser.py lists them).
"""

from __future__ import annotations

from ..system.errors import TargetError

RULES = ("epilogue", "pooling", "prologue", "side_sums", "siblings", "hosting", "placement", "merging", "at_hand")
POLICIES = ("auto", "all", "none")


def policy_named(fuse: object) -> str:
    """The policy that a user means: True is ``auto``, False is ``none``; rules are put in the order of RULES.

    Raises TargetError, listing what is accepted, for anything else.
    """
    if isinstance(fuse, bool):
        return "auto" if fuse else "none"
    if fuse in POLICIES:
        return str(fuse)
    named = [rule.strip() for rule in fuse.split(",")] if isinstance(fuse, str) else []
    if not named or not set(named) <= set(RULES):
        accepted = f"{', '.join(POLICIES)}, or rules with commas between, of {', '.join(RULES)}"
        raise TargetError(f"fuse {str(fuse)[:60]!r} is not a policy; accepted: {accepted}")
    return ",".join(rule for rule in RULES if rule in named)


def rules_of(policy: str) -> frozenset[str]:
    """The rules that a policy (as :func:`policy_named` gives it) may use."""
    if policy == "none":
        return frozenset()
    return frozenset(RULES if policy in POLICIES else policy.split(","))
