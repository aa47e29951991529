"""One line a case and one at the end, as CI reads them; shared by the suites in Python."""

import asyncio
import hashlib
import os
import reprlib
import traceback

DEADLINE = 60


def digest(data):
    return hashlib.sha256(data).hexdigest()


def same(got, wanted, what):
    assert got == wanted, f"{what}: {reprlib.repr(got)}, wanted {reprlib.repr(wanted)}"


class Report:
    passed = failed = 0

    async def run(self, name, case):
        try:
            async with asyncio.timeout(DEADLINE):
                await case()
        except Exception as error:
            self.failed += 1
            print(f"FAILED  {name}\n{''.join(traceback.format_exception(error, limit=-4))}", flush=True)
        else:
            self.passed += 1
            print(f"ok      {name}", flush=True)

    async def run_all(self, scheme, cases):
        for name in dir(cases):
            if "_" in name and not name.startswith("_"):
                await self.run(f"{scheme}: {name.replace('_', ' ')}", getattr(cases, name))

    def finish(self):
        """Prints the closing line and ends the process: with 1 where a case failed, or where none ran."""
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        # Not waiting for the server's connections: a failed case may have left one that never ends.
        os._exit(0 if self.passed and not self.failed else 1)
