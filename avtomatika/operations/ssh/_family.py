"""The family of operations over SSH."""

from __future__ import annotations

from avtomatika.operations.base import Family
from avtomatika.operations.ssh.judge import SCP_CODES, SSH_CODES, judge

family = Family("ssh", extra="ssh", modules=("paramiko", "fabric"), slots=8, slots_of={"tunnel": 16}, judge=judge(SSH_CODES))
#: Of the transfers: the same causes under codes of their own.
scp_judge = judge(SCP_CODES)
