"""The package as a whole."""

import subprocess
import sys


def test_reading_needs_no_jax() -> None:
    code = (
        "import sys, autoshard.verify as v\n"
        "text = 'HloModule m\\nENTRY %e (p: f32[2]) -> f32[2] {\\n'\n"
        "text += '  ROOT %p = f32[2]{0} parameter(0)\\n}\\n'\n"
        "assert v.collectives(text, {'x': 1}) == ()\n"
        "v.involuntary_rematerializations('', text)\n"
        "assert 'jax' not in sys.modules, 'jax was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
