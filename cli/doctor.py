"""`d2st doctor`: what is installed and what of it really works, as text to paste into a bug report."""

import json
import subprocess
import sys
from typing import Annotated

import typer

from d2st.cli.checks import GROUPS, MARK, Check
from d2st.cli.show import print_json, stderr, stdout

__all__ = ["diagnose", "doctor"]

GROUP_TIMEOUT_S = 120.0  # importing torch from a slow network disk takes a minute


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False) -> None:
    """Try what d2st needs: packages, device, decoders, checksums, face detector, disk.

    Every line says ok, warning (works, but slower or with less) or problem, and how to mend it. Exit code 1 when there is a problem.

    \b
    Examples:
        d2st doctor
        d2st doctor --json > doctor.json
    """
    checks = diagnose()
    problems = sum(check.status == "problem" for check in checks)
    warnings = sum(check.status == "warning" for check in checks)
    if as_json:
        from dataclasses import asdict

        print_json({"problems": problems, "warnings": warnings, "checks": [asdict(check) for check in checks]})
    else:
        styles = {"ok": "", "warning": "yellow", "problem": "red"}
        for check in checks:
            line = f"{check.status:8} {check.name:20} {check.detail}"
            stdout().print(line, style=styles[check.status], markup=False, soft_wrap=True)
            if check.fix:
                stdout().print(f"{'':29} fix: {check.fix}", markup=False, soft_wrap=True)
        stderr().print(f"{problems} problems, {warnings} warnings", markup=False)
    if problems:
        raise typer.Exit(1)


def diagnose(*, timeout_s: float = GROUP_TIMEOUT_S) -> list[Check]:
    """All checks in order, each group in its own process; a group that dies or hangs gives a problem in place of the rest."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        groups = pool.map(lambda group: _run(group, timeout_s=timeout_s), GROUPS)
        return [check for checks in groups for check in checks]


def _run(group: str, *, timeout_s: float) -> list[Check]:
    # -P: a file of the current folder that is called like a package must not be imported in its place
    command = [sys.executable, "-P", "-m", "d2st.cli.checks", group]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        checks = _parsed(output.decode(errors="replace") if isinstance(output, bytes) else output)
        return [*checks, _broken(group, checks, f"did not end within {timeout_s:g} s")]
    checks = _parsed(done.stdout)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        checks.append(_broken(group, checks, " ".join([f"ended with code {done.returncode}", *last])[:300]))
    return checks


def _parsed(output: str) -> list[Check]:
    return [Check(**json.loads(line.removeprefix(MARK))) for line in output.splitlines() if line.startswith(MARK)]


def _broken(group: str, checks: list[Check], what: str) -> Check:
    after = f" after {checks[-1].name}" if checks else ""
    return Check(f"{group} checks", "problem", f"the process {what}{after}", f"Try it alone: python -m d2st.cli.checks {group}")
